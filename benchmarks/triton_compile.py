"""Compile the Triton kernels ahead of time for sm_80 and sm_90 and report their resources; needs no GPU.

    python benchmarks/triton_compile.py            # every kernel at the published sizes: some minutes
    python benchmarks/triton_compile.py --quick    # one network, dtype and architecture; writes nothing

Writes benchmarks/results/triton-compile.json: registers per thread, spilled bytes and shared memory, as reported by
ptxas. Exits with 1 if any kernel spills. Does nothing if Triton isn't installed. The image size and the number of
channels are not compiled in, so one row covers all widths of a network; tensors whose strides or pixels need 64-bit
integers get separate kernels. Speed is not measured here.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch

if find_spec("triton") is None:
    print("nothing to compile: triton is not installed; to install it, run pip install 'kbnet[triton]'")
    sys.exit(0)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from facts import write
from kbnet.ops import triton as backend
from kbnet.ops import triton_kernels

# N, G, and the channels that the operator meets in these networks; k = 3.
NETWORKS = {
    "KBNet-S": (32, 4, (64, 128, 256, 512, 1024)),
    "KBNet-L": (32, 2, (72, 144, 288, 576)),
    "kbnet-nano": (8, 4, (16, 32, 64, 128, 256)),
}
ARCHITECTURES = (80, 90)
KERNELS = {
    "forward": ("apply_kernel", False),
    "gradient of x": ("apply_kernel", True),
    "gradient of coefficients": ("coefficients_gradient_kernel", False),
    "gradient of bases": ("bases_gradient_kernel", False),
    "sums of parts": ("fold_kernel", False),
}
# Strides of bases and biases in memory: contiguous, or as `kbnet.ops.triton` packs the bases for large images.
LAYOUTS = ("in place", "packed")
SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
# dtype, and whether float32 may be multiplied as TF32
PRECISIONS = ((torch.float32, False), (torch.float32, True), (torch.bfloat16, False), (torch.float16, False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="KBNet-S, bfloat16, sm_90; write nothing")
    quick = parser.parse_args().quick
    rows = []
    for row in compile_all(quick):
        print(
            f"{row['network']:10} {row['kernel']:24} {row['dtype']:8} {row['products']:4} {row['sizes']} bits "
            f"{row['architecture']} {row['registers']:3} registers, {row['spill_bytes']} bytes spilled, "
            f"{row['shared_bytes']:5} bytes shared"
        )
        rows.append(row)
    spilling = sum(row["spill_bytes"] > 0 for row in rows)
    print(f"{len(rows)} kernels, {spilling} of them spill")
    if not quick:
        channels = {name: list(widths) for name, (_, _, widths) in NETWORKS.items()}
        print(write("triton-compile", {"triton": triton.__version__, "channels": channels, "rows": rows}))
    sys.exit(1 if spilling else 0)


def compile_all(quick: bool) -> Iterator[dict[str, Any]]:
    """Rows for all combinations, or for the few of a quick run."""
    for name, (n, g, _) in NETWORKS.items():
        weight = torch.empty(n, g, g, 3, 3, device="meta")
        for dtype, tf32 in PRECISIONS:
            torch.backends.cuda.matmul.allow_tf32 = tf32
            for label, (kernel, backward) in KERNELS.items():
                fold = label == "sums of parts"
                settings = backend.FOLD if fold else backend.settings(kernel, weight, dtype, backward=backward)
                # A small image's gradient of coefficients is written in parts, which are float32.
                outputs = {dtype, torch.float32} if label == "gradient of coefficients" else {dtype}
                for output, layout, bits, architecture in product(
                    sorted(outputs, key=str), LAYOUTS, (32, 64), ARCHITECTURES
                ):
                    wanted = (name, dtype, architecture, bits) == ("KBNet-S", torch.bfloat16, 90, 32)
                    if (quick and not wanted) or (
                        layout == "packed" and label in ("gradient of bases", "sums of parts")
                    ):
                        continue
                    yield {
                        "network": name,
                        "kernel": label,
                        "dtype": str(dtype).removeprefix("torch."),
                        "output": str(output).removeprefix("torch."),
                        "products": "half" if dtype != torch.float32 else "tf32" if tf32 else "ieee",
                        "bases": layout,
                        "sizes": bits,
                        "architecture": f"sm_{architecture}",
                        "settings": described(settings),
                        **compile_one(settings, dtype, output, strides(n, g, layout), bits, architecture),
                    }


def strides(n: int, g: int, layout: str) -> dict[str, int]:
    """Strides of bases and biases, by the names of the kernels' arguments."""
    weight = torch.empty(n, 16 * g, g, 3, 3, device="meta")
    if layout == "packed":
        weight = weight.permute(3, 4, 2, 1, 0).contiguous().permute(4, 3, 2, 0, 1)
    return dict(zip((*triton_kernels.W, *triton_kernels.B), (*weight.stride(), 16 * g, 1), strict=True))


TILES = ("P", "BN", "IG", "GB", "OG", "PARTS")


def described(settings: backend.Settings) -> str:
    """Tile sizes (see triton_kernels.py), warps and pipeline stages."""
    tiles = [f"{key}={value}" for key, value in settings.constants.items() if key in TILES]
    return " ".join([*tiles, f"warps={settings.num_warps}", f"stages={settings.num_stages}"])


def compile_one(
    settings: backend.Settings,
    dtype: torch.dtype,
    output: torch.dtype,
    strides: dict[str, int],
    bits: int,
    architecture: int,
) -> dict[str, int]:
    """Registers per thread, spilled bytes and shared memory of one kernel on one architecture."""
    compiled = compiled_kernel(settings, dtype, output, strides, bits, architecture)
    return {**ptxas_report(compiled.asm["ptx"]), "shared_bytes": compiled.metadata.shared}


def compiled_kernel(
    settings: backend.Settings,
    dtype: torch.dtype,
    output: torch.dtype,
    strides: dict[str, int],
    bits: int,
    architecture: int,
) -> Any:
    """Compile the kernel as Triton does for a launch with these strides."""
    function = getattr(triton_kernels, settings.kernel)
    constants = dict(settings.constants)
    # Triton treats a stride of 1 as a constant, and specializes on whether 16 divides the others.
    constants |= {name: value for name, value in strides.items() if value == 1 and name in function.arg_names}
    pointers = {f"{name}_part_ptr": torch.float32 for name in ("da", "dw", "db")}
    if settings.kernel != "fold_kernel":
        pointers |= {"dw_ptr": torch.float32, "db_ptr": torch.float32, "da_ptr": output}
    signature, attributes = {}, {}
    for position, name in enumerate(function.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            signature[name] = f"*{SHORT[pointers.get(name, dtype)]}"
            attributes[(position,)] = [["tt.divisibility", 16]]  # PyTorch's allocations are aligned
        else:
            signature[name] = f"i{bits if name in WIDE else 32}"
            if strides.get(name, 1) % 16 == 0:
                attributes[(position,)] = [["tt.divisibility", 16]]
    return triton.compile(
        ASTSource(function, signature, constants, attributes),
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": settings.num_warps, "num_stages": settings.num_stages},
    )


# On a very large image, the number of pixels and the strides exceed 32 bits.
WIDE = {"pixels", *triton_kernels.X, *triton_kernels.A, *triton_kernels.DY, *triton_kernels.Y, *triton_kernels.DA}


def ptxas_report(ptx: str) -> dict[str, int]:
    """The ptxas report for a kernel's PTX."""
    target = re.search(r"^\.target (sm_\w+)", ptx, re.MULTILINE)
    assert target is not None
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        command = [triton.knobs.nvidia.ptxas.path, "-v", f"--gpu-name={target[1]}", str(source)]
        report = subprocess.run(
            [*command, "-o", str(source.with_suffix(".cubin"))], check=True, capture_output=True, text=True
        ).stderr
    registers = re.search(r"Used (\d+) registers", report)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    if registers is None or spills is None:
        raise SystemExit(f"expected ptxas to report registers and spills, got: {report}")
    return {"registers": int(registers[1]), "spill_bytes": int(spills[1]) + int(spills[2])}


if __name__ == "__main__":
    main()
