// What a reload loses: photos exist only in this page, so it saves their names for the page loaded after it.

const NOTE = "kbnet-queue";

export function note(queue) {
  const lost = queue.items.filter((item) => !item.taken).map(({ name, result }) => ({ name, restored: Boolean(result) }));
  try {
    if (lost.length) sessionStorage.setItem(NOTE, JSON.stringify(lost));
    else sessionStorage.removeItem(NOTE);
  } catch { /* storage is disabled: the next page reports nothing */ }
}

// A message about the photos that a reload discarded; empty if there were none.
export function lostBefore() {
  let lost = [];
  try {
    lost = JSON.parse(sessionStorage.getItem(NOTE) || "[]");
    sessionStorage.removeItem(NOTE);
  } catch { /* unreadable */ }
  if (performance.getEntriesByType("navigation")[0]?.type !== "reload" || !Array.isArray(lost) || !lost.length) return "";
  const told = lost.slice(0, 5).map(({ name, restored }) => `${name} (${restored ? "restored, not downloaded" : "not restored"})`);
  if (lost.length > told.length) told.push(`${lost.length - told.length} more`);
  return `Reloading the page discarded ${lost.length === 1 ? "a photo" : `${lost.length} photos`}: ${told.join(", ")}. To restore ${lost.length === 1 ? "it, add it" : "them, add them"} again.`;
}

// Ask before leaving the page if something would be lost.
export function guard(queue) {
  addEventListener("beforeunload", (event) => {
    if (queue.running || queue.items.some(({ result, taken }) => result && !taken)) event.preventDefault();
  });
}
