"""The facts in every results file about the machine and the command, and how results are written."""

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

import kbnet

RESULTS = Path(__file__).parent / "results"


def facts() -> dict[str, Any]:
    """The facts about machine and software that affect the figures."""
    return {
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_plain, sys.argv[1:])]),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kbnet": kbnet.__version__,
        "backends": list(kbnet.ops.available_backends()),
    }


def write(name: str, results: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write results and facts to benchmarks/results/NAME.json, or to another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"facts": facts(), **results}, indent=1) + "\n", encoding="utf-8")
    return path


def _plain(argument: str) -> str:
    """Remove folders of this machine: an absolute path, also in NAME=PATH, becomes its last part."""
    name, equals, value = argument.rpartition("=")
    return f"{name}{equals}{Path(value).name}" if Path(value).is_absolute() else argument


def processor() -> str:
    """The processor, and which of the instructions it has that matter here."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wanted = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in found.get("flags", "").split()]
    return f"{found.get('model name', platform.processor())} ({', '.join(wanted)})"
