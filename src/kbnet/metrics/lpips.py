"""LPIPS (Zhang et al., CVPR 2018) through its authors' package, which is an extra: it brings its own weights."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError, MissingExtraError


class Lpips:
    """The perceptual distance between two images; 0 for equal ones, lower is better.

    An adapter: the number is the package's. It was not compared with a published one here, so results that carry it
    say that it is not verified.

    Args:
        net: the network it looks through, "alex" (which deblurring papers report), "vgg" or "squeeze".

    Raises:
        MissingExtraError: the packages `lpips` and `torchvision` are not installed. The first use of `lpips` downloads
            the weights of AlexNet through torchvision.
    """

    def __init__(self, net: str = "alex") -> None:
        try:
            from lpips import LPIPS
        except ModuleNotFoundError as error:
            raise MissingExtraError(str(error.name or "lpips"), "lpips") from None
        self._network: Any = LPIPS(net=net, verbose=False).eval()

    def __call__(self, image: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
        """The distance between two colour images [H,W,3] in [0,1].

        Raises:
            InvalidInputError: they are no colour images of one shape.
        """
        if image.shape != reference.shape or image.ndim != 3 or image.shape[2] != 3:
            raise InvalidInputError(
                f"expected two colour images [H,W,3] of one shape, got {image.shape} and {reference.shape}"
            )
        pair = [
            torch.from_numpy(np.array(a, dtype=np.float32)).permute(2, 0, 1)[None] * 2 - 1 for a in (image, reference)
        ]
        with torch.inference_mode():
            return float(self._network(*pair))
