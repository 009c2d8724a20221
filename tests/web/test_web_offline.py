"""sw.js in Node, with stand-ins for caches and network."""

from pathlib import Path

import pytest

SOURCE = (Path(__file__).parents[2] / "web" / "sw.js").read_text(encoding="utf-8")
START = """
const scope = "https://host/app/", shelves = new Map(), events = {}, told = [];
const network = { "models.json": JSON.stringify({ denoise: { file: "now.safetensors" } }) };
const addressOf = (request) => new URL(request.url ?? request, scope).href;
const reading = (text) => ({ status: 200, text, clone: () => reading(text), json: async () => JSON.parse(text) });
globalThis.fetch = async (request) => {
  told.push(`fetch ${addressOf(request).slice(scope.length)}`);
  return reading(network[addressOf(request).slice(scope.length)] ?? "from the network");
};
class Shelf extends Map {
  match(request) { return this.get(addressOf(request)); }
  async put(request, reply) {
    if (given.full) throw new Error("QuotaExceededError");
    this.set(addressOf(request), reply);
  }
  async addAll(requests) { for (const request of requests) await this.put(request, await fetch(request)); }
  async keys() { return [...super.keys()].map((url) => ({ url })); }
  async delete(request) { return super.delete(addressOf(request)); }
}
const caches = {
  keys: async () => [...shelves.keys()],
  open: async (name) => {
    if (!shelves.has(name)) shelves.set(name, new Shelf());
    return shelves.get(name);
  },
  delete: async (name) => shelves.delete(name),
  match: async (request, { cacheName }) => {
    if (given.broken) throw new Error("SecurityError");
    return shelves.get(cacheName)?.match(request);
  },
};
const clients = { claim: async () => { told.push("claim"); } };
const self = { skipWaiting: async () => { told.push("skipWaiting"); }, clients, registration: { scope } };
class Request { constructor(url) { this.url = new URL(url, scope).href; } }
const start = (version, place = scope) => {
  const source = given.source.replace("@VERSION@", version).replace("/*FILES*/ []", '["./", "models.json"]');
  const names = ["self", "addEventListener", "caches", "registration", "clients", "location", "Request"];
  const listen = (name, act) => { events[name] = act; }, location = { href: `${place}sw.js` };
  const values = [self, listen, caches, { scope: place }, clients, location, Request];
  new Function(...names, source)(...values);
};
const happen = async (name, event = {}) => {
  let reply;
  const waits = [];
  const respondWith = (promise) => { reply = promise; };
  events[name]({ ...event, waitUntil: (promise) => waits.push(promise), respondWith });
  const answer = await reply;
  await Promise.all(waits);
  return answer?.text;
};
const ask = (file) => happen("fetch", { request: { method: "GET", url: scope + file } });
"""


@pytest.fixture
def worker(run):
    return lambda script, **given: run(START + script, source=SOURCE, **given)


def test_a_new_version_waits_and_replaces_only_its_own_caches(worker):
    told = worker(
        """
        await caches.open("another page");
        start("kbnet-1", "https://host/other/");
        await happen("install");
        await happen("activate");
        start("kbnet-1");
        await happen("install");
        await happen("activate");
        told.length = 0;
        start("kbnet-2");
        await happen("install");
        const waiting = [...shelves.keys()];
        await happen("activate");
        say([told.filter((what) => !what.startsWith("fetch")), waiting, [...shelves.keys()]]);
        """
    )
    other = ["another page", *(f"kbnet-page https://host/other/ {name}" for name in ("kbnet-1", "weights"))]
    mine = [f"kbnet-page https://host/app/ {name}" for name in ("kbnet-1", "weights", "kbnet-2")]
    assert told == [[], other + mine, other + mine[1:]]


def test_after_the_first_installation_files_and_weights_come_from_the_cache(worker):
    told = worker(
        """
        start("kbnet-1");
        await happen("install");
        await happen("activate");
        await ask("now.safetensors");
        told.length = 0;
        say([await ask("models.json"), await ask("now.safetensors"), await ask("else.json"), told]);
        """
    )
    assert told[1:] == ["from the network", "from the network", ["fetch else.json"]]


@pytest.mark.parametrize("what", ["full", "broken"])
def test_a_cache_that_fails_does_not_keep_the_page_from_the_network(worker, what):
    script = 'start("kbnet-1"); say(await ask("now.safetensors"));'
    assert worker(script, **{what: True}) == "from the network"
