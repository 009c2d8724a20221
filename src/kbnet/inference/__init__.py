"""Running a network on images of any size: the Restorer, tiles that fit together, jobs over files."""

from kbnet.inference.restorer import Restorer, restore

__all__ = ["Restorer", "restore"]
