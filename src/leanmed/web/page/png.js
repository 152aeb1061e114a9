/** Planes of 8 bits as PNG in base64, as lines of answers hold masks, and back. */

const SIGNATURE = [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a];
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let c = n;
  for (let k = 0; k < 8; k += 1) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  return c;
});

/**
 * A plane (h, w) as a PNG of one channel, in base64.
 *
 * @param {Uint8Array} plane
 * @param {number} width
 * @param {number} height
 */
export async function packPlane(plane, width, height) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = 8; // bits; all further fields are 0: grey, and no filter
  const rows = new Uint8Array((width + 1) * height);
  for (let row = 0; row < height; row += 1) {
    rows.set(plane.subarray(row * width, (row + 1) * width), row * (width + 1) + 1);
  }
  const stream = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const packed = new Uint8Array(await new Response(stream).arrayBuffer());
  const parts = [Uint8Array.from(SIGNATURE), chunk("IHDR", header), chunk("IDAT", packed), chunk("IEND", [])];
  return toBase64(new Uint8Array(await new Blob(parts).arrayBuffer()));
}

/**
 * Back from a PNG of one channel of 8 bits in base64, without a canvas, whose values some browsers change.
 *
 * @param {string} packed
 * @returns {Promise<{plane: Uint8Array, width: number, height: number}>}
 */
export async function unpackPlane(packed) {
  const bytes = fromBase64(packed);
  const view = new DataView(bytes.buffer);
  const width = view.getUint32(16);
  const height = view.getUint32(20);
  const parts = [];
  for (let at = 8; at < bytes.length; at += view.getUint32(at) + 12) {
    const isData = bytes[at + 4] === 0x49 && bytes[at + 5] === 0x44; // IDAT
    if (isData) parts.push(bytes.subarray(at + 8, at + 8 + view.getUint32(at)));
  }
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(stream).arrayBuffer());
  return { plane: unfiltered(rows, width, height), width, height };
}

/** Rows as PNG filters them (W3C PNG, section 9), each after its filter's number, to the values. */
function unfiltered(rows, width, height) {
  const plane = new Uint8Array(width * height);
  for (let y = 0; y < height; y += 1) {
    const filter = rows[y * (width + 1)];
    for (let x = 0; x < width; x += 1) {
      const at = y * width + x;
      const left = x ? plane[at - 1] : 0;
      const above = y ? plane[at - width] : 0;
      const corner = x && y ? plane[at - width - 1] : 0;
      const guesses = [0, left, above, (left + above) >> 1, filter === 4 ? paeth(left, above, corner) : 0];
      plane[at] = rows[y * (width + 1) + 1 + x] + guesses[filter];
    }
  }
  return plane;
}

function paeth(left, above, corner) {
  const [byLeft, byAbove, byCorner] = [left, above, corner].map((value) => Math.abs(left + above - corner - value));
  if (byLeft <= byAbove && byLeft <= byCorner) return left;
  return byAbove <= byCorner ? above : corner;
}

/** Bytes of a text in base64. */
export function fromBase64(content) {
  return Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
}

function toBase64(bytes) {
  let letters = "";
  for (let at = 0; at < bytes.length; at += 32768) letters += String.fromCharCode(...bytes.subarray(at, at + 32768));
  return btoa(letters);
}

function chunk(name, content) {
  const made = new Uint8Array(content.length + 12);
  const view = new DataView(made.buffer);
  view.setUint32(0, content.length);
  for (let at = 0; at < 4; at += 1) made[4 + at] = name.charCodeAt(at);
  made.set(content, 8);
  let c = 0xffffffff;
  for (let at = 4; at < content.length + 8; at += 1) c = CRC_TABLE[(c ^ made[at]) & 255] ^ (c >>> 8);
  view.setUint32(content.length + 8, (c ^ 0xffffffff) >>> 0);
  return made;
}
