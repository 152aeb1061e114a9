/** From a file to the pixels that a graph takes: upright RGBA, large ones reduced by the same rule as in Python. */

import { Refused } from "./faults.js";
import { inspect } from "./header.js";
import { unpackPixels } from "./png.js";

const OVERSAMPLE = 3; // both sides keep at least so many times the network's own: see leanmed.reading.images
const STRIP_PIXELS = 4000000; // that are taken from the browser's decoder at a time, for telephones have little memory
const DRAFTS = [2, 4, 8]; // the scales at which Python's decoder of JPEG can decode
const FACTORS = Array.from({ length: 63 }, (_, index) => index + 2);

/**
 * Pixels of an image's file.
 *
 * @param {Blob} file
 * @param {{side: number, reduced: boolean, min_side: number}} input what the graph takes
 * @param {{max_bytes: number, max_pixels: number}} limits
 * @returns {Promise<{pixels: Uint8Array, width: number, height: number, scale: number}>} (h, w, 4); `scale` is how many
 *     pixels of the whole image a pixel's side is long
 * @throws {Refused} it cannot be read as one image, or is over a limit
 */
export async function readImage(file, input, limits) {
  if (file.size > limits.max_bytes) throw new Refused("bytes");
  const bytes = new Uint8Array(await file.arrayBuffer());
  const header = inspect(bytes);
  if (header.width * header.height > limits.max_pixels) throw new Refused("pixels");
  if (Math.min(header.width, header.height) < input.min_side) throw new Refused("small");
  const whole = await decode(file);
  try {
    const sides = [whole.width, whole.height].sort((a, b) => a - b);
    if ([header.width, header.height].sort((a, b) => a - b).join() !== sides.join()) throw new Refused("damaged");
    if (header.alpha && !isOpaque(whole)) {
      if (header.turned) throw new Refused("turned"); // browsers then forget the colours as a canvas does
      const stored = header.kind === "png" ? await unpackPixels(bytes) : null;
      return { ...(stored ?? transparentPixels(whole)), scale: 1 };
    }
    const factor = input.reduced ? reduction(header, input.side) : 1;
    return { ...pixelsOf(whole, factor), scale: factor };
  } finally {
    whole.close();
  }
}

/**
 * The browser's own decoding: turned upright, colours as stored.
 *
 * @param {Blob} file
 * @param {object} more options of createImageBitmap, such as the width to reduce to
 */
export async function decode(file, more = {}) {
  try {
    return await createImageBitmap(file, {
      imageOrientation: "from-image",
      colorSpaceConversion: "none",
      premultiplyAlpha: "none",
      ...more,
    });
  } catch {
    throw new Refused("damaged");
  }
}

/** Whether the browser gives the pixels that were drawn: some change them a little, so that pages cannot tell users apart. */
export async function readsTruly() {
  const side = 64;
  const noise = crypto.getRandomValues(new Uint8ClampedArray(side * side * 4)).map((v, at) => (at % 4 === 3 ? 255 : v));
  const bitmap = await createImageBitmap(new ImageData(noise, side, side), { colorSpaceConversion: "none" });
  const { pixels } = pixelsOf(bitmap, 1);
  return pixels.every((value, at) => value === noise[at]);
}

/** Pixels with alpha as they are stored, by way of WebGL: a 2D canvas forgets the colour of what is transparent. */
function transparentPixels(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) throw new Refused("transparent");
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const pixels = new Uint8Array(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  const failed = gl.getError() !== gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext(); // browsers keep a few of these at most
  if (failed) throw new Refused("transparent");
  return { pixels, width, height };
}

/** By how much an opaque image is reduced; JPEG in two steps, as Python does, which decodes it smaller first. */
function reduction({ kind, width, height }, side) {
  const draft = kind === "jpeg" ? largestFactor(width, height, side, DRAFTS) : 1;
  return draft * largestFactor(width / draft, height / draft, side, FACTORS);
}

/** The largest factor that leaves OVERSAMPLE x side, and no remainder, which would shift the image. */
function largestFactor(width, height, side, factors) {
  const room = Math.floor(Math.min(width, height) / (OVERSAMPLE * side));
  return Math.max(1, ...factors.filter((f) => f <= room && width % f === 0 && height % f === 0));
}

function* stripsOf(bitmap, multiple) {
  const rows = multiple * Math.max(1, Math.floor(STRIP_PIXELS / bitmap.width / multiple));
  const canvas = new OffscreenCanvas(bitmap.width, Math.min(rows, bitmap.height));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < bitmap.height; top += rows) {
    const height = Math.min(rows, bitmap.height - top);
    context.clearRect(0, 0, bitmap.width, height);
    context.drawImage(bitmap, 0, -top);
    yield { top, height, data: context.getImageData(0, 0, bitmap.width, height).data };
  }
  canvas.width = 0; // telephones hold few large canvases, and are slow to let go of them
}

function isOpaque(bitmap) {
  for (const { data } of stripsOf(bitmap, 1)) {
    for (let at = 3; at < data.length; at += 4) if (data[at] !== 255) return false;
  }
  return true;
}

function pixelsOf(bitmap, factor) {
  const width = bitmap.width / factor;
  const height = bitmap.height / factor;
  const pixels = new Uint8Array(width * height * 4);
  for (const strip of stripsOf(bitmap, factor)) {
    const reduced = factor === 1 ? strip.data : averaged(strip.data, bitmap.width, strip.height, factor);
    pixels.set(reduced, (strip.top / factor) * width * 4);
  }
  return { pixels, width, height };
}

/** The mean of each square of factor x factor pixels, rounded as Pillow's `reduce` does, alpha being 255. */
function averaged(data, width, height, factor) {
  const columns = width / factor;
  const reduced = new Uint8Array(columns * (height / factor) * 4).fill(255);
  const sums = new Uint32Array(columns * 3);
  const half = Math.floor((factor * factor) / 2);
  const share = Math.floor(2 ** 24 / (factor * factor));
  for (let row = 0; row < height; row += 1) {
    let at = row * width * 4;
    for (let column = 0; column < columns; column += 1) {
      for (let step = 0; step < factor; step += 1, at += 4) {
        sums[column * 3] += data[at];
        sums[column * 3 + 1] += data[at + 1];
        sums[column * 3 + 2] += data[at + 2];
      }
    }
    if ((row + 1) % factor === 0) {
      let to = ((row + 1) / factor - 1) * columns * 4;
      for (let column = 0; column < columns; column += 1, to += 4) {
        for (let c = 0; c < 3; c += 1) reduced[to + c] = Math.floor(((sums[column * 3 + c] + half) * share) / 2 ** 24);
      }
      sums.fill(0);
    }
  }
  return reduced;
}
