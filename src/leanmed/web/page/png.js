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
 * Back from a PNG of one channel in base64.
 *
 * @param {string} packed
 * @returns {Promise<{plane: Uint8Array, width: number, height: number}>}
 */
export async function unpackPlane(packed) {
  const file = new Blob([fromBase64(packed)], { type: "image/png" });
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, bitmap.width, bitmap.height);
  const plane = Uint8Array.from({ length: bitmap.width * bitmap.height }, (_, at) => data[4 * at]);
  return { plane, width: bitmap.width, height: bitmap.height };
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
