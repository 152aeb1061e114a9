/** Where the page's files lie: in the page itself, packed, so that it opens from a disk without any server. */

import { Broken } from "./faults.js";
import { fromBase64 } from "./png.js";

export const comesByNetwork = false;

/** What the page is about: see leanmed.web.site. */
export async function readSite() {
  return JSON.parse(new TextDecoder().decode(await bytesOf("site.json")));
}

/** A file of the site. */
export async function bytesOf(name, tell = () => {}) {
  const held = document.getElementById(`file:${name}`);
  if (!held) throw new Broken("missing_file", name);
  const packed = new Blob([fromBase64(held.textContent.trim())]);
  const bytes = await new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
  tell(bytes.byteLength);
  return bytes;
}

/** The page is on this device already. */
export async function startKeeping() {
  return true;
}

/** There is nothing else to keep. */
export async function keepAll() {
  return true;
}
