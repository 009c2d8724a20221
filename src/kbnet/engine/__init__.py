"""Runs whole networks in one native call on a CPU: numpy arrays in and out, without PyTorch.

settings and weights --Engine--> engine --(image, context)--> restored image

`reference.py` implements the same in a few lines of numpy: the specification, and the last resort without a compiler.
"""

from kbnet.engine.contexts import Context, FullFrame, Gather, Local, Shared
from kbnet.engine.network import Engine

__all__ = ["Context", "Engine", "FullFrame", "Gather", "Local", "Shared"]
