"""LPIPS (Zhang et al., CVPR 2018), an adapter to its authors' package, which is an extra with its own weights."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kbnet.errors import InvalidInputError, MissingExtraError


class Lpips:
    """Perceptual distance between two images: 0 for identical images, lower is better.

    The first use downloads the weights of the backbone through torchvision. The values have not been compared with
    published ones, so results mark them as not verified.

    Args:
        net: the backbone: "alex" (reported by papers on deblurring), "vgg" or "squeeze".

    Raises:
        MissingExtraError: the package `lpips` or `torchvision` isn't installed.
    """

    def __init__(self, net: str = "alex") -> None:
        from kbnet import needs_torch  # noqa: F401

        try:
            from lpips import LPIPS
        except ModuleNotFoundError as error:
            raise MissingExtraError(str(error.name or "lpips"), "lpips") from None
        self._network: Any = LPIPS(net=net, verbose=False).eval()

    def __call__(self, image: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
        """Return the distance between two colour images [H,W,3] with values in [0,1].

        Raises:
            InvalidInputError: the images aren't [H,W,3] or differ in shape.
        """
        import torch

        if image.shape != reference.shape or image.ndim != 3 or image.shape[2] != 3:
            raise InvalidInputError(
                f"expected two colour images [H,W,3] of the same shape, got {image.shape} and {reference.shape}"
            )
        pair = [
            torch.from_numpy(np.array(a, dtype=np.float32)).permute(2, 0, 1)[None] * 2 - 1 for a in (image, reference)
        ]
        with torch.inference_mode():
            return float(self._network(*pair))
