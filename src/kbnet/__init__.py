"""kbnet restores photographs (noise, rain, blur) with KBNet, the Kernel Basis Network (arXiv 2303.02881)."""

from kbnet import errors, ops
from kbnet.errors import KBNetError
from kbnet.inference import Restorer, restore
from kbnet.models import create_model, list_models, load_model

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
