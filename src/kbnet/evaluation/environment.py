"""The machine and the software, as far as they change a figure."""

import os
import platform
from pathlib import Path
from typing import Any

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def environment(command: str) -> dict[str, Any]:
    """What every results file says: the command that made it, processor, threads, versions, backends."""
    import torch

    import kbnet

    return {
        "command": command,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "kbnet": kbnet.__version__,
        "backends": list(kbnet.ops.available_backends()),
    }


def processor() -> str:
    """The processor's name and which of the instructions it has that the kernels use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wanted = [flag for flag in _FLAGS if flag in found.get("flags", "").split()]
    return f"{found.get('model name', platform.processor())} ({', '.join(wanted)})"


def plain_path(argument: str) -> str:
    """Folders of a machine are nobody's business: an absolute path as its last part, anything else as it is."""
    return Path(argument).name if Path(argument).is_absolute() else argument
