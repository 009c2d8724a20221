"""Blur with given kernels: in linear light, spatially varying, and in layers that don't bleed into each other."""

import torch
from torch import Tensor

from kbnet.errors import InvalidInputError


def to_linear(image: Tensor) -> Tensor:
    """Convert sRGB values in [0,1] to linear light (IEC 61966-2-1)."""
    return torch.where(image <= 0.04045, image / 12.92, ((image.clamp_min(0) + 0.055) / 1.055).pow(2.4))


def to_srgb(linear: Tensor) -> Tensor:
    """Convert linear light in [0,1] to sRGB values (IEC 61966-2-1)."""
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clamp_min(0.0031308).pow(1 / 2.4) - 0.055)


def mirrored(image: Tensor, rows: int, columns: int) -> Tensor:
    """Pad [...,H,W] with mirrored pixels (the edge pixel is repeated). The border can be wider than the image."""
    height, width = image.shape[-2:]
    return image.index_select(-2, _mirror(height, rows)).index_select(-1, _mirror(width, columns))


def convolve(image: Tensor, kernels: Tensor) -> Tensor:
    """Convolve an image with each of K kernels by FFT, with mirrored borders.

    Args:
        image: [C,H,W] float, of any size.
        kernels: [K,k,l] with odd k and l; the origin is in the middle.

    Returns:
        [K,C,H,W]. Kernels that sum to 1 leave constant images exactly unchanged.

    Raises:
        InvalidInputError: `kernels` has another rank or an even side.
    """
    if kernels.ndim != 3 or kernels.shape[1] % 2 == 0 or kernels.shape[2] % 2 == 0 or len(kernels) == 0:
        raise InvalidInputError(f"expected kernels [K,k,l] with odd sides, got {list(kernels.shape)}")
    rows, columns = kernels.shape[1] // 2, kernels.shape[2] // 2
    height, width = image.shape[-2:]
    # relative to one pixel, so that rounding in the transform can't tint a flat area
    reference = image[:, :1, :1]
    # wrapped-around parts of the transform are outside the part that is kept
    size = (fast_length(height + 2 * rows), fast_length(width + 2 * columns))
    spectrum = torch.fft.rfft2(mirrored(image - reference, rows, columns), s=size)
    product = spectrum[None] * torch.fft.rfft2(kernels.to(image.dtype), s=size)[:, None]
    whole: Tensor = torch.fft.irfft2(product, s=size)
    kept = whole[..., 2 * rows : 2 * rows + height, 2 * columns : 2 * columns + width]
    return kept + reference * kernels.sum((1, 2)).to(image.dtype)[:, None, None, None]


def blur(image: Tensor, kernel: Tensor, *, linear: bool = True) -> Tensor:
    """Blur an image [C,H,W] in [0,1] with one kernel [k,l] with odd sides and sum 1.

    Light adds up before the camera's tone curve, so real blur is a convolution in linear light (`linear`). Most
    benchmarks with given kernels convolve sRGB values instead.
    """
    if not linear:
        return convolve(image, kernel[None])[0].clamp_(0, 1)
    return to_srgb(convolve(to_linear(image), kernel[None])[0].clamp_(0, 1))


def varying_blur(image: Tensor, kernels: Tensor, weights: Tensor) -> Tensor:
    """Blur with a mixture of kernels at each pixel: the weighted sum of convolutions (efficient filter flow, Hirsch et
    al., CVPR 2010, with smooth weights instead of overlapping patches).

    Args:
        image: [C,H,W].
        kernels: [K,k,l] with odd sides; each sums to 1.
        weights: [K,H,W]; sum to 1 at each pixel.
    """
    return torch.einsum("kchw,khw->chw", convolve(image, kernels), weights)


def layered_blur(
    image: Tensor, foreground: Tensor, back: tuple[Tensor, Tensor], front: tuple[Tensor, Tensor]
) -> Tensor:
    """Blur a near and a far layer separately, then composite the near layer over the far one.

    The part of the far layer hidden by the near one is filled in from its surroundings before blurring. So a sharp
    object doesn't bleed into the blur behind it, and the edge of a blurred object becomes transparent (Ikoma et al.,
    "Depth from Defocus with Learned Optics", ICCP 2021, section 3.1, with two layers).

    Args:
        image: [C,H,W], in linear light for correct colours.
        foreground: opacity of the near layer, [H,W] in [0,1].
        back, front: kernels [K,k,l] and weights [K,H,W] of the far and the near layer, as for `varying_blur`.
    """
    behind = 1 - foreground
    far = varying_blur(_filled(image, behind), *back)
    near = varying_blur(torch.cat([image * foreground, foreground[None]]), *front)
    return near[:-1] + (1 - near[-1:]) * far


def region_weights(height: int, width: int, rows: int, columns: int) -> Tensor:
    """Return weights [rows*columns,H,W] for bilinear interpolation between the centres of a grid of regions; sum 1."""
    down, across = _tents(height, rows), _tents(width, columns)
    return (down[:, None, :, None] * across[None, :, None, :]).reshape(-1, height, width)


def _tents(length: int, count: int) -> Tensor:
    position = ((torch.arange(length) + 0.5) * count / length - 0.5).clamp(0, count - 1)
    return (1 - (position - torch.arange(count)[:, None]).abs()).clamp_min(0)


def _filled(image: Tensor, known: Tensor) -> Tensor:
    """Fill unknown pixels with the mean of known pixels nearby, from a pyramid of halved images."""
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
    """Return the smallest length from `length` on whose transform is fast: no prime factor above 5."""
    while True:
        rest = length
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return length
        length += 1
