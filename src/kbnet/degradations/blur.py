"""Blur by given kernels: in linear light, varying over the image, and in layers that do not bleed into each other."""

import torch
from torch import Tensor

from kbnet.errors import InvalidInputError


def to_linear(image: Tensor) -> Tensor:
    """sRGB values in [0,1] as linear light (IEC 61966-2-1)."""
    return torch.where(image <= 0.04045, image / 12.92, ((image.clamp_min(0) + 0.055) / 1.055).pow(2.4))


def to_srgb(linear: Tensor) -> Tensor:
    """Linear light in [0,1] as sRGB values (IEC 61966-2-1)."""
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(0.0031308).pow(1 / 2.4) - 0.055)


def mirrored(image: Tensor, rows: int, columns: int) -> Tensor:
    """[...,H,W] with a border of mirrored pixels (the edge pixel is repeated), which may be wider than the image."""
    height, width = image.shape[-2:]
    return image.index_select(-2, _mirror(height, rows)).index_select(-1, _mirror(width, columns))


def convolve(image: Tensor, kernels: Tensor) -> Tensor:
    """Convolve an image with each of K kernels, over mirrored borders, by FFT.

    Args:
        image: [C,H,W] float, of any size.
        kernels: [K,k,l] with odd k and l; the middle is the origin.

    Returns:
        [K,C,H,W]. Where kernels sum to 1, constant images come back exactly.

    Raises:
        InvalidInputError: `kernels` have another rank or an even side.
    """
    if kernels.ndim != 3 or kernels.shape[1] % 2 == 0 or kernels.shape[2] % 2 == 0 or len(kernels) == 0:
        raise InvalidInputError(f"expected kernels [K,k,l] with odd sides, got {list(kernels.shape)}")
    rows, columns = kernels.shape[1] // 2, kernels.shape[2] // 2
    height, width = image.shape[-2:]
    # relative to one pixel, so that rounding in the transform cannot tint a flat area
    reference = image[:, :1, :1]
    # what the transform wraps around ends up outside the part that is kept
    size = (fast_length(height + 2 * rows), fast_length(width + 2 * columns))
    spectrum = torch.fft.rfft2(mirrored(image - reference, rows, columns), s=size)
    product = spectrum[None] * torch.fft.rfft2(kernels.to(image.dtype), s=size)[:, None]
    whole: Tensor = torch.fft.irfft2(product, s=size)
    kept = whole[..., 2 * rows : 2 * rows + height, 2 * columns : 2 * columns + width]
    return kept + reference * kernels.sum((1, 2)).to(image.dtype)[:, None, None, None]


def blur(image: Tensor, kernel: Tensor, *, linear: bool = True) -> Tensor:
    """Blur [C,H,W] in [0,1] with one kernel [k,l] of odd sides and sum 1.

    Light adds up before the camera's tone curve, so real blur is a convolution in linear light (`linear`); most
    benchmarks with given kernels convolve sRGB values instead.
    """
    if not linear:
        return convolve(image, kernel[None])[0].clamp_(0, 1)
    return to_srgb(convolve(to_linear(image), kernel[None])[0].clamp_(0, 1))


def varying_blur(image: Tensor, kernels: Tensor, weights: Tensor) -> Tensor:
    """Blur by a mixture of kernels at every pixel: sum of weight times convolution (efficient filter flow, Hirsch et
    al., CVPR 2010, with smooth weights in place of its overlapping patches).

    Args:
        image: [C,H,W].
        kernels: [K,k,l] of odd sides, each of sum 1.
        weights: [K,H,W] of sum 1 at every pixel.
    """
    return torch.einsum("kchw,khw->chw", convolve(image, kernels), weights)


def layered_blur(
    image: Tensor, foreground: Tensor, back: tuple[Tensor, Tensor], front: tuple[Tensor, Tensor]
) -> Tensor:
    """Blur a near and a far layer each in its own way, then put the near one over the far one.

    What the near layer hides of the far one is filled in from the far one's surroundings before it is blurred, so a
    sharp object does not bleed into the blur behind it, and the edge of a blurred object becomes transparent (Ikoma et
    al., "Depth from Defocus with Learned Optics", ICCP 2021, section 3.1, with two layers).

    Args:
        image: [C,H,W], in linear light for true colours.
        foreground: opacity of the near layer, [H,W] in [0,1].
        back, front: kernels [K,k,l] and weights [K,H,W] of each layer, as for `varying_blur`.
    """
    behind = 1 - foreground
    far = varying_blur(_filled(image, behind), *back)
    near = varying_blur(torch.cat([image * foreground, foreground[None]]), *front)
    return near[:-1] + (1 - near[-1:]) * far


def region_weights(height: int, width: int, rows: int, columns: int) -> Tensor:
    """Weights [rows*columns,H,W] of bilinear interpolation between the middles of a grid of regions; sum 1."""
    down, across = _tents(height, rows), _tents(width, columns)
    return (down[:, None, :, None] * across[None, :, None, :]).reshape(-1, height, width)


def _tents(length: int, count: int) -> Tensor:
    position = ((torch.arange(length) + 0.5) * count / length - 0.5).clamp(0, count - 1)
    return (1 - (position - torch.arange(count)[:, None]).abs()).clamp_min(0)


def _filled(image: Tensor, known: Tensor) -> Tensor:
    """The image where it is known, elsewhere the mean of known pixels near by, from a pyramid of halved sizes."""
    whole = torch.cat([image * known, known[None]])
    levels = [whole]
    while max(levels[-1].shape[-2:]) > 1:
        levels.append(torch.nn.functional.avg_pool2d(levels[-1], 2, ceil_mode=True, count_include_pad=False))
    filled = levels[-1][:-1] / levels[-1][-1:].clamp_min(1e-6)
    for level in reversed(levels[:-1]):
        height, width = level.shape[-2:]
        coarse = filled.repeat_interleave(2, -2).repeat_interleave(2, -1)[..., :height, :width]
        filled = level[:-1] + (1 - level[-1:]) * coarse
    return filled


def _mirror(length: int, border: int) -> Tensor:
    index = torch.arange(-border, length + border) % (2 * length)
    return torch.minimum(index, 2 * length - 1 - index)


def fast_length(length: int) -> int:
    """The next length whose transform is fast: no prime factor above 5."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1
