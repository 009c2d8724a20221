// The backend of this page, and what makes the page work offline.
import { LocalBackend } from "./local.js";

export const backend = new LocalBackend();

if ("serviceWorker" in navigator && location.protocol.startsWith("http")) {
  navigator.serviceWorker.register(new URL("sw.js", import.meta.url)).catch(() => {}); // the page works without it
}
