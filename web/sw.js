// Keeps the page for use offline. The build fills in VERSION and FILES. A new version waits until all pages of the old one
// are closed: a page never gets modules of two versions.
const VERSION = "@VERSION@";
const FILES = /*FILES*/ [];
// All pages of an origin share its caches, and another of them may be a copy of this one in another folder.
const OURS = `kbnet-page ${registration.scope} `;
const PAGE = OURS + VERSION;
const WEIGHTS = `${OURS}weights`; // their names change with their contents, so they outlive versions

addEventListener("install", (event) => {
  const keep = async () => {
    const cache = await caches.open(PAGE);
    // Not from the browser's own cache, which may hold files of an earlier version.
    await cache.addAll(FILES.map((file) => new Request(file, { cache: file.endsWith(".safetensors") ? "default" : "no-cache" })));
  };
  event.waitUntil(keep());
});

addEventListener("activate", (event) => {
  const clear = async () => {
    const old = (await caches.keys()).filter((name) => name.startsWith(OURS) && ![PAGE, WEIGHTS].includes(name));
    for (const name of old) await caches.delete(name);
    await clearWeights().catch(() => {}); // what is left over only takes room
    // At the first installation, the page that began it is of this version: what it fetches from now on is kept too.
    if (!old.length) await clients.claim();
  };
  event.waitUntil(clear());
});

async function clearWeights() {
  const models = await (await caches.match("models.json", { cacheName: PAGE })).json();
  const files = Object.values(models).flatMap(({ file, gray }) => [file, ...(gray ? [gray.file] : [])]);
  const current = new Set(files.map((file) => new URL(file, location.href).href));
  const weights = await caches.open(WEIGHTS);
  for (const { url } of await weights.keys()) if (!current.has(url)) await weights.delete(url);
}

addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && request.url.startsWith(registration.scope)) event.respondWith(answer(event));
});

async function answer(event) {
  const { request } = event;
  const kept = (await find(request, PAGE)) ?? (await find(request, WEIGHTS));
  if (kept) return kept;
  const reply = await fetch(request);
  // The page doesn't wait for the cache, and gets the reply even if the cache is full or disabled.
  if (reply.status === 200 && request.url.endsWith(".safetensors")) event.waitUntil(keepWeights(request, reply.clone()).catch(() => {}));
  return reply;
}

/** What a cache has for a request; nothing if it cannot be read. */
function find(request, cacheName) {
  return caches.match(request, { cacheName, ignoreSearch: true }).catch(() => undefined);
}

async function keepWeights(request, reply) {
  const cache = await caches.open(WEIGHTS);
  await cache.put(request, reply);
}
