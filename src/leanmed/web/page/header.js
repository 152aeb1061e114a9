/** What the parts of an image's file say, checked before anything is decoded. */

import { Refused } from "./faults.js";

const MOST_CHUNKS = 200000; // of a PNG; each is walked over
const MOST_SCANS = 100; // of a JPEG: decoders walk over the whole image once for each
const MOST_SIDE = 32767; // pixels that a canvas can be wide
const ORIENTATION = 0x0112; // in EXIF

/**
 * Kind, size in pixels as stored (before it is turned upright), whether there may be transparent places, and of PNG
 * whether it is to be turned.
 *
 * @param {Uint8Array} bytes of the whole file
 * @returns {{kind: string, width: number, height: number, alpha: boolean, turned: boolean | undefined}}
 * @throws {Refused} it is none of the formats, is cut off, has several frames, or browsers do not read it as Python does
 */
export function inspect(bytes) {
  const found = inspectAny(bytes);
  if (Math.max(found.width, found.height) > MOST_SIDE) throw new Refused("pixels");
  return found;
}

function inspectAny(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const starts = (...wanted) => wanted.every((value, at) => bytes[at] === value);
  try {
    if (starts(0xff, 0xd8, 0xff)) return inspectJpeg(view);
    if (starts(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a)) return inspectPng(view);
    if (starts(0x52, 0x49, 0x46, 0x46) && nameAt(view, 8) === "WEBP") return inspectWebp(view);
    if (starts(0x42, 0x4d)) return inspectBmp(view);
  } catch (error) {
    if (error instanceof RangeError) throw new Refused("cut_off");
    throw error;
  }
  throw new Refused(formOf(view));
}

/** Why bytes that are none of these formats are refused. */
function formOf(view) {
  if (view.byteLength === 0) return "empty";
  const first = view.byteLength < 4 ? "" : nameAt(view, 0);
  const isDicom = view.byteLength > 132 && nameAt(view, 128) === "DICM";
  const isHeic = view.byteLength > 12 && nameAt(view, 4) === "ftyp";
  return isDicom || isHeic || ["II*\0", "MM\0*", "GIF8", "%PDF"].includes(first) ? "elsewhere" : "no_image";
}

function nameAt(view, at) {
  return String.fromCharCode(...[0, 1, 2, 3].map((step) => view.getUint8(at + step)));
}

function inspectJpeg(view) {
  let found = null;
  let scans = 0;
  let at = 2;
  for (;;) {
    while (view.getUint8(at) !== 0xff) at += 1;
    while (view.getUint8(at) === 0xff) at += 1;
    const marker = view.getUint8(at);
    at += 1;
    if (marker === 0xd9) break;
    if (marker <= 1 || (marker >= 0xd0 && marker <= 0xd8)) continue;
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame && !found) {
      found = { kind: "jpeg", height: view.getUint16(at + 3), width: view.getUint16(at + 5), alpha: false };
    }
    if (marker === 0xda) scans += 1;
    if (scans > MOST_SCANS) throw new Refused("damaged");
    at += view.getUint16(at);
  }
  if (!found || scans === 0) throw new Refused("cut_off");
  return found;
}

function inspectPng(view) {
  const found = { kind: "png", width: view.getUint32(16), height: view.getUint32(20), alpha: view.getUint8(25) >= 4 };
  let at = 8;
  for (let chunk = 0; chunk < MOST_CHUNKS; chunk += 1) {
    const name = nameAt(view, at + 4);
    if (name === "acTL" && view.getUint32(at + 8) > 1) throw new Refused("frames");
    if (name === "tRNS") found.alpha = true;
    if (name === "eXIf") found.turned = orientationAt(view, at + 8) > 1;
    at += view.getUint32(at) + 12;
    if (at > view.byteLength) throw new Refused("cut_off");
    if (name === "IEND") return found;
  }
  throw new Refused("no_image");
}

function inspectWebp(view) {
  if (view.getUint32(4, true) + 8 > view.byteLength) throw new Refused("cut_off");
  const form = nameAt(view, 12);
  const size24 = (at) => 1 + view.getUint16(at, true) + 65536 * view.getUint8(at + 2);
  if (form === "VP8X") {
    const flags = view.getUint8(20);
    if (flags & 0x02) throw new Refused("frames");
    if (flags & 0x08 && exifOrientation(view) > 1) throw new Refused("turned"); // browsers do not turn WebP
    return { kind: "webp", width: size24(24), height: size24(27), alpha: true };
  }
  if (form === "VP8L") {
    const bits = view.getUint32(21, true);
    return { kind: "webp", width: 1 + (bits & 0x3fff), height: 1 + ((bits >> 14) & 0x3fff), alpha: true };
  }
  const side = (at) => view.getUint16(at, true) & 0x3fff;
  return { kind: "webp", width: side(26), height: side(28), alpha: false };
}

/** The orientation that a WebP's EXIF part names; 1, upright, if it names none. */
function exifOrientation(view) {
  let at = 12;
  while (at + 8 <= view.byteLength) {
    const length = view.getUint32(at + 4, true);
    if (nameAt(view, at) === "EXIF") {
      return orientationAt(view, at + 8 + (nameAt(view, at + 8) === "Exif" ? 6 : 0));
    }
    at += 8 + length + (length % 2);
  }
  return 1;
}

/** The orientation that EXIF names which starts at a place. */
function orientationAt(view, start) {
  const little = view.getUint8(start) === 0x49;
  const table = start + view.getUint32(start + 4, little);
  for (let entry = 0; entry < view.getUint16(table, little); entry += 1) {
    const place = table + 2 + 12 * entry;
    if (view.getUint16(place, little) === ORIENTATION) return view.getUint16(place + 8, little);
  }
  return 1;
}

function inspectBmp(view) {
  if (view.getUint32(14, true) === 12) {
    return { kind: "bmp", width: view.getUint16(18, true), height: view.getUint16(20, true), alpha: false };
  }
  return { kind: "bmp", width: view.getInt32(18, true), height: Math.abs(view.getInt32(22, true)), alpha: true };
}
