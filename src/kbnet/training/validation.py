"""Validation on held-out photos by a fixed protocol: fixed crops and fixed seeds."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Generator, Tensor

from kbnet.data import pair_of, to_tensor
from kbnet.data.photos import Pixels
from kbnet.metrics import noisy, psnr, to_uint8
from kbnet.nn import Network
from kbnet.training.sources import HeldOut

SIGMAS = (15.0, 25.0, 50.0)
"""Published noise levels for Gaussian noise, on a scale of 255; those in the training range are used."""

CROP = 256
"""Side of the centre crops in pixels; smaller photos are used whole."""

PICTURES = 2
"""Number of photos per protocol in the images of a validation."""

_HIGHEST = 60.0  # dB; limits the weight of crops that are hardly degraded or restored perfectly

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Validation:
    """The result of a validation.

    Attributes:
        scores: PSNR in dB of the restored crops, rounded to 8 bits, by protocol.
        inputs: PSNR in dB of the degraded crops, by protocol.
        pictures: some crops, with degraded, restored and clean side by side.
    """

    scores: dict[str, float]
    inputs: dict[str, float]
    pictures: dict[str, Pixels] = field(default_factory=dict, compare=False, repr=False)

    @property
    def mean(self) -> float:
        """Mean score in dB over the protocols; higher is better."""
        return float(np.mean(list(self.scores.values())))


class Validator:
    """The protocols of a run: one for each sigma of Gaussian noise, one for each other source.

    Args:
        held_out: photos or pairs of every source.
        multiple: the network's `input_multiple`; crops have sides that are multiples of it.
    """

    def __init__(self, held_out: Sequence[HeldOut], multiple: int = 1) -> None:
        self.protocols: dict[str, list[tuple[Image, Pixels]]] = {}
        for of_source in held_out:
            self.protocols |= _protocols(of_source, multiple)
        self.inputs = {name: _mean([_score(image, clean) for image, clean in p]) for name, p in self.protocols.items()}

    @torch.inference_mode()
    def __call__(self, network: Network, accelerator: Accelerator) -> Validation:
        """Score a network in eval mode. Each process restores its share, and all return the same scores."""
        scores, pictures = {}, {}
        for name, images in self.protocols.items():
            total, mine = 0.0, range(accelerator.process_index, len(images), accelerator.num_processes)
            for shown, index in enumerate(mine):
                degraded, clean = images[index]
                restored = _restore(network, degraded, accelerator.device)
                total += _score(restored, clean)
                if shown < PICTURES and accelerator.is_main_process:
                    strip = [to_uint8(degraded), to_uint8(restored), clean]
                    if clean.ndim == 3:
                        strip = [one[..., :3] for one in strip]  # of a sensor: red and green
                    pictures[f"{name}/{index}"] = np.concatenate(strip, axis=1)
            if accelerator.num_processes > 1:
                total = float(accelerator.reduce(torch.tensor(total, device=accelerator.device), "sum"))
            scores[name] = total / len(images)
        return Validation(scores, self.inputs, pictures)


def _protocols(held_out: HeldOut, multiple: int) -> dict[str, list[tuple[Image, Pixels]]]:
    source = held_out.source
    degrade = None if source.degradation is None else source.degradation.build()
    if source.degradation is not None and source.degradation.kind == "gaussian":
        low, high = getattr(degrade, "sigma")  # noqa: B009  # every degradation of this kind has a sigma
        sigmas = [sigma for sigma in SIGMAS if low <= sigma <= high] or [(low + high) / 2]
        prefix = "" if source.folder is None else f"{source.folder} "
        crops = [_centre(clean, multiple) for clean, _ in held_out.photos]
        return {f"{prefix}sigma {sigma:g}": [(noisy(clean, sigma), clean) for clean in crops] for sigma in sigmas}
    if getattr(degrade, "clean_share", 0.0):
        degrade = dataclasses.replace(cast(Any, degrade), clean_share=0.0)  # clean patches have nothing to restore
    images = []
    for index, (clean, degraded) in enumerate(held_out.photos):
        if degraded is not None:
            images.append((_centre(degraded, multiple).astype(np.float32) / np.float32(255), _centre(clean, multiple)))
            continue
        assert degrade is not None
        margin = source.actual_margin
        in_planes = hasattr(degrade, "pair")  # of half the size
        wide = _centre(clean, 2 * multiple if in_planes else multiple, margin)
        inner = tuple(slice(margin, side - margin) for side in wide.shape[:2])
        wanted, worse = pair_of(degrade, to_tensor(wide), Generator().manual_seed(index))
        images.append((_to_image(worse)[inner], to_uint8(_to_image(wanted)) if in_planes else wide[inner]))
    return {source.label: images}


def _centre(photo: Pixels, multiple: int, margin: int = 0) -> Pixels:
    """Copy the centre crop with its margins, so that the photo can be freed."""
    sides = [min(CROP, (extent - 2 * margin) // multiple * multiple) + 2 * margin for extent in photo.shape[:2]]
    top, left = ((extent - side) // 2 for extent, side in zip(photo.shape[:2], sides, strict=True))
    return np.array(photo[top : top + sides[0], left : left + sides[1]])


def _restore(network: Network, image: Image, device: torch.device) -> Image:
    tensor = torch.from_numpy(image)
    batch = tensor[None, None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)[None]
    return _to_image(network(batch.to(device))[0])


def _to_image(tensor: Tensor) -> Image:
    image: Image = tensor.permute(1, 2, 0).float().cpu().numpy()
    return image[..., 0] if image.shape[2] == 1 else image


def _score(image: Image, clean: NDArray[Any]) -> float:
    return min(psnr(to_uint8(image), clean), _HIGHEST)


def _mean(values: list[float]) -> float:
    return float(np.mean(values))
