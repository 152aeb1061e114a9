/** Where the page's files lie: beside it. `place_single.js` is the same for a page that holds them itself. */

import { Broken } from "./faults.js";

export const comesByNetwork = true;

const PATIENCE = 5000; // milliseconds in which a service worker starts, if it does

/** What the page is about: see leanmed.web.site. */
export async function readSite() {
  return JSON.parse(new TextDecoder().decode(await bytesOf("site.json")));
}

/**
 * A file of the site.
 *
 * @param {string} name
 * @param {(bytes: number) => void} tell is given the number of bytes so far
 * @param {boolean} anew take it from where it comes from, and not from what is kept of it
 * @returns {Promise<ArrayBuffer>}
 */
export async function bytesOf(name, tell = () => {}, anew = false) {
  const parts = [];
  let count = 0;
  try {
    const response = await fetch(new URL(name, document.baseURI), { cache: anew ? "reload" : "default" });
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

/**
 * Start the service worker, through which everything is loaded from then on.
 *
 * @param {(update: () => void) => void} newer is given what loads a newer version, once there is one
 * @returns {Promise<boolean>} false: this browser has none
 */
export async function startKeeping(newer) {
  if (!("serviceWorker" in navigator) || !window.isSecureContext) return false;
  const container = navigator.serviceWorker;
  const wasControlled = container.controller !== null;
  const controlled = new Promise((resolve) => {
    container.addEventListener("controllerchange", resolve, { once: true });
    setTimeout(resolve, PATIENCE);
  });
  const registration = await container.register(new URL("offline.js", document.baseURI));
  const tell = () => {
    if (!registration.waiting || !container.controller) return;
    newer(() => {
      container.addEventListener("controllerchange", () => window.location.reload(), { once: true });
      registration.waiting.postMessage("take over");
    });
  };
  tell();
  registration.addEventListener("updatefound", () => registration.installing?.addEventListener("statechange", tell));
  if (!wasControlled) await controlled;
  return container.controller !== null;
}

/** Have everything kept that is not yet. True: the site then works without a network. */
export async function keepAll() {
  // Some browsers forget a page that was not opened for a week. Others ask the user first, who may never answer.
  navigator.storage?.persist?.().catch(() => {});
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data }) => resolve(data);
    navigator.serviceWorker.controller.postMessage("keep all", [port2]);
  });
}
