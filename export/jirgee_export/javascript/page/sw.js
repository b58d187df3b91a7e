/** Service worker: the page works offline after the first visit. The export fills in the two constants.
 *
 * The page itself is kept when this worker is installed; the model and the engine when they are first fetched. A new
 * export has another VERSION: its worker waits until every tab of the old one is closed, so that versions never mix.
 */

const VERSION = "@VERSION@";
const PAGE = ["@PAGE@"];
const HERE = new URL("./", self.location);

self.addEventListener("install", (event) => {
  event.waitUntil(caches.open(VERSION).then((cache) => cache.addAll(PAGE.map((name) => new Request(name, { cache: "no-cache" })))));
});

self.addEventListener("activate", (event) => {
  event.waitUntil((async () => {
    for (const name of await caches.keys()) if (name.startsWith("jirgee-") && name !== VERSION) await caches.delete(name);
    await self.clients.claim();
  })());
});

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method !== "GET" || !url.href.startsWith(HERE.href)) return;
  event.respondWith((async () => {
    const cache = await caches.open(VERSION);
    const kept = await cache.match(url.pathname.endsWith("/") ? HERE.href : event.request, { ignoreSearch: true });
    if (kept) return kept;
    const answer = await fetch(event.request);
    if (answer.status === 200) event.waitUntil(cache.put(event.request, answer.clone()));
    return answer;
  })());
});
