/** The service worker: keeps the whole site, and gives it without a network. `FILES` and `VERSION` stand above. */

const OURS = `leanmed ${self.registration.scope} `; // another site of this server keeps its own
const CACHE = OURS + VERSION;

self.addEventListener("install", (event) => {
  const keep = async () => {
    const cache = await caches.open(CACHE);
    await cache.addAll(FILES.map((name) => new Request(new URL(name, self.registration.scope))));
    await self.skipWaiting();
  };
  event.waitUntil(keep());
});

self.addEventListener("activate", (event) => {
  const clean = async () => {
    const names = await caches.keys();
    await Promise.all(names.filter((name) => name.startsWith(OURS) && name !== CACHE).map((name) => caches.delete(name)));
    await self.clients.claim();
  };
  event.waitUntil(clean());
});

self.addEventListener("fetch", (event) => {
  const answer = async () => {
    const cache = await caches.open(CACHE);
    const wanted = event.request.mode === "navigate" ? new URL("index.html", self.registration.scope) : event.request;
    return (await cache.match(wanted, { ignoreSearch: true })) ?? Response.error();
  };
  event.respondWith(answer());
});
