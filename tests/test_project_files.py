"""The files that a project lives by are valid and agree: workflows, templates, citation, hooks, scripts, packages."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import kbnet
from linters import run, tool

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", WORKFLOWS),
        ("github-issue-forms", [ROOT / ".github/ISSUE_TEMPLATE" / name for name in ("bug.yml", "feature.yml")]),
        ("github-issue-config", [ROOT / ".github/ISSUE_TEMPLATE/config.yml"]),
        ("dependabot", [ROOT / ".github/dependabot.yml"]),
        ("citation-file-format", [ROOT / "CITATION.cff"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_file_follows_its_schema(schema, files):
    assert files
    run(tool("check-jsonschema"), "--builtin-schema", f"vendor.{schema}", *files)


def test_zizmor_finds_nothing_in_the_workflows(tmp_path):
    run(tool("zizmor"), "--offline", "--quiet", "--persona=pedantic", ROOT / ".github")
    unsafe = tmp_path / ".github" / "workflows" / "unsafe.yml"
    unsafe.parent.mkdir(parents=True)
    text = WORKFLOWS[0].read_text(encoding="utf-8")
    unsafe.write_text(re.sub(r"@[0-9a-f]{40} # (\S+)", r"@\1", text))
    done = subprocess.run([tool("zizmor"), "--offline", "--quiet", str(unsafe)], capture_output=True, text=True)
    assert done.returncode != 0
    assert "unpinned-uses" in done.stdout


def test_workflows_call_what_the_repository_has():
    steps = [
        step
        for path in WORKFLOWS
        for job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].values()
        for step in job["steps"]
    ]
    commands = "\n".join(step["run"] for step in steps if "run" in step)
    assert ".ci/run" in commands.splitlines()
    targets = set(re.findall(r"^make ([\w-]+)$", commands, re.MULTILINE))
    assert targets
    assert {name for name in targets if not re.search(rf"^{name}:", MAKEFILE, re.MULTILINE)} == set()
    used = {step["uses"].partition("@")[0] for step in steps if "uses" in step}
    assert {"actions/attest-build-provenance", "actions/attest-sbom", "pypa/gh-action-pypi-publish"} <= used


def test_shellcheck_finds_nothing_in_the_scripts():
    scripts = [path for folder in (".ci", "tools") for path in sorted((ROOT / folder).iterdir()) if path.is_file()]
    scripts = [path for path in scripts if path.suffix == "" and path.read_bytes().startswith(b"#!")]
    assert len(scripts) >= 5
    run(tool("shellcheck"), *scripts)


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == kbnet.__version__
    assert "arXiv:2303.02881" in str(citation["references"])


def test_hooks_run_the_checks_of_make_check():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1]

    def names(text):
        return set(re.findall(r"-m (ruff format|ruff check|\w+)|(?:-c) \"(from importlinter[^\"]*)\"", text))

    assert names("\n".join(hook["entry"] for hook in hooks)) == names(recipe)


def test_security_names_settings_that_exist():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    workflow = re.search(r"`(\w+\.yml)`", text)[1]
    assert (ROOT / ".github" / "workflows" / workflow).exists()
    assert (ROOT / "benchmarks" / "hostile.py").exists()


def test_the_slow_marker_leaves_tests_out_of_make_test_and_not_of_make_test_all():
    options = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]["ini_options"]
    assert any(marker.startswith("slow:") for marker in options["markers"])

    def recipe(target):
        done = subprocess.run(
            ["make", "--no-print-directory", "--dry-run", target, f"PYTHON={sys.executable}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        return done.stdout

    for target, marked in (("test", 2), ("test-all", 0)):
        assert recipe(target).count("-m pytest") == 2
        assert recipe(target).count(' -m "not slow"') == marked
    assert "slow" not in recipe("test-all")


def test_architecture_lists_every_package():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.partition("| package |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = [name.strip().removeprefix("kbnet.") for layer in contracts[0]["layers"] for name in layer.split("|")]
    assert sorted(rows) == sorted(layers)
    assert (rows[0], rows[-1]) == (layers[-1], layers[0])


def test_architecture_names_only_files_that_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## Where do I change X?")[2]
    text = text.partition("## Decisions")[0]
    named = {word.split(" ")[0] for word in re.findall(r"`([^`]+)`", text) if "/" in word or word.endswith(".py")}
    assert len(named) > 40

    def exists(name):
        folders = [ROOT, ROOT / "src/kbnet", ROOT / "src/kbnet/evaluation", ROOT / "src/kbnet/degradations"]
        return any(list(folder.glob(name)) for folder in folders)

    assert {name for name in named if not exists(name.rstrip("/"))} == set()
