"""kbnet restores photos (noise, rain, blur) with KBNet, the Kernel Basis Network (arXiv 2303.02881)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = [
    "KBNetError",
    "Restorer",
    "__version__",
    "create_model",
    "errors",
    "list_models",
    "load_model",
    "ops",
    "restore",
]

if TYPE_CHECKING:
    from kbnet import errors, ops
    from kbnet.errors import KBNetError
    from kbnet.inference import Restorer, restore
    from kbnet.models import list_models
    from kbnet.nn import create_model, load_model

# Names are imported on first use (PEP 562): importing torch takes seconds, and `kbnet --help` doesn't need it.
_HOMES = {
    "KBNetError": "kbnet.errors",
    "Restorer": "kbnet.inference.restorer",
    "create_model": "kbnet.nn",
    "list_models": "kbnet.models",
    "load_model": "kbnet.nn",
    "restore": "kbnet.inference.restorer",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in ("errors", "ops"):
        return import_module(f"kbnet.{name}")
    raise AttributeError(f"module 'kbnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
