"""Look into a source archive and a wheel before anybody else does: python .ci/check_dist.py SDIST WHEEL [--pure]

The source archive must hold the files of the commit and nothing else; the wheel the package as the source archive has
it, the compiled module (unless --pure), and its licence. Prints what is wrong, one line each; exits 1 if anything is.
"""

import argparse
import hashlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

NATIVE = re.compile(r"kbnet/engine/_native\.[^/]+\.(so|pyd)")


def tracked(root: Path, commit: str | None = None) -> set[str]:
    """The files of a commit of the repository in `root`, by their paths in it; None for those that are tracked now."""
    names = ["ls-files", "-z"] if commit is None else ["ls-tree", "-r", "-z", "--name-only", commit]
    return set(subprocess.check_output(["git", "-C", str(root), *names], text=True).strip("\0").split("\0"))


def sdist_files(path: Path) -> dict[str, bytes]:
    """What a source archive holds, by path below its one folder."""
    with tarfile.open(path) as archive:
        return {
            member.name.partition("/")[2]: archive.extractfile(member).read()  # type: ignore[union-attr]  # a file
            for member in archive.getmembers()
            if member.isfile()
        }


def problems(sdist: Path, wheel: Path, *, files: set[str], pure: bool) -> Iterator[str]:
    """One line for each thing that is wrong; `files` are those that the source archive should hold."""
    source = sdist_files(sdist)
    yield from (f"{sdist.name}: {name} is missing" for name in sorted(files - set(source)))
    yield from (
        f"{sdist.name}: {name} is not a file of the commit" for name in sorted(set(source) - files - {"PKG-INFO"})
    )

    with zipfile.ZipFile(wheel) as archive:
        packed = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    version = re.search(rb'__version__ = "(.+?)"', source["src/kbnet/__init__.py"])
    assert version is not None
    info = f"kbnet-{version[1].decode()}.dist-info/"
    package = {name.removeprefix("src/"): data for name, data in source.items() if name.startswith("src/")}
    native = {name for name in packed if NATIVE.fullmatch(name)}
    if len(native) != (0 if pure else 1):
        yield f"{wheel.name}: expected {'no' if pure else 'one'} compiled module, got {sorted(native)}"
    for name in sorted(packed.keys() - package.keys() - native):
        if not name.startswith(info):
            yield f"{wheel.name}: {name} is not a file of the package"
    for name, data in sorted(package.items()):
        if packed.get(name) != data:
            yield f"{wheel.name}: {name} {'differs from the source' if name in packed else 'is missing'}"
    if packed.get(info + "licenses/LICENSE") != source["LICENSE"]:
        yield f"{wheel.name}: the licence is missing"
    if b"\nVersion: " + version[1] + b"\n" not in packed.get(info + "METADATA", b""):
        yield f"{wheel.name}: the metadata do not give version {version[1].decode()}"
    for model, entry in tomllib.loads(source["src/kbnet/weights/catalogue.toml"].decode()).items():
        weights = packed.get("kbnet/weights/" + entry["file"], b"")
        if hashlib.sha256(weights).hexdigest() != entry["sha256"]:
            yield f"{wheel.name}: the weights of {model} are not those of the catalogue"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sdist", type=Path)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--pure", action="store_true", help="the wheel is one without compiled kernels")
    parser.add_argument("--commit", help="whose files they should hold; those that are tracked now if left out")
    given = parser.parse_args()
    files = tracked(Path(__file__).parents[1], given.commit)
    found = list(problems(given.sdist, given.wheel, files=files, pure=given.pure))
    print("\n".join(found) or f"{given.sdist.name} and {given.wheel.name} hold what they should")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
