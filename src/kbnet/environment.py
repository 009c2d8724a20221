"""Facts about the machine and software that results depend on."""

import os
import platform
from pathlib import Path
from typing import Any

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def environment(command: str) -> dict[str, Any]:
    """Return the facts for a results file: its command, processor, threads, versions and backends."""
    import kbnet
    from kbnet.engine.threads import default_threads

    return {
        "command": command,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": default_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "kbnet": kbnet.__version__,
        **_of_torch(),
    }


def _of_torch() -> dict[str, Any]:
    """Return the version of PyTorch and the operator's backends, where it is installed."""
    try:
        import torch

        from kbnet import ops
    except ImportError:
        return {"torch": None, "backends": []}
    return {"torch": torch.__version__, "backends": list(ops.available_backends())}


def processor() -> str:
    """Return the processor's name, and which instruction sets used by the kernels it supports."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    wanted = [flag for flag in _FLAGS if flag in found.get("flags", "").split()]
    return f"{found.get('model name', platform.processor())} ({', '.join(wanted)})"


def plain_path(argument: str) -> str:
    """Reduce an absolute path to its last component, to keep the machine's folders private; keep other arguments."""
    return Path(argument).name if Path(argument).is_absolute() else argument
