/** In place of a service worker that an offline page may have left at this address: it removes itself and what it kept. */

self.addEventListener("install", () => self.skipWaiting());

self.addEventListener("activate", (event) => {
  const retire = async () => {
    const names = (await caches.keys()).filter((name) => name.startsWith(`leanmed ${self.registration.scope} `));
    await Promise.all(names.map((name) => caches.delete(name)));
    await self.registration.unregister();
    for (const client of await self.clients.matchAll()) client.navigate(client.url);
  };
  event.waitUntil(retire());
});
