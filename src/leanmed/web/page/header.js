/** What the first bytes of an image's file say, checked before anything is decoded. */

import { Refused } from "./faults.js";

const MOST_PARTS = 200000; // of a file that is walked through

/**
 * Kind, size in pixels as stored (before it is turned upright), and whether there may be transparent places.
 *
 * @param {Uint8Array} bytes of the whole file
 * @returns {{kind: string, width: number, height: number, alpha: boolean}}
 * @throws {Refused} it is none of the formats, is cut off, or has several frames
 */
export function inspect(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const starts = (...wanted) => wanted.every((value, at) => bytes[at] === value);
  try {
    if (starts(0xff, 0xd8, 0xff)) return inspectJpeg(bytes, view);
    if (starts(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a)) return inspectPng(bytes, view);
    if (starts(0x52, 0x49, 0x46, 0x46) && text(bytes, 8) === "WEBP") return inspectWebp(bytes, view);
    if (starts(0x42, 0x4d)) {
      return { kind: "bmp", width: view.getInt32(18, true), height: Math.abs(view.getInt32(22, true)), alpha: true };
    }
  } catch (error) {
    if (error instanceof RangeError) throw new Refused("cut_off");
    throw error;
  }
  throw new Refused("no_image");
}

function text(bytes, at) {
  return String.fromCharCode(...bytes.subarray(at, at + 4));
}

function inspectJpeg(bytes, view) {
  let found = null;
  let at = 2;
  for (let part = 0; part < MOST_PARTS; part += 1) {
    while (view.getUint8(at) !== 0xff) at += 1;
    while (view.getUint8(at) === 0xff) at += 1;
    const marker = view.getUint8(at);
    at += 1;
    if (marker === 0xd9) break;
    if (marker === 0 || marker === 1 || (marker >= 0xd0 && marker <= 0xd8)) continue;
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame && !found) {
      found = { kind: "jpeg", height: view.getUint16(at + 3), width: view.getUint16(at + 5), alpha: false };
    }
    at += view.getUint16(at);
  }
  if (!found) throw new Refused("cut_off");
  return found;
}

function inspectPng(bytes, view) {
  const colour = view.getUint8(25);
  const found = { kind: "png", width: view.getUint32(16), height: view.getUint32(20), alpha: colour >= 4 };
  let at = 8;
  for (let part = 0; part < MOST_PARTS; part += 1) {
    const length = view.getUint32(at);
    const name = text(bytes, at + 4);
    if (name === "acTL") throw new Refused("frames");
    if (name === "tRNS") found.alpha = true;
    at += length + 12;
    if (at > bytes.length) throw new Refused("cut_off");
    if (name === "IEND") return found;
  }
  throw new Refused("no_image");
}

function inspectWebp(bytes, view) {
  if (view.getUint32(4, true) + 8 > bytes.length) throw new Refused("cut_off");
  const form = text(bytes, 12);
  const size24 = (at) => 1 + view.getUint16(at, true) + 65536 * view.getUint8(at + 2);
  if (form === "VP8X") {
    const flags = view.getUint8(20);
    if (flags & 0x02) throw new Refused("frames");
    return { kind: "webp", width: size24(24), height: size24(27), alpha: (flags & 0x10) !== 0 };
  }
  if (form === "VP8L") {
    const bits = view.getUint32(21, true);
    return { kind: "webp", width: 1 + (bits & 0x3fff), height: 1 + ((bits >> 14) & 0x3fff), alpha: true };
  }
  return {
    kind: "webp",
    width: view.getUint16(26, true) & 0x3fff,
    height: view.getUint16(28, true) & 0x3fff,
    alpha: false,
  };
}
