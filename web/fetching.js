// Files of this package: over the network in a browser, from disk in Node.

/** A module of Node. Its name is put together here, as bundlers for browsers stop at names of modules that they lack. */
export const builtin = (name) => import(/* webpackIgnore: true */ /* @vite-ignore */ `node:${name}`);

export async function fetchBytes(url, options = {}) {
  if (url.protocol === "file:") {
    const { readFile } = await builtin("fs/promises");
    return new Uint8Array(await readFile(url));
  }
  const response = await fetch(url, options);
  if (!response.ok) throw new Error(`cannot fetch ${url.pathname}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** The file, if its SHA-256 is the one expected. A wrong one may come from a cache, so it is fetched once more. */
export async function fetchChecked(url, sha256) {
  for (const options of [{}, { cache: "reload" }]) {
    const bytes = await fetchBytes(url, options);
    if (await matches(bytes, sha256)) return bytes;
    await forget(url);
  }
  throw new Error(`${url.pathname} is damaged or of another version, also when fetched again; try later`);
}

/**
 * Pages on plain HTTP from another computer have no `crypto.subtle`. There, whoever could change the file could change this
 * check too, and the engine refuses files that end too early.
 */
async function matches(bytes, sha256) {
  if (!globalThis.crypto?.subtle) return true;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === sha256;
}

/** Deletes what service workers keep of an address. */
async function forget(url) {
  try {
    for (const name of await caches.keys()) await (await caches.open(name)).delete(url.href, { ignoreSearch: true });
  } catch { /* there are no caches here, or they cannot be changed */ }
}
