"""Run a network on images of any size: the Restorer, tiling, and jobs over files.

`kbnet.inference.jobs` works without torch, so the Restorer is imported on first use (PEP 562).
"""

from typing import TYPE_CHECKING, Any

__all__ = ["Restorer", "restore"]

if TYPE_CHECKING:
    from kbnet.inference.restorer import Restorer, restore


def __getattr__(name: str) -> Any:
    if name in __all__:
        from kbnet.inference import restorer

        return getattr(restorer, name)
    raise AttributeError(f"module 'kbnet.inference' has no attribute {name!r}")
