"""kbnet.js in Node: the same results as the Restorer."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import kbnet

WEB = Path(__file__).parents[2] / "web"
pytestmark = pytest.mark.slow

RUN = """
import { readFileSync, writeFileSync } from "node:fs";
const { site, task, width, height, load, options, cancel } = JSON.parse(process.argv[1]);
const { Restorer } = await import(`file://${site}/kbnet.js`);
const data = new Uint8ClampedArray(readFileSync(`${site}/../in.rgba`));
const restorer = await Restorer.load(task, load);
const told = [], stop = new AbortController();
const onProgress = (done, total) => { told.push([done, total]); if (cancel) stop.abort(); };
try {
  const result = await restorer.restore({ data, width, height }, { ...options, onProgress, signal: stop.signal });
  writeFileSync(`${site}/../out.rgba`, result.data);
  console.log(JSON.stringify({ told, size: [result.width, result.height] }));
} catch (error) {
  console.log(JSON.stringify({ told, error: error.name }));
}
"""


@pytest.fixture
def restore(site, node):
    def run(pixels, task="denoise", *, load=None, **more):
        height, width = pixels.shape[:2]
        alpha = np.arange(height * width, dtype=np.uint8).reshape(height, width, 1)
        site.with_name("in.rgba").write_bytes(np.concatenate([pixels, alpha], 2).tobytes())
        site.with_name("out.rgba").unlink(missing_ok=True)
        task = {"site": str(site), "task": task, "width": width, "height": height, "load": load or {}, **more}
        done = subprocess.run(
            [node, "--input-type=module", "-e", RUN, json.dumps(task)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        if "error" in told:
            return told, None
        result = np.frombuffer(site.with_name("out.rgba").read_bytes(), np.uint8).reshape(height, width, 4)
        assert np.array_equal(result[..., 3:], alpha)
        return told, result[..., :3]

    return run


def noisy(height, width):
    rng = np.random.default_rng(3)
    rows, cols = np.mgrid[:height, :width]
    clean = np.stack([np.sin(rows / 9), np.cos(cols / 7), np.sin((rows + cols) / 11)], 2) * 90 + 128
    return np.clip(clean + rng.normal(0, 20, clean.shape), 0, 255).astype(np.uint8)


def expected(pixels, task, tile, **options):
    return kbnet.Restorer.from_pretrained(task, tile=tile, device="cpu", dtype="float32")(pixels, **options)


def difference(one, other):
    return int(np.abs(one.astype(int) - other).max())


@pytest.mark.parametrize(
    "look", [{"strength": 0.4}, {"colorStrength": 0.25}, {"strength": 0.8, "detail": 0.6}], ids=str
)
def test_strengths_and_detail_are_those_of_the_restorer(restore, look):
    pixels = noisy(70, 90)
    names = {"colorStrength": "color_strength"}
    _, result = restore(pixels, load={"workers": 1}, options=look)
    options = {names.get(name, name): value for name, value in look.items()}
    assert difference(result, expected(pixels, "denoise", 640, **options)) <= 1
    assert difference(result, restore(pixels, load={"workers": 1})[1]) > 5


@pytest.mark.parametrize("tile", [64, 640])
def test_gray_images_are_restored_with_gray_weights(restore, tile):
    gray = noisy(80, 72)[..., :1]
    _, result = restore(np.repeat(gray, 3, 2), load={"gray": True, "tile": tile, "workers": 2})
    assert np.array_equal(result[..., :1], result[..., 1:2])
    assert np.array_equal(result[..., :1], result[..., 2:])
    wanted = expected(gray, "denoise-gray", tile)
    assert difference(wanted, gray) > 5
    assert difference(result[..., :1], wanted) <= 1
    told, _ = restore(noisy(16, 16), load={"gray": True, "workers": 1})
    assert told["error"] == "TypeError"


@pytest.mark.parametrize("simd", ["auto", "plain"])  # Node 20 has no relaxed SIMD, later ones do
def test_tiles_of_the_same_size_give_the_result_of_the_restorer(restore, simd):
    pixels = noisy(150, 201)
    told, result = restore(pixels, load={"simd": simd, "tile": 128, "workers": 2})
    count = told["told"][0][1]
    assert told["told"] == [[done, count] for done in range(1, count + 1)]
    assert count > 2
    assert difference(result, pixels) > 20  # it does something
    assert difference(result, expected(pixels, "denoise", 128)) <= 1


def test_averages_of_the_whole_image_are_shared_by_the_tiles(restore):
    pixels = noisy(170, 200)
    _, result = restore(pixels, "derain", load={"tile": 128, "workers": 2})
    # Of an image this small, both sample the same crops.
    assert difference(result, expected(pixels, "derain", 128)) <= 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 70), (9, 8)])
def test_small_images_are_mirrored_as_in_the_restorer(restore, shape):
    pixels = noisy(*shape)
    _, result = restore(pixels, load={"workers": 1})
    assert difference(result, expected(pixels, "denoise", 640)) <= 1


def test_strength_blends(restore):
    pixels = noisy(40, 40)
    _, none = restore(pixels, load={"workers": 1}, options={"strength": 0})
    assert np.array_equal(none, pixels)
    _, some = restore(pixels, load={"workers": 1}, options={"strength": 0.4})
    assert difference(some, expected(pixels, "denoise", 640, strength=0.4)) <= 1


def test_a_signal_cancels_between_tiles(restore):
    told, result = restore(noisy(130, 260), load={"tile": 128, "workers": 1}, cancel=True)
    assert (told["error"], result, len(told["told"])) == ("AbortError", None, 1)


CHECK = """
const { site, script } = JSON.parse(process.argv[1]);
const kbnet = await import(`file://${site}/kbnet.js`);
const { Restorer } = kbnet;
const data = new Uint8ClampedArray(4);
const failure = async (make) => { try { await make(); return "nothing"; } catch (error) { return error.message; } };
console.log(JSON.stringify(await eval(script)));
"""


def evaluate(node, site, script):
    done = subprocess.run(
        [node, "--input-type=module", "-e", CHECK, json.dumps({"site": str(site), "script": script})],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_damaged_weights_and_wrong_arguments_are_refused(site, node, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(site, copy)
    weights = copy / json.loads((copy / "models.json").read_text(encoding="utf-8"))["denoise"]["file"]
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    assert "is damaged or of another version" in evaluate(node, copy, 'failure(() => Restorer.load("denoise"))')
    assert "there is no model blur; choose among denoise" in evaluate(
        node, copy, 'failure(() => Restorer.load("blur"))'
    )
    wrong = """(async () => {
        const restorer = await Restorer.load("derain", { workers: 1 });
        const told = [await failure(() => restorer.restore({ data, width: 2, height: 2 })),
                      await failure(() => restorer.restore({ data, width: 1, height: 1 }, { strength: 2 }))];
        restorer.close();
        return told;
    })()"""
    assert evaluate(node, copy, wrong) == [
        "expected RGBA pixels of 2 x 2, got 4 values",
        "expected strength from 0 to 1, got 2",
    ]


def test_every_call_settles_also_after_the_restorer_was_closed(run, site):
    script = """
    const { Restorer } = await import(`file://${given.site}/kbnet.js`);
    const image = { data: new Uint8ClampedArray(4 * 30 * 900), width: 900, height: 30 };
    const restorer = await Restorer.load("denoise", { workers: 2, tile: 128 });
    const outcome = (promise) => promise.then(() => "done", ({ name, message }) => `${name}: ${message}`);
    const first = outcome(restorer.restore(image, { onProgress: () => restorer.close() }));
    const second = outcome(restorer.restore(image));
    say([await first, await second, await outcome(restorer.restore(image))]);
    """
    assert run(script, site=str(site)) == ["Error: the restorer was closed"] * 3


def test_wrong_arguments_reject_and_a_signal_cancels_also_during_the_last_tile(run, site):
    script = """
    const { Restorer } = await import(`file://${given.site}/kbnet.js`);
    const image = { data: new Uint8ClampedArray(4 * 30 * 20), width: 20, height: 30 };
    const restorer = await Restorer.load("denoise", { workers: 1 });
    const outcome = (promise) => promise.then(() => "done", ({ name }) => name);
    const stop = new AbortController(), { signal } = stop;
    const wide = { ...image, width: 21 };
    const wrong = [restorer.restore(wide), restorer.restore(image, { detail: 2 }), restorer.restore()];
    const late = outcome(restorer.restore(image, { signal, onProgress: () => stop.abort() }));
    say([...(await Promise.all(wrong.map(outcome))), await late, await outcome(restorer.restore(image))]);
    """
    assert run(script, site=str(site)) == ["TypeError", "TypeError", "TypeError", "AbortError", "done"]


def test_a_worker_that_fails_rejects_this_and_every_later_call(run, site, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(site, copy)
    worker = copy / "worker.js"
    failing = 'run: () => { setTimeout(() => { throw new Error("out of memory"); }); return new Promise(() => {}); },'
    text = re.sub(r"  run: .*", f"  {failing}", worker.read_text(encoding="utf-8"))
    worker.write_text(text.replace("answer({ id, result }", "if (!(result instanceof Promise)) answer({ id, result }"))
    script = """
    const { Restorer } = await import(`file://${given.site}/kbnet.js`);
    const image = { data: new Uint8ClampedArray(4 * 30 * 20), width: 20, height: 30 };
    const restorer = await Restorer.load("denoise", { workers: 1 });
    const outcome = (promise) => promise.then(() => "done", ({ message }) => message);
    say([await outcome(restorer.restore(image)), await outcome(restorer.restore(image))]);
    """
    assert run(script, site=str(copy)) == ["out of memory", "out of memory"]


FETCH = """
const told = [];
const shelf = (name) => ({ delete: async (url) => told.push(`forget ${name} ${url}`) });
globalThis.caches = { keys: async () => ["a", "b"], open: async (name) => shelf(name) };
globalThis.fetch = async (url, { cache = "default" } = {}) => {
  told.push(cache);
  return new Response(cache === "reload" && !given.lasting ? "good" : "<html>", { status: 200 });
};
if (given.plain) Object.defineProperty(globalThis, "crypto", { value: {} });
const { fetchChecked } = await import(`file://${given.folder}/fetching.js`);
const sha256 = "770e607624d689265ca6c44884d0807d9b054d23c473c106c72be9de08b7376c"; // of "good"
const found = fetchChecked(new URL("https://host/w"), sha256);
const outcome = await found.then((bytes) => new TextDecoder().decode(bytes), ({ message }) => message);
say([outcome, told]);
"""
FORGOTTEN = ["forget a https://host/w", "forget b https://host/w"]


def test_wrong_weights_are_forgotten_by_the_caches_and_fetched_once_more(run):
    assert run(FETCH, folder=str(WEB)) == ["good", ["default", *FORGOTTEN, "reload"]]
    told = run(FETCH, folder=str(WEB), lasting=True)
    assert told[0] == "/w is damaged or of another version, also when fetched again; try later"
    assert told[1] == ["default", *FORGOTTEN, "reload", *FORGOTTEN]


def test_without_https_weights_are_taken_unchecked(run):
    assert run(FETCH, folder=str(WEB), plain=True) == ["<html>", ["default"]]


def test_bundlers_for_browsers_find_no_module_of_node(tool):
    for name in tool.LIBRARY:
        text = (WEB / name).read_text(encoding="utf-8")
        assert not re.search(r"""(?:import\(|from\s*)\s*["'`]node:[a-z]""", text), name
    crew = (WEB / "crew.js").read_text(encoding="utf-8")  # each such address becomes a file of the bundle
    assert re.findall(r'new URL\("./worker.js", import.meta.url\), (.*?)\)', crew) == ['{ type: "module" }']


def test_the_types_name_what_the_module_exports(site, node):
    types = (Path(__file__).parents[2] / "web" / "kbnet.d.ts").read_text(encoding="utf-8")
    declared = re.findall(r"export class (\w+)", types)
    assert sorted(evaluate(node, site, "Object.keys(kbnet)")) == sorted(declared)
    methods = re.findall(r"^  (?:static )?(\w+)\(", types, re.MULTILINE)
    there = "[...Object.getOwnPropertyNames(Restorer), ...Object.getOwnPropertyNames(Restorer.prototype)]"
    assert set(methods) <= set(evaluate(node, site, there))


@pytest.mark.parametrize("page", ["docs/how-to/browser.md", "web/README.md"])
def test_the_documented_program_runs(site, node, page):
    text = (Path(__file__).parents[2] / page).read_text(encoding="utf-8")
    (program,) = re.findall(r"```js\n(.*?)```", text, re.DOTALL)
    assert program.count('from "kbnet"') == 1
    program = program.replace('from "kbnet"', f'from "file://{site}/kbnet.js"')
    image = "const imageData = { data: new Uint8ClampedArray(4 * 30 * 20).fill(99), width: 30, height: 20 };\n"
    shows = "console.log(restored.width, restored.height, restored.data.length);"
    done = subprocess.run([node, "--input-type=module", "-e", image + program + shows], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["1 of 1 tiles", "30 20 2400"]
