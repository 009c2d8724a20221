"""The header of the C interface, by compilers."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from c_library import Image, Options


@pytest.mark.parametrize(("compiler", "standard"), [("cc", "c99"), ("c++", "c++11")])
def test_the_header_and_the_example_are_plain_c(compiler, standard, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    root = Path(__file__).parents[2]
    source = root / "examples" / "restore.c"
    if compiler == "c++":
        source = tmp_path / "header.cpp"
        source.write_text("#include <kbnet.h>\nint main() { return kbnet_abi_version() != KBNET_ABI_VERSION; }\n")
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-std={standard}", "-fsyntax-only"]
    child = subprocess.run(
        [compiler, *strict, "-I", root / "csrc" / "include", source], capture_output=True, text=True, check=False
    )
    assert (child.returncode, child.stderr) == (0, "")


def test_structs_are_laid_out_as_a_compiler_lays_them_out(tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("there is no cc")
    structs = {"kbnet_image": Image, "kbnet_options": Options}
    lines = [
        f'printf("%zu\\n", offsetof({name}, {field[0]}));' for name, kind in structs.items() for field in kind._fields_
    ]
    lines += [f'printf("%zu\\n", sizeof({name}));' for name in structs]
    source = tmp_path / "layout.c"
    source.write_text(
        "#include <kbnet.h>\n#include <stdio.h>\nint main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n"
    )
    include = Path(__file__).parents[2] / "csrc" / "include"
    subprocess.run(["cc", "-I", include, source, "-o", tmp_path / "layout"], check=True)
    printed = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True).stdout
    expected = [getattr(kind, field[0]).offset for kind in structs.values() for field in kind._fields_]
    assert [int(line) for line in printed.split()] == expected + [ctypes.sizeof(kind) for kind in structs.values()]
