"""Build the page that restores photos in the browser, and the npm package, into build/web.

    python tools/web.py [--out FOLDER]

Any static host can serve the page's folder, build/web/site by default. It is also copied into the documentation site if
that has been built, as build/site/app. The npm package is laid out in build/web/npm, and packed if npm is installed.

csrc/ is compiled to WebAssembly by zig's clang, twice: for SIMD, and for relaxed SIMD, which has fused multiply-adds.
"""

import argparse
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyvips
from safetensors import safe_open
from safetensors.numpy import save

from kbnet import __version__
from kbnet.models import TASKS, CatalogueEntry, find

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "web"
PAGE = ROOT / "src" / "kbnet" / "server" / "static"
SOURCES = (
    *("web", "memory_web", "pages_web", "pool_single", "cpu", "engine", "kbnet_s", "kbnet_l", "layers", "averages"),
    *("transposed", "driver_block", "driver_forward", "json", "weights_file", "restoration"),
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
        "style-src 'self'",
        "img-src 'self' blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "manifest-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
    )
)
# What the npm package takes from web/: the rest belongs to the page.
LIBRARY = ("kbnet.js", "kbnet.d.ts", "crew.js", "worker.js", "engine.js", "fetching.js")
FIRST_VISIT = "denoise"
"""The task that works offline after the first visit; the weights of the others are downloaded when chosen."""


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, default=BUILD / "site", help="the page's folder; an earlier build is replaced"
    )
    out = parser.parse_args().out
    zig = compiler()
    if zig is None:
        install = f"{sys.executable} -m pip install ziglang"
        print(f"make web needs zig's C++ compiler; install it with: {install}", file=sys.stderr)
        return 1
    if out.exists() and any(out.iterdir()) and not (out / "kbnet.webmanifest").exists():
        print(f"{out} is not an earlier build of the page; choose an empty folder", file=sys.stderr)
        return 1
    build(zig, out)
    if (site := ROOT / "build" / "site" / "index.html").exists() and out == BUILD / "site":
        replace(site.with_name("app"), lambda folder: shutil.copytree(out, folder))
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.1f} MB; to try it: python -m http.server -d {out}")
    if archive := pack(BUILD / "npm", out):
        print(archive)
    else:
        print("npm is not installed, so its package is laid out in build/web/npm but not packed")
    return 0


def compiler() -> list[str] | None:
    """The command that starts zig, from the PyPI package ziglang or installed by itself; None if there is none."""
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang"]
    found = shutil.which("zig") or shutil.which("python-zig")
    return [found] if found else None


def build(zig: list[str], out: Path) -> None:
    """Build the page's folder."""
    with ThreadPoolExecutor(len(VARIANTS)) as pool:
        modules = dict(zip(VARIANTS, pool.map(lambda variant: compile_module(zig, variant), VARIANTS), strict=True))
    replace(out, lambda folder: assemble(folder, modules))


def compile_module(zig: list[str], variant: str) -> Path:
    """Return the WebAssembly module of a variant, compiled only if the sources have changed."""
    digest = hashlib.sha256(repr((FLAGS, KERNEL_FLAGS, VARIANTS, SOURCES)).encode())
    for path in sorted((ROOT / "csrc").rglob("*")):
        if path.suffix in (".h", ".cpp"):
            digest.update(path.read_bytes())
    made = BUILD / f"kbnet-{variant}-{digest.hexdigest()[:16]}.wasm"
    if not made.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        print(f"compiling {made.name}", flush=True)
        command = [*zig, "c++", "-target", "wasm32-wasi", *FLAGS, *VARIANTS[variant]]
        with tempfile.TemporaryDirectory(dir=BUILD) as folder:
            kernels, module = f"{folder}/kernels.o", Path(folder, made.name)
            subprocess.run([*command, *KERNEL_FLAGS, "-c", ROOT / "csrc" / "kernels.cpp", "-o", kernels], check=True)
            sources = [ROOT / "csrc" / f"{name}.cpp" for name in SOURCES]
            subprocess.run([*command, "-s", *sources, kernels, "-o", module], check=True)
            module.chmod(0o644)
            module.rename(made)
    return made


def replace(folder: Path, fill: Callable[[Path], object]) -> None:
    """Let `fill` write a folder beside the given one, and swap them when it is complete."""
    fresh, old = (folder.with_name(f".{folder.name}.{what}") for what in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    fill(fresh)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def assemble(out: Path, modules: dict[str, Path]) -> None:
    """Write the page of `kbnet serve` with the backend of web/, the modules, and the weights in float16."""
    shutil.copytree(PAGE, out / "page", ignore=shutil.ignore_patterns("index.html", "docs.css", "http.js"))
    (out / "page" / "js" / "chosen.js").write_text('export { backend } from "../../app.js";\n', encoding="utf-8")
    for path in (ROOT / "web").glob("*.js"):
        shutil.copy(path, out)
    shutil.copy(ROOT / "LICENSE", out)
    # kbnet.js finds it beside itself: in the npm package, there is no page.
    (out / "look.js").write_text('export * from "./page/js/look.js";\n', encoding="utf-8")
    for variant, module in modules.items():
        shutil.copy(module, out / f"kbnet-{variant}.wasm")
    models = {task: write_models(task, out) for task in TASKS}
    (out / "models.json").write_text(json.dumps(models, indent=1) + "\n", encoding="utf-8")
    (out / "kbnet.webmanifest").write_text(json.dumps(write_icons(out), indent=1) + "\n", encoding="utf-8")
    (out / "index.html").write_text(index(), encoding="utf-8")
    kept = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name not in ("sw.js", "LICENSE")]
    kept = [path for path in kept if path.suffix != ".tsv"]  # credits, for people to read
    kept = [path for path in kept if path.suffix != ".safetensors" or path.name == models[FIRST_VISIT]["file"]]
    digest = hashlib.sha256()
    for path in kept:
        digest.update(path.relative_to(out).as_posix().encode() + path.read_bytes())
    files = ["./", *(path.relative_to(out).as_posix() for path in kept if path.name != "index.html")]
    worker = (out / "sw.js").read_text(encoding="utf-8")
    worker = worker.replace("@VERSION@", f"kbnet-{__version__}-{digest.hexdigest()[:12]}")
    (out / "sw.js").write_text(worker.replace("/*FILES*/ []", json.dumps(files, indent=1)), encoding="utf-8")


def write_models(task: str, out: Path) -> dict[str, object]:
    """Write a task's default weights, and those for gray images if there are any; return their entry."""
    entry = find(task)
    assert entry is not None
    return write_weights(entry, out) | ({"gray": write_weights(find(entry.gray), out)} if entry.gray else {})


def write_weights(entry: CatalogueEntry | None, out: Path) -> dict[str, object]:
    """Write weights in float16, under a name that changes with the contents; return their entry."""
    assert entry is not None
    with safe_open(entry.path, framework="numpy") as stored:
        metadata = stored.metadata()
        tensors = {key: stored.get_tensor(key).astype(np.float16) for key in stored.keys()}  # noqa: SIM118  # not a dict
    assert all(np.isfinite(tensor).all() for tensor in tensors.values()), f"{entry.name} is out of the range of float16"
    data = sorted_header(save(tensors, metadata=metadata))
    digest = hashlib.sha256(data).hexdigest()
    name = f"{entry.name}-{digest[:12]}.safetensors"
    (out / name).write_bytes(data)
    window = entry.window if entry.context == "local" else 0
    told = {"file": name, "sha256": digest, "window": window, "license": entry.license}
    if entry.credits_path is None:
        return told
    shutil.copy(entry.credits_path, out)
    return told | {"credits": entry.credits}


def sorted_header(data: bytes) -> bytes:
    """A safetensors file with its header in order: the library writes metadata in another order every time."""
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def write_icons(out: Path) -> dict[str, object]:
    """Write the icons of the installed page and return its manifest."""
    icons = [{"src": "page/mark.svg", "sizes": "any", "type": "image/svg+xml"}]
    for side in (180, 192, 512):
        image = pyvips.Image.thumbnail(str(PAGE / "mark.svg"), side)
        image.write_to_file(str(out / "page" / f"mark-{side}.png"))
        icons.append({"src": f"page/mark-{side}.png", "sizes": f"{side}x{side}", "type": "image/png"})
    return {
        "name": "kbnet",
        "short_name": "kbnet",
        "description": "Removes noise, rain and blur from photos",
        "start_url": "./",
        "display": "standalone",
        "background_color": "#f4f6f7",
        "theme_color": "#0f766e",
        "icons": icons,
    }


def index() -> str:
    """The page of the server with a content security policy: nothing leaves its own origin."""
    text = (PAGE / "index.html").read_text(encoding="utf-8")
    head = (
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<link rel="manifest" href="kbnet.webmanifest">',
        '<link rel="apple-touch-icon" href="page/mark-180.png">',
    )
    text = text.replace('<meta charset="utf-8">', "\n".join(('<meta charset="utf-8">', *head)), 1)
    start, stop = text.index("<noscript>"), text.index("</noscript>")
    return text[:start] + "<noscript>This page needs JavaScript." + text[stop:]


def pack(folder: Path, site: Path) -> str | None:
    """Lay out the npm package and pack it; return the archive's path, or None without npm."""

    def fill(fresh: Path) -> None:
        fresh.mkdir(parents=True)
        for name in (*LIBRARY, "README.md"):
            shutil.copy(ROOT / "web" / name, fresh)
        shutil.copy(PAGE / "js" / "look.js", fresh)
        for path in site.iterdir():
            if path.suffix in (".wasm", ".safetensors", ".tsv") or path.name in ("models.json", "LICENSE"):
                shutil.copy(path, fresh)
        package = json.loads((ROOT / "web" / "package.json").read_text(encoding="utf-8")) | {"version": __version__}
        (fresh / "package.json").write_text(json.dumps(package, indent=2) + "\n", encoding="utf-8")

    replace(folder, fill)
    npm = shutil.which("npm")
    if npm is None:
        return None
    done = subprocess.run(
        [npm, "pack", "--offline", "--pack-destination", folder.parent],
        cwd=folder,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    return str(folder.parent / done.stdout.split()[-1])


if __name__ == "__main__":
    sys.exit(main())
