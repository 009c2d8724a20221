"""Build the page that restores photos in the browser, and the JavaScript package, into build/web/site.

    python tools/web.py [--out FOLDER]

Needs the PyPI package ziglang, whose clang compiles csrc/ to WebAssembly twice: for SIMD, and for relaxed SIMD, which has
fused multiply-adds. Objects stay in build/web and are compiled again when a source file changes.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kbnet import __version__
from kbnet.models import TASKS, find, load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "web"
PAGE = ROOT / "src" / "kbnet" / "server" / "static"
SOURCES = (
    *("web", "engine", "averages", "driver_block", "driver_forward", "memory", "pool_single", "cpu", "json"),
    *("weights_file", "restoration"),
)
VARIANTS = {"simd": ("-msimd128",), "relaxed": ("-msimd128", "-mrelaxed-simd")}
FLAGS = ("-std=c++17", "-O3", "-fno-rtti", "-mexec-model=reactor", "-DNDEBUG")
# The flags of CMakeLists.txt for the kernels.
KERNEL_FLAGS = ("-DKBNET_ISA=portable", "-ffp-contract=fast", "-fno-math-errno")
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self' 'wasm-unsafe-eval'",
        "worker-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' blob: data:",
        "connect-src 'self' blob:",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUILD / "site", help="folder to write; replaced if it is there")
    options = parser.parse_args()
    with ThreadPoolExecutor(len(VARIANTS)) as pool:
        modules = dict(zip(VARIANTS, pool.map(compile_module, VARIANTS), strict=True))
    assemble(options.out, modules)
    total = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {total / 1e6:.1f} MB; serve it with: python -m http.server -d {options.out}")


def compile_module(variant: str) -> Path:
    """The WebAssembly module of a variant; compiled only if the sources have changed."""
    digest = hashlib.sha256(repr((FLAGS, KERNEL_FLAGS, VARIANTS, SOURCES)).encode())
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix in (".h", ".cpp"):
            digest.update(path.read_bytes())
    made = BUILD / f"kbnet-{variant}-{digest.hexdigest()[:16]}.wasm"
    if not made.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        print(f"compiling {made.name}", flush=True)
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            kernels, module = Path(folder, "kernels.o"), Path(folder, made.name)
            zig(*VARIANTS[variant], *KERNEL_FLAGS, "-c", ROOT / "csrc" / "kernels.cpp", "-o", kernels)
            sources = [ROOT / "csrc" / f"{name}.cpp" for name in SOURCES]
            zig(*VARIANTS[variant], "-s", *sources, kernels, "-o", module)
            module.rename(made)
    return made


def zig(*arguments: str | Path) -> None:
    """Run zig's C++ compiler for WebAssembly."""
    command = [sys.executable, "-m", "ziglang", "c++", "-target", "wasm32-wasi", *FLAGS, *map(str, arguments)]
    subprocess.run(command, check=True)


def assemble(out: Path, modules: dict[str, Path]) -> None:
    """Write the site: the page of `kbnet serve` with the backend of web/, the modules, and the weights in float16."""
    if out.exists():
        shutil.rmtree(out)
    shutil.copytree(PAGE, out / "page", ignore=shutil.ignore_patterns("index.html", "docs.css", "http.js"))
    (out / "page" / "js" / "chosen.js").write_text('export { backend } from "../../app.js";\n', encoding="utf-8")
    for path in (ROOT / "web").iterdir():
        if path.suffix in (".js", ".ts", ".json", ".md"):
            shutil.copy(path, out)
    shutil.copy(ROOT / "LICENSE", out)
    for variant, module in modules.items():
        shutil.copy(module, out / f"kbnet-{variant}.wasm")
    (out / "models.json").write_text(json.dumps(dict(models(out)), indent=1) + "\n", encoding="utf-8")
    (out / "kbnet.webmanifest").write_text(json.dumps(manifest(), indent=1) + "\n", encoding="utf-8")
    (out / "index.html").write_text(index(), encoding="utf-8")
    kept = sorted(
        path.relative_to(out).as_posix()
        for path in out.rglob("*")
        if path.suffix in (".html", ".js", ".css", ".wasm", ".svg", ".jpg", ".webmanifest") and path.name != "sw.js"
    ) + ["models.json", "./"]
    digest = hashlib.sha256()
    for name in kept[:-1]:
        digest.update((out / name).read_bytes())
    worker = (out / "sw.js").read_text(encoding="utf-8")
    worker = worker.replace("@VERSION@", f"kbnet-{__version__}-{digest.hexdigest()[:12]}")
    worker = worker.replace("/*FILES*/ []", json.dumps(kept))
    (out / "sw.js").write_text(worker, encoding="utf-8")


def models(out: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Each task's default weights, written in float16 under names that change with their contents."""
    import torch

    for task in TASKS:
        entry = find(task)
        assert entry is not None
        with tempfile.TemporaryDirectory() as folder:
            stored = Path(folder, "weights.safetensors")
            save_file(load_file(entry.path), stored, dtype=torch.float16)
            data = stored.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        name = f"{entry.name}-{digest[:12]}.safetensors"
        (out / name).write_bytes(data)
        window = entry.window if entry.context == "local" else 0
        yield task, {"file": name, "sha256": digest, "window": window, "license": entry.license}


def manifest() -> dict[str, object]:
    """What makes the page installable."""
    icon = {"src": "page/mark.svg", "sizes": "any", "type": "image/svg+xml"}
    return {"name": "kbnet", "short_name": "kbnet", "start_url": "./", "display": "standalone", "icons": [icon]}


def index() -> str:
    """The page of the server with a content security policy: nothing leaves its own origin."""
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    head = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<link rel="manifest" href="kbnet.webmanifest">\n'
    return text.replace('<meta charset="utf-8">\n', f'<meta charset="utf-8">\n{head}', 1)


if __name__ == "__main__":
    main()
