"""Check the contents of a source archive and a wheel: python .ci/check_dist.py SDIST WHEEL [--pure]

The source archive must contain exactly the files of the commit; the wheel exactly the package of the source archive,
the compiled module (unless --pure) and the licence. Prints one line per problem; exits with 1 if there is any.
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
    """Paths of the files in a commit of the repository in `root`; None for the tracked files."""
    names = ["ls-files", "-z"] if commit is None else ["ls-tree", "-r", "-z", "--name-only", commit]
    return set(subprocess.check_output(["git", "-C", str(root), *names], text=True).strip("\0").split("\0"))


def sdist_files(path: Path) -> dict[str, bytes]:
    """The files of a source archive, by path below its only folder."""
    with tarfile.open(path) as archive:
        return {
            member.name.partition("/")[2]: archive.extractfile(member).read()  # type: ignore[union-attr]  # a file
            for member in archive.getmembers()
            if member.isfile()
        }


def problems(sdist: Path, wheel: Path, *, files: set[str], pure: bool) -> Iterator[str]:
    """One line per problem; `files` are those that the source archive must contain."""
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
        yield f"{wheel.name}: the metadata lacks version {version[1].decode()}"
    for model, entry in tomllib.loads(source["src/kbnet/weights/catalogue.toml"].decode()).items():
        weights = packed.get("kbnet/weights/" + entry["file"], b"")
        if hashlib.sha256(weights).hexdigest() != entry["sha256"]:
            yield f"{wheel.name}: the weights of {model} differ from the catalogue"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sdist", type=Path)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--pure", action="store_true", help="expect a wheel without compiled kernels")
    parser.add_argument("--commit", help="commit whose files to expect; default: the tracked files")
    given = parser.parse_args()
    files = tracked(Path(__file__).parents[1], given.commit)
    found = list(problems(given.sdist, given.wheel, files=files, pure=given.pure))
    print("\n".join(found) or f"{given.sdist.name} and {given.wheel.name} contain the expected files")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
