"""Whole networks in one native call on a CPU: numpy arrays in and out, no PyTorch.

settings and weights --Engine--> packed once --engine(image, context)--> the restored image

`reference.py` is the same in numpy, slow and short: the specification, and what runs where nothing could be compiled.
"""

from kbnet.engine.contexts import Context, FullFrame, Gather, Local, Shared
from kbnet.engine.network import Engine

__all__ = ["Context", "Engine", "FullFrame", "Gather", "Local", "Shared"]
