// What a reload loses: pictures live in this page alone, so their names are noted for the page that comes after it.

const NOTE = "kbnet-queue";

export function note(queue) {
  const lost = queue.items.filter((item) => !item.taken).map(({ name, result }) => ({ name, restored: Boolean(result) }));
  try {
    if (lost.length) sessionStorage.setItem(NOTE, JSON.stringify(lost));
    else sessionStorage.removeItem(NOTE);
  } catch { /* storage is switched off: then nothing is said */ }
}

// What the page before this one lost by a reload, as one sentence; empty if nothing.
export function lostBefore() {
  let lost = [];
  try {
    lost = JSON.parse(sessionStorage.getItem(NOTE) || "[]");
    sessionStorage.removeItem(NOTE);
  } catch { /* unreadable */ }
  if (performance.getEntriesByType("navigation")[0]?.type !== "reload" || !Array.isArray(lost) || !lost.length) return "";
  const told = lost.slice(0, 5).map(({ name, restored }) => `${name} (${restored ? "restored, not downloaded" : "not restored"})`);
  if (lost.length > told.length) told.push(`${lost.length - told.length} more`);
  return `Reloading the page removed ${lost.length === 1 ? "a picture" : `${lost.length} pictures`}: ${told.join(", ")}. Add ${lost.length === 1 ? "it" : "them"} again to restore ${lost.length === 1 ? "it" : "them"}.`;
}

// Ask before the page is left, while something would be lost.
export function guard(queue) {
  addEventListener("beforeunload", (event) => {
    if (queue.running || queue.items.some(({ result, taken }) => result && !taken)) event.preventDefault();
  });
}
