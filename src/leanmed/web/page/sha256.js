/** SHA-256 (FIPS 180-4), for pages that are not served over TLS, where browsers withhold their own. */

const PRIMES = [];
for (let n = 2; PRIMES.length < 64; n += 1) if (PRIMES.every((p) => n % p)) PRIMES.push(n);
const fraction = (value) => ((value - Math.floor(value)) * 2 ** 32) >>> 0;
const START = Uint32Array.from(PRIMES.slice(0, 8), (p) => fraction(Math.sqrt(p)));
const ROUNDS = Uint32Array.from(PRIMES, (p) => fraction(Math.cbrt(p)));

/**
 * The hash in hexadecimal.
 *
 * @param {ArrayBuffer} content
 * @returns {Promise<string>}
 */
export async function sha256(content) {
  if (globalThis.crypto?.subtle) return inHex(new Uint8Array(await crypto.subtle.digest("SHA-256", content)));
  return sha256Plain(new Uint8Array(content));
}

/** As `sha256`, computed here. */
export function sha256Plain(bytes) {
  const padded = new Uint8Array(((bytes.length + 72) >> 6) << 6);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(bytes.length / 2 ** 29));
  view.setUint32(padded.length - 4, (bytes.length << 3) >>> 0);
  const state = Uint32Array.from(START);
  const w = new Uint32Array(64);
  for (let at = 0; at < padded.length; at += 64) digestBlock(view, at, state, w);
  const digest = new DataView(new ArrayBuffer(32));
  state.forEach((value, index) => digest.setUint32(4 * index, value));
  return inHex(new Uint8Array(digest.buffer));
}

function digestBlock(view, at, state, w) {
  const turn = (x, n) => (x >>> n) | (x << (32 - n));
  for (let t = 0; t < 16; t += 1) w[t] = view.getUint32(at + 4 * t);
  for (let t = 16; t < 64; t += 1) {
    const a = w[t - 15];
    const b = w[t - 2];
    w[t] = w[t - 16] + (turn(a, 7) ^ turn(a, 18) ^ (a >>> 3)) + w[t - 7] + (turn(b, 17) ^ turn(b, 19) ^ (b >>> 10));
  }
  let [a, b, c, d, e, f, g, h] = state;
  for (let t = 0; t < 64; t += 1) {
    const first = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + ROUNDS[t] + w[t]) | 0;
    const second = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((value, index) => {
    state[index] += value;
  });
}

function inHex(bytes) {
  return Array.from(bytes, (value) => value.toString(16).padStart(2, "0")).join("");
}
