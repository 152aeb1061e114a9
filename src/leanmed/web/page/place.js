/** Where the page's files lie: beside it. `place_single.js` is the same for a page that holds them itself. */

import { Broken } from "./faults.js";

/** What the page is about: see leanmed.web.site. */
export async function readSite() {
  return JSON.parse(new TextDecoder().decode(await bytesOf("site.json")));
}

/**
 * A file of the site.
 *
 * @param {string} name
 * @param {(bytes: number) => void} tell is given the number of bytes so far
 * @returns {Promise<ArrayBuffer>}
 */
export async function bytesOf(name, tell = () => {}) {
  const parts = [];
  let count = 0;
  try {
    const response = await fetch(new URL(name, document.baseURI));
    if (!response.ok) throw new Error(response.statusText);
    const reader = response.body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      parts.push(part.value);
      count += part.value.length;
      tell(count);
    }
  } catch {
    throw new Broken("missing_file", name);
  }
  return new Blob(parts).arrayBuffer();
}

/** The worker, which stands under the page's own policy since its first line is the page's. */
export function startWorker() {
  const first = `import ${JSON.stringify(new URL("engine.js", document.baseURI).href)};`;
  return new Worker(URL.createObjectURL(new Blob([first], { type: "text/javascript" })), { type: "module" });
}

/** Start the service worker, which keeps the site for use without a network. True once all of it is kept. */
export async function keepOffline() {
  if (!("serviceWorker" in navigator) || !window.isSecureContext) return false;
  await navigator.serviceWorker.register(new URL("offline.js", document.baseURI));
  await navigator.serviceWorker.ready;
  return true;
}
