// Keeps the page for use offline. The build fills in VERSION and FILES.
const VERSION = "@VERSION@";
const FILES = /*FILES*/ [];
const WEIGHTS = "kbnet-weights"; // their names change with their contents, so they outlive versions

addEventListener("install", (event) => {
  const keep = async () => {
    const cache = await caches.open(VERSION);
    // Not from the browser's own cache, which may hold files of an earlier version.
    await cache.addAll(FILES.map((file) => new Request(file, { cache: file.endsWith(".safetensors") ? "default" : "no-cache" })));
    await self.skipWaiting();
  };
  event.waitUntil(keep());
});

addEventListener("activate", (event) => {
  const clear = async () => {
    for (const name of await caches.keys())
      if (name.startsWith("kbnet-") && ![VERSION, WEIGHTS].includes(name)) await caches.delete(name);
    const models = await (await caches.match("models.json")).json();
    const current = new Set(Object.values(models).flatMap(({ file, gray }) => [file, ...(gray ? [gray.file] : [])]).map((file) => new URL(file, location.href).href));
    const weights = await caches.open(WEIGHTS);
    for (const { url } of await weights.keys()) if (!current.has(url)) await weights.delete(url);
    await self.clients.claim();
  };
  event.waitUntil(clear());
});

addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(self.registration.scope)) event.respondWith(answer(request));
});

async function answer(request) {
  const kept = await caches.match(request, { ignoreSearch: true });
  if (kept) return kept;
  const reply = await fetch(request);
  if (reply.status === 200 && request.url.endsWith(".safetensors")) await (await caches.open(WEIGHTS)).put(request, reply.clone());
  return reply;
}
