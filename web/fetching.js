// Files of this package: over the network in a browser, from disk in Node.

export async function fetchBytes(url) {
  if (url.protocol === "file:") {
    const { readFile } = await import("node:fs/promises");
    return new Uint8Array(await readFile(url));
  }
  const response = await fetch(url);
  if (!response.ok) throw new Error(`cannot fetch ${url.pathname}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** The file, if its SHA-256 is the one expected. */
export async function fetchChecked(url, sha256) {
  const bytes = await fetchBytes(url);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== sha256) throw new Error(`${url.pathname} is damaged or of another version; reload to fetch it again`);
  return bytes;
}
