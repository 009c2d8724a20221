"""What `make web` builds."""

import gzip
import hashlib
import json
import re
import shutil

import pytest

from kbnet.models import TASKS

pytestmark = pytest.mark.slow

FIRST_VISIT = 6_500_000  # bytes, compressed where hosts compress
TASK = 8_000_000


def transferred(path):
    """Bytes that a static host sends: text and modules compressed, weights as they are."""
    data = path.read_bytes()
    return len(data if path.suffix in (".safetensors", ".png", ".jpg") else gzip.compress(data))


def kept_offline(site):
    text = (site / "sw.js").read_text(encoding="utf-8")
    return json.loads(re.search(r"const FILES = (\[.*?\]);", text, re.DOTALL)[1])


def test_a_first_visit_and_every_task_stay_within_their_size(site):
    first = sum(transferred(site / (name.replace("./", "index.html"))) for name in kept_offline(site))
    assert first + transferred(site / "sw.js") < FIRST_VISIT
    models = json.loads((site / "models.json").read_text(encoding="utf-8"))
    assert set(models) == set(TASKS)
    assert [task for task, model in models.items() if "gray" in model] == ["denoise", "denoise-gaussian"]
    for model in (*models.values(), *(model["gray"] for model in models.values() if "gray" in model)):
        assert transferred(site / model["file"]) < TASK
        assert (site / model["credits"]).is_file() if "NC" not in model["license"] else "credits" not in model
        assert hashlib.sha256((site / model["file"]).read_bytes()).hexdigest() == model["sha256"]


def test_the_service_worker_keeps_what_the_page_with_its_first_task_needs(site):
    kept = set(kept_offline(site))
    models = json.loads((site / "models.json").read_text(encoding="utf-8"))
    others = {model["file"] for task, model in models.items() if task != "denoise"}
    others |= {model["gray"]["file"] for model in models.values() if "gray" in model}
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert kept == files - others - {"sw.js", "LICENSE", "credits.tsv", "index.html"} | {"./"}


def test_a_build_is_reproducible_and_its_version_changes_with_its_contents(site, tool, tmp_path):
    modules = {variant: site / f"kbnet-{variant}.wasm" for variant in tool.VARIANTS}
    again, changed = tmp_path / "again", tmp_path / "changed"
    tool.replace(again, lambda folder: tool.assemble(folder, modules))
    assert (again / "sw.js").read_bytes() == (site / "sw.js").read_bytes()
    other = tmp_path / "other.wasm"
    other.write_bytes(b"another")
    tool.replace(changed, lambda folder: tool.assemble(folder, modules | {"simd": other}))
    assert (changed / "sw.js").read_bytes() != (site / "sw.js").read_bytes()


def test_the_page_forbids_other_origins_and_can_be_installed(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', index)[1]
    for part in policy.split("; "):
        assert set(part.split()[1:]) <= {"'self'", "'none'", "'wasm-unsafe-eval'", "blob:"}
    assert policy.startswith("default-src 'none'")
    assert index.index("Content-Security-Policy") < index.index("stylesheet")  # it holds for what comes after it
    assert "docs" not in index[index.index("<noscript>") :]
    manifest = json.loads((site / "kbnet.webmanifest").read_text(encoding="utf-8"))
    assert {"192x192", "512x512"} <= {icon["sizes"] for icon in manifest["icons"]}
    for icon in manifest["icons"]:
        assert (site / icon["src"]).stat().st_size > 200


def test_the_npm_package_holds_what_it_loads(site, tool, tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("there is no npm on this machine: install the system's package npm")
    import tarfile

    archive = tool.pack(tmp_path / "npm", site)
    with tarfile.open(archive) as packed:
        names = {name.removeprefix("package/") for name in packed.getnames()}
    weights = {path.name for path in site.glob("*.safetensors")}
    credits = {path.name for path in site.glob("*.tsv")}
    assert len(weights) == len(TASKS) + 2  # two tasks have weights for gray images
    assert credits
    assert names == weights | credits | {
        *("kbnet.js", "kbnet.d.ts", "crew.js", "worker.js", "engine.js", "fetching.js", "look.js"),
        *("kbnet-simd.wasm", "kbnet-relaxed.wasm", "models.json", "package.json", "README.md", "LICENSE"),
    }


def test_without_a_compiler_one_line_says_what_to_install(tool, monkeypatch, capsys):
    monkeypatch.setattr(tool.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(tool.shutil, "which", lambda name: None)
    monkeypatch.setattr(tool.sys, "argv", ["web.py"])
    assert tool.main() == 1
    install = f"{tool.sys.executable} -m pip install ziglang"
    assert capsys.readouterr().err == f"make web needs zig's C++ compiler; install it with: {install}\n"


def test_a_folder_of_something_else_is_not_replaced(tool, monkeypatch, capsys, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    monkeypatch.setattr(tool, "compiler", lambda: ["zig"])
    monkeypatch.setattr(tool.sys, "argv", ["web.py", "--out", str(tmp_path)])
    assert tool.main() == 1
    assert "is not an earlier build of the page" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").exists()
