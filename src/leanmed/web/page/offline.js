/**
 * The service worker: gives the site's files from where they are kept, or gets them once and keeps them.
 *
 * `CACHE` and `FILES` stand above: the name of this version's store, and the SHA-256 of each of the site's files. The
 * small ones are kept at once, the large ones when the page asks for them, so that none is loaded twice. A newer version
 * waits until the page says so: no page is given files of two versions.
 */

const LARGE = /^(graphs|runtime)\//;
const OURS = `leanmed ${self.registration.scope} `; // another site of the same server has a store of its own
const placeOf = (name) => new URL(name, self.registration.scope).href;
const NAMES = new Map(Object.keys(FILES).map((name) => [placeOf(name), name]));

self.addEventListener("install", (event) => {
  const small = Object.keys(FILES).filter((name) => !LARGE.test(name));
  event.waitUntil(Promise.all(small.map(keep)));
});

self.addEventListener("activate", (event) => {
  const clean = async () => {
    const names = await caches.keys();
    const old = names.filter((name) => name.startsWith(OURS) && name !== OURS + CACHE);
    await Promise.all(old.map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(clean());
});

self.addEventListener("message", (event) => {
  if (event.data === "take over") self.skipWaiting();
  if (event.data !== "keep all") return;
  const answer = async () => {
    const store = await caches.open(OURS + CACHE);
    for (const name of Object.keys(FILES)) if (!(await store.match(placeOf(name)))) await keep(name);
    return true;
  };
  event.waitUntil(answer().then((whole) => event.ports[0].postMessage(whole), () => event.ports[0].postMessage(false)));
});

self.addEventListener("fetch", (event) => {
  const [asked] = event.request.url.split(/[?#]/);
  const wanted = asked === self.registration.scope ? placeOf("index.html") : asked;
  if (event.request.method === "GET" && NAMES.has(wanted)) event.respondWith(find(event, wanted));
});

async function find(event, wanted) {
  const store = await caches.open(OURS + CACHE);
  const held = event.request.cache === "reload" ? undefined : await store.match(wanted);
  if (held) return held;
  const found = await fetch(wanted, { cache: "no-cache" });
  if (!found.ok) return found;
  const copy = found.clone();
  event.waitUntil(store.put(wanted, plain(copy, copy.body)));
  return plain(found, found.body);
}

/** Get a file, check that it is the one of this version, and keep it. */
async function keep(name) {
  const found = await fetch(placeOf(name), { cache: "no-cache" });
  if (!found.ok) throw new Error(`${name}: ${found.status}`);
  const content = await found.arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  if (Array.from(digest, (value) => value.toString(16).padStart(2, "0")).join("") !== FILES[name]) {
    throw new Error(`${name}: another version`);
  }
  await (await caches.open(OURS + CACHE)).put(placeOf(name), plain(found, content));
}

/** A response without a trace of having been redirected, which browsers do not take for a page. */
function plain(response, body) {
  return new Response(body, { headers: response.headers });
}
