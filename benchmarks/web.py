"""The page that restores in the browser, compared with ONNX Runtime Web on the same network: time, CPU time, memory.

    npm install --prefix build/web/ort onnxruntime-web
    python benchmarks/web.py [--quick]

Needs what `make web` needs, Chromium, and the export extra. Every measurement is the best of several, in a new browser.
Fails if the results differ. Writes benchmarks/results/web.json. Takes about five minutes on two idle cores.
"""

import argparse
import functools
import http.server
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from facts import RESULTS, write

ROOT = Path(__file__).resolve().parents[1]
ORT = ROOT / "build" / "web" / "ort"
TASK = "denoise"
HARNESS = """<!doctype html><meta charset="utf-8"><title>benchmark</title><script type="module">
import { Restorer } from "./kbnet.js";
const pixels = (width, height) => {
  const data = new Uint8ClampedArray(4 * width * height);
  let state = 1;
  for (let i = 0; i < data.length; i++) data[i] = 90 + ((state = (state * 48271) % 2147483647) % 80);
  return { data, width, height };
};
window.kbnet = async ({ width, height, workers, simd }) => {
  window.image = pixels(width, height);
  window.restorer = await Restorer.load("TASK", { workers, simd });
  window.work = async () => { window.result = (await restorer.restore(image)).data; };
};
window.ort = async ({ width, height }) => {
  const ort = await import("./ort/ort.wasm.bundle.min.mjs");
  ort.env.wasm.wasmPaths = new URL("./ort/", location.href).href;
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create("./network.onnx");
  const { data } = pixels(width, height), plane = width * height, x = new Float32Array(3 * plane);
  for (let i = 0; i < plane; i++) for (let c = 0; c < 3; c++) x[c * plane + i] = data[4 * i + c] / 255;
  const [input] = session.inputNames, [output] = session.outputNames;
  window.work = async () => {
    const y = (await session.run({ [input]: new ort.Tensor("float32", x, [1, 3, height, width]) }))[output].data;
    window.result = data.slice();
    for (let i = 0; i < plane; i++) for (let c = 0; c < 3; c++) result[4 * i + c] = 255 * y[c * plane + i];
  };
};
</script>""".replace("TASK", TASK)
LONGEST = """() => { window.tasks = [];
    new PerformanceObserver((list) => tasks.push(...list.getEntries().map(({ duration }) => duration)))
        .observe({ type: "longtask" }); }"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small images, as a test")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    package = ORT / "node_modules" / "onnxruntime-web"
    if not package.exists():
        raise SystemExit("ONNX Runtime Web is missing; install it: npm install --prefix build/web/ort onnxruntime-web")
    side, repeats = (128, 1) if options.quick else (512, 5)
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder, "site")
        prepare(site, package, side)
        with serving(site) as address:
            rows, kinds = (
                [],
                {"relaxed SIMD": {"simd": "relaxed"}, "SIMD128": {"simd": "plain"}, "ONNX Runtime Web": None},
            )
            found: dict[str, np.ndarray] = {}
            for name, how in kinds.items():
                one = {"width": side, "height": side, "workers": 1}
                row, found[name] = measure(address, one | (how or {}), ort=how is None, repeats=repeats)
                rows.append({"what": name, "side": side, "threads": 1} | row)
                print(rows[-1], flush=True)
            for name, pixels in found.items():
                if (apart := int(np.abs(pixels.astype(int) - found["ONNX Runtime Web"]).max())) > 1:
                    raise SystemExit(f"{name}: results differ by {apart} of 255, allowed 1")
            width, height = (200, 160) if options.quick else (1000, 1000)
            for simd in ("relaxed", "plain"):
                row, _ = measure(
                    address, {"width": width, "height": height, "workers": 2, "simd": simd}, ort=False, repeats=repeats
                )
                rows.append({"what": f"Restorer, {simd}", "width": width, "height": height, "threads": 2} | row)
                print(rows[-1], flush=True)
            page = longest_task(address, (300, 200) if options.quick else (4000, 3000))
            print(page, flush=True)
    cpu = {row["what"]: row["processor seconds"] for row in rows}
    times = {name: round(cpu["ONNX Runtime Web"] / cpu[name], 2) for name in ("relaxed SIMD", "SIMD128")}
    print(f"CPU time of ONNX Runtime Web, divided by that of kbnet: {times}")
    write("web", {"model": TASK, "rows": rows, "times as fast per core": times, "page": page}, options.results)


def prepare(site: Path, package: Path, side: int) -> None:
    """The page, with ONNX Runtime Web and a graph of the network for one size beside it."""
    spec = importlib.util.spec_from_file_location("web_tool", ROOT / "tools" / "web.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    zig = tool.compiler()
    if zig is None:
        raise SystemExit("the page needs a compiler for WebAssembly; install it: pip install ziglang")
    tool.build(zig, site)
    shutil.copytree(
        package / "dist",
        site / "ort",
        ignore=lambda _, names: [
            n for n in names if not n.startswith(("ort.wasm.bundle.min", "ort-wasm-simd-threaded."))
        ],
    )
    command = [sys.executable, "-m", "kbnet", "export", TASK, "-o", site / "network.onnx", "--tile", str(side)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (site / "benchmark.html").write_text(HARNESS, encoding="utf-8")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a static host."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def opened(address: str) -> Iterator[Page]:
    """A page in a new browser."""
    sys.path.insert(0, str(ROOT / "tests" / "server"))
    from browser import FLAGS, chromium

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(600_000)
        page.goto(address)
        yield page
        browser.close()


def measure(address: str, options: dict[str, Any], *, ort: bool, repeats: int) -> tuple[dict[str, Any], np.ndarray]:
    """Best wall time and CPU time of one call after a first one, and the memory; the restored pixels."""
    with opened(f"{address}/benchmark.html") as page:
        page.wait_for_function("Boolean(window.kbnet && window.ort)")
        blank = renderers()[1]
        start = time.perf_counter()
        page.evaluate(f"(options) => window.{'ort' if ort else 'kbnet'}(options)", options)
        ready = time.perf_counter() - start
        page.evaluate("work()")
        walls, cpus = [], []
        for _ in range(repeats):
            wall, cpu = time.perf_counter(), renderers()[0]
            page.evaluate("work()")
            walls.append(time.perf_counter() - wall)
            cpus.append(renderers()[0] - cpu)
        memory = renderers()[1]
        pixels = (
            np.frombuffer(bytes(page.evaluate("Array.from(result)")), np.uint8)
            if options["workers"] == 1
            else np.empty(0)
        )
    megapixels = options["width"] * options["height"] / 1e6
    row = {
        "seconds to start": round(ready, 3),
        "seconds": round(min(walls), 3),
        "processor seconds": round(min(cpus), 3),
        "processor seconds per megapixel": round(min(cpus) / megapixels, 2),
        "peak bytes": memory - blank,
        "bytes of the browser's process before": blank,
    }
    return row, pixels


def renderers() -> tuple[float, int]:
    """CPU seconds of this program's browser pages so far, and the peak memory of the largest, bytes."""
    parents, seconds, peak = {}, 0.0, 0
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            parents[int(path.name)] = (int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"))
        except OSError:
            continue  # it has ended
    for process, (_, used) in parents.items():
        ancestor = process
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor][0]
        try:
            if ancestor != os.getpid() or b"--type=renderer" not in Path(f"/proc/{process}/cmdline").read_bytes():
                continue
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            continue
        seconds += used
        peak = max(peak, 1024 * int(status.partition("VmHWM:")[2].split()[0]))
    return seconds, peak


def longest_task(address: str, size: tuple[int, int]) -> dict[str, Any]:
    """The longest task on the page's own thread while a large photo is opened, restored, blended and saved."""
    pixels = np.random.default_rng(0).integers(90, 170, (*size[::-1], 3), dtype=np.uint8)
    with tempfile.NamedTemporaryFile(suffix=".jpg") as photo, opened(address) as page:
        Image.fromarray(pixels).save(photo.name, "JPEG", quality=90)
        page.wait_for_selector("html[data-kbnet=ready]")
        page.evaluate(LONGEST)
        page.set_input_files("#files", photo.name)  # by path: bytes would be decoded in the page
        page.wait_for_selector("#canvas[data-shown]")
        start = time.perf_counter()
        page.click("#act")
        page.wait_for_selector("li[data-state=done]")
        seconds = time.perf_counter() - start
        page.wait_for_selector("#after[src]")
        page.fill("#look-strength", "50")
        with page.expect_download() as download:
            page.click("#download")
        assert download.value.path()
        tasks = page.evaluate("tasks")
    return {
        "width": size[0],
        "height": size[1],
        "seconds": round(seconds, 1),
        "longest task on the main thread, ms": round(max(tasks, default=0.0)),
        "tasks over 50 ms": len(tasks),
    }


if __name__ == "__main__":
    main()
