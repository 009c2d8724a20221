"""`kbnet info`: facts about an image, a model, a weights file or this installation."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from kbnet.cli._terminal import print_facts, print_json, table_console

_WEIGHTS_ENDINGS = (".safetensors", ".pth", ".pt", ".ckpt")


def info(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE|NAME",
            help="Image, weights file, exported graph, or name of a model, task or network.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")] = False,
) -> None:
    """Show facts about an image, a model or this installation.

    Without an argument, it shows versions, devices and the available compute kernels.
    """
    facts = _installation() if target is None else _about(target)
    if as_json:
        print_json(facts)
    else:
        print_facts(facts, table_console())


def _about(target: str) -> dict[str, Any]:
    from kbnet.models import PRESETS, find, resolve

    if entry := find(target):
        named = {**asdict(entry), "file": str(entry.path), "credits": str(entry.credits_path or "")}
        return {**named, **_weights(resolve(target))}
    if target in PRESETS and not Path(target).exists():
        return {"network": target, **_network(PRESETS[target])}
    path = Path(target)
    if path.suffix.lower() in (".onnx", ".xml") and path.is_file():
        return {"graph": target, **_graph(path)}
    if path.exists() and not _is_weights(path):
        from kbnet.imaging import probe

        return {"image": target, **asdict(probe(path))}
    return {"weights": target, **_averages(resolve(target)), **_weights(resolve(target))}


def _graph(path: Path) -> dict[str, Any]:
    import json

    from kbnet.inference.runners.runtimes import open_exported

    network = open_exported(path)
    facts = asdict(network.facts)
    sites = facts.pop("sites")
    return facts | {"settings": json.loads(facts["settings"]), "runtime": network.runtime, "averages": len(sites)}


def _is_weights(path: Path) -> bool:
    """Whether a file has weights, by its name or first bytes: a safetensors header, a torch.save zip or a pickle."""
    from kbnet.imaging import is_supported

    if path.suffix.lower() in _WEIGHTS_ENDINGS or is_supported(path) or not path.is_file():
        return path.suffix.lower() in _WEIGHTS_ENDINGS
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        return False
    return start[8:] == b"{" or start[:2] in (b"PK", b"\x80\x02")


def _averages(path: Path) -> dict[str, Any]:
    """The context that a weights file is used with, and its window if it has one."""
    from kbnet.models.usage import Usage, usage_in

    usage = usage_in(path) or Usage()
    return {"context": usage.context, **({"window": usage.window} if usage.context == "local" else {})}


def _weights(path: Path) -> dict[str, Any]:
    from kbnet.models import matching_presets, read_weights

    config = read_weights(path).config
    return {"matching_presets": matching_presets(config), **_network(config)}


def _network(config: Any) -> dict[str, Any]:
    from kbnet.models import cost

    spent = cost(config)
    return {
        "family": config.family,
        "settings": asdict(config),
        "parameters": spent.parameters,
        "macs_256x256_convolutions": spent.convolutions,
        "macs_256x256_all": spent.total,
        "macs_per_pixel": round(spent.per_pixel),
        "input_multiple": config.input_multiple,
    }


def _installation() -> dict[str, Any]:
    import platform

    import pyvips

    from kbnet import __version__
    from kbnet.engine import native
    from kbnet.engine.threads import default_threads
    from kbnet.models import list_models

    torch = _torch()
    return {
        "kbnet": __version__,
        "python": platform.python_version(),
        "torch": torch.pop("version", "not installed; training, evaluation, export and GPUs need kbnet[torch]"),
        "libvips": ".".join(str(pyvips.version(part)) for part in range(3)),
        "device": torch.pop("device", "cpu"),
        "cpu": torch.pop("cpu", platform.machine()),
        "threads": default_threads(),
        **torch,
        "native_kernel": native.describe(),
        "instruction_sets": _instruction_sets(),
        "models": {entry.name: {"task": entry.task, "license": entry.license} for entry in list_models()},
    }


def _instruction_sets() -> dict[str, Any]:
    """What the compiled kernels can use here, the fastest first, and why they can't use the rest."""
    from kbnet.engine import native

    try:
        return {"usable": list(native.instruction_sets()), "unusable": native.unusable_instruction_sets()}
    except ImportError:
        return {}


def _torch() -> dict[str, Any]:
    """Facts about PyTorch and the operator's backends; empty where it isn't installed."""
    import platform

    from kbnet.errors import MissingExtraError

    try:
        from kbnet.ops import available_backends, triton
        from kbnet.ops.backends import BACKENDS
    except MissingExtraError:
        return {}
    import torch

    usable = available_backends()
    refusals = {backend.name: why for backend in BACKENDS if (why := backend.refuses_here()) is not None}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "version": torch.__version__,
        "device": f"cuda ({', '.join(gpus)})" if torch.cuda.is_available() else "cpu",
        "cpu": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "backends": {"usable": list(usable), "not_here": refusals, "auto": usable[0]},
        "triton_kernel": triton.describe(),
    }
