"""PSNR of a denoiser on a folder of clean test images: `kbnet evaluate --benchmark gaussian`, with its results named.

    python benchmarks/gaussian.py --data .../CBSD68 --model denoise

Writes benchmarks/results/gaussian-SET-MODEL-CONTEXT.json. A killed run resumes.
"""

import argparse
import sys
from pathlib import Path

from facts import RESULTS
from kbnet.cli import main as kbnet
from kbnet.models import find


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of clean images")
    parser.add_argument("--model", default="denoise", help="model, task or weights file")
    parser.add_argument("--sigma", type=float, nargs="+", default=[15, 25, 50])
    parser.add_argument("--context", default="auto", choices=["auto", "global", "local", "tile"])
    parser.add_argument("--ensemble", action="store_true")
    parser.add_argument("--name", help="name of the results file")
    options = parser.parse_args()

    entry = find(options.model)
    model = entry.name if entry else Path(options.model).stem
    usual = entry.context if entry else "global"
    context = usual if options.context == "auto" else options.context
    name = options.name or f"gaussian-{options.data.resolve().name}-{model}-{context}"
    path = RESULTS / f"{name}.json"
    arguments = ["--data", options.data, "--model", entry.name if entry else options.model, "--context", context]
    for sigma in options.sigma:
        arguments += ["--sigma", f"{sigma:g}"]
    # a complete file is measured again, a partial one is resumed
    arguments += ["--resume" if path.with_name(f"{path.name}.rows").exists() else "--overwrite", "--output", path]
    if options.ensemble:
        arguments.append("--ensemble")
    return kbnet(["evaluate", "--benchmark", "gaussian", *map(str, arguments)])


if __name__ == "__main__":
    sys.exit(main())
