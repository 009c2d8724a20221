"""desk.js, local.js and queue.js in Node, with stand-ins for what they call: stopped photos, scarce memory."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KBNET = """
const log = (globalThis.log = []);
export class Restorer {
  static number = 0;
  static async load(task, { gray = false, workers = 0 }) {
    if (globalThis.offline && gray) throw new Error("offline");
    const restorer = Object.assign(new Restorer(), { name: `${task}${gray ? " gray" : ""} ${workers}`, gray });
    log.push(`load ${restorer.name}`);
    return restorer;
  }
  async restore({ data }, { signal }) {
    log.push(`begin ${this.name}`);
    const error = globalThis.failures?.shift();
    await new Promise((resolve, reject) => {
      this.fail = reject;
      setTimeout(resolve, 50);
    });
    log.push(`end ${this.name}`);
    signal.throwIfAborted();
    if (error) throw Object.assign(new Error("it failed"), { name: error });
    return { data, width: 1, height: 1 };
  }
  close() {
    log.push(`close ${this.name}`);
    this.fail?.(new Error("the restorer was closed"));
  }
}
"""
FILES = """
export const readImage = async ({ gray = false }) => ({ data: new Uint8ClampedArray(4), width: 1, height: 1, gray });
export const writeImage = async () => ({ blob: "blob", notes: [] });
"""
START = """
const replies = new Map(), begun = [];
globalThis.self = {};
globalThis.postMessage = ({ id, progress, ...reply }) => {
  if (progress?.state === "working") begun[id]?.();
  if (!progress) replies.get(id)(reply);
};
await import(`file://${given.folder}/desk.js`);
const send = (data) => { self.onmessage({ data }); };
const call = (id, message) => new Promise((resolve) => { replies.set(id, resolve); send({ id, ...message }); });
const restore = (id, task, file = {}) => call(id, { action: "restore", task, file });
const working = (id) => new Promise((resolve) => { begun[id] = resolve; });
const stop = (id) => send({ id, action: "cancel" });
"""


@pytest.fixture
def desk(run, tmp_path):
    """Run a script with desk.js, whose neighbours are stand-ins."""
    shutil.copy(ROOT / "web" / "desk.js", tmp_path)
    (tmp_path / "kbnet.js").write_text(KBNET, encoding="utf-8")
    (tmp_path / "files.js").write_text(FILES, encoding="utf-8")
    (tmp_path / "look.js").write_text("export class Mixer { mix() {} }\n", encoding="utf-8")
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    return lambda script: run(START + script, folder=str(tmp_path))


def test_a_photo_that_was_stopped_leaves_the_engines_to_the_next(desk):
    told = desk(
        """
        const start = working(0), first = restore(0, "denoise");
        await start;
        stop(0);
        const second = restore(1, "deblur");
        say([await first, (await second).result?.kept, log]);
        """
    )
    assert told[0]["error"] == "This operation was aborted"
    assert told[1] == 1
    assert told[2] == [
        *("load denoise 0", "begin denoise 0", "end denoise 0"),
        *("load deblur 0", "close denoise 0", "begin deblur 0", "end deblur 0"),
    ]


def test_a_photo_that_is_stopped_before_its_turn_loads_nothing(desk):
    told = desk(
        """
        const start = working(0), first = restore(0, "denoise");
        await start;
        const second = restore(1, "deblur");
        stop(1);
        say([await second, (await first).result.kept, log]);
        """
    )
    assert told[0]["error"] == "This operation was aborted"
    assert told[1:] == [0, ["load denoise 0", "begin denoise 0", "end denoise 0"]]


def test_where_memory_runs_out_one_small_engine_restores_the_photo_and_is_not_kept(desk):
    told = desk(
        """
        globalThis.failures = ["EngineError"];
        const kept = (await restore(0, "denoise")).result.kept;
        await restore(1, "denoise");
        say([kept, log.filter((line) => !line.startsWith("end"))]);
        """
    )
    assert told[0] == 0
    assert told[1] == [
        *("load denoise 0", "begin denoise 0"),
        *("load denoise 1", "close denoise 0", "begin denoise 1", "close denoise 1"),
        *("load denoise 0", "begin denoise 0"),
    ]


def test_other_errors_are_told_at_once(desk):
    told = desk('globalThis.failures = ["TypeError"]; say([await restore(0, "denoise"), log]);')
    assert told[0]["error"] == "it failed"
    assert told[1] == ["load denoise 0", "begin denoise 0", "end denoise 0"]


def test_offline_weights_for_colour_restore_gray_photos(desk):
    told = desk('globalThis.offline = true; await restore(0, "denoise", { gray: true }); say(log);')
    assert told == ["load denoise 0", "begin denoise 0", "end denoise 0"]


def test_a_result_that_is_gone_is_named_so(desk):
    told = desk('say(await call(0, { action: "encode", file: {}, kept: 7, look: {}, format: "png" }));')
    assert told == {"error": "the result is no longer there", "code": "gone"}


LOCAL = """
const asked = [];
globalThis.Worker = class {
  postMessage({ id, action, kept }) {
    asked.push(kept === undefined ? action : `${action} ${kept}`);
    const gone = action === "encode" && kept === 1;
    const result = action === "restore" ? { blob: "again", notes: [], kept: 2 } : { blob: "encoded", notes: [] };
    queueMicrotask(() => this.onmessage({ data: gone ? { id, error: "gone", code: "gone" } : { id, result } }));
  }
};
const { LocalBackend } = await import(`file://${given.folder}/local.js`);
const backend = new LocalBackend(), result = { blob: { type: "image/png" }, notes: [], kept: 1 };
const { blob } = await backend.encode("file", { task: "denoise" }, result, { strength: 0.5 }, "png");
say([blob, result.kept, asked]);
"""


@pytest.fixture
def page(tmp_path):
    """The modules of the page, as `make web` lays them out."""
    shutil.copytree(ROOT / "src" / "kbnet" / "server" / "static" / "js", tmp_path / "page" / "js")
    shutil.copy(ROOT / "web" / "local.js", tmp_path)
    (tmp_path / "look.js").write_text('export * from "./page/js/look.js";\n', encoding="utf-8")
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    return tmp_path


def test_a_result_that_is_gone_is_restored_again(run, page):
    assert run(LOCAL, folder=str(page)) == ["encoded", 2, ["encode 1", "restore", "encode 2"]]


QUEUE = """
const { Queue } = await import(`file://${given.folder}/page/js/queue.js`);
let failing = false, encoding = () => {};
const asked = [];
const queue = new Queue({
  async restore(file) {
    if (failing) throw new Error("it failed");
    return { change: 1, seconds: 1, blob: { type: "image/png" }, notes: [] };
  },
  async encode(file, { task }, result) {
    asked.push(`${file.name} ${task}`);
    encoding();
    if (result.forgotten) throw new Error("forgotten");
    return { blob: result.blob, notes: [] };
  },
  forget(result) { result.forgotten = true; },
});
const items = queue.add(["a.png", "b.png", "c.png"].map((name) => ({ name })));
await queue.restore(items, { task: "denoise" });
"""


def test_photos_that_are_removed_meanwhile_are_left_out_of_the_download(run, page):
    script = """
    encoding = () => { for (const item of items.slice(0, 2)) if (!item.removed) queue.remove(item); };
    const { items: taken, files } = await queue.encodeAll("");
    say([asked, taken.map(({ name }) => name), files.map(({ name }) => name)]);
    """
    told = run(QUEUE + script, folder=str(page))
    assert told == [["a.png denoise", "c.png denoise"], ["c.png"], ["c-denoised.png"]]


def test_a_download_is_named_after_what_was_done_and_not_after_what_failed_since(run, page):
    script = """
    failing = true;
    await queue.restore([items[0]], { task: "derain" });
    const { name } = await queue.encode(items[0]);
    say([items[0].state, asked, name]);
    """
    assert run(QUEUE + script, folder=str(page)) == ["failed", ["a.png denoise"], "a-denoised.png"]
