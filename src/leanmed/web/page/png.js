/** PNG of 8 bits: planes in base64, as lines of answers hold masks, and back; and pixels with alpha as they are stored. */

import { Refused } from "./faults.js";

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
  const { width, height, rows } = await unpackRows(bytes, 1);
  return { plane: unfiltered(rows, width, height, 1), width, height };
}

/**
 * Red, green, blue and alpha of a PNG as they are stored: a canvas forgets the colour of what is transparent.
 *
 * @param {Uint8Array} bytes of a whole file, whose parts and size have been looked at
 * @returns {Promise<{pixels: Uint8Array, width: number, height: number} | null>} (h, w, 4); null: it has other pixels than
 *     four times 8 bits, row by row
 */
export async function unpackPixels(bytes) {
  const [bits, colours, , , interlaced] = bytes.subarray(24, 29);
  if (bits !== 8 || colours !== 6 || interlaced) return null;
  const { width, height, rows } = await unpackRows(bytes, 4);
  return { pixels: unfiltered(rows, 4 * width, height, 4), width, height };
}

function* chunksOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = SIGNATURE.length; at < bytes.length; at += view.getUint32(at) + 12) {
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    yield { name, content: bytes.subarray(at + 8, at + 8 + view.getUint32(at)) };
    if (name === "IEND") return; // whatever follows is none of the image
  }
}

/** The rows of a PNG with so many bytes for a pixel, each after its filter's number. */
async function unpackRows(bytes, step) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const width = view.getUint32(16);
  const height = view.getUint32(20);
  const parts = [...chunksOf(bytes)].filter(({ name }) => name === "IDAT").map(({ content }) => content);
  const rows = new Uint8Array((step * width + 1) * height);
  const reader = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  let count = 0;
  try {
    for (let part = await reader.read(); !part.done && count < rows.length; part = await reader.read()) {
      rows.set(part.value.subarray(0, rows.length - count), count);
      count += part.value.length;
    }
    await reader.cancel(); // what comes after the last row is not looked at, however much it is
  } catch {
    throw new Refused("damaged");
  }
  if (count < rows.length) throw new Refused("damaged");
  return { width, height, rows };
}

/** Rows as PNG filters them (W3C PNG, section 9), each after its filter's number, to the values. */
function unfiltered(rows, stride, height, step) {
  const values = new Uint8Array(stride * height);
  for (let y = 0; y < height; y += 1) {
    const from = y * (stride + 1);
    for (let x = 0; x < stride; x += 1) {
      const at = y * stride + x;
      const left = x >= step ? values[at - step] : 0;
      const above = y ? values[at - stride] : 0;
      const corner = x >= step && y ? values[at - stride - step] : 0;
      values[at] = rows[from + 1 + x] + guess(rows[from], left, above, corner);
    }
  }
  return values;
}

function guess(filter, left, above, corner) {
  if (filter === 1) return left;
  if (filter === 2) return above;
  if (filter === 3) return (left + above) >> 1;
  return filter === 4 ? paeth(left, above, corner) : 0;
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
