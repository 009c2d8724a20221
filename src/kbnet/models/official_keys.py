"""The authors' tensor names and kbnet's: one table, read in both directions.

Each row pairs the path of a module or tensor in the authors' checkpoints with its path in kbnet. A path matches whole
dotted segments from the left; longer rows match first, and the rest of the name is kept.
"""

import re
from collections.abc import Mapping
from typing import Any

from kbnet.errors import CheckpointError

Tensor = Any
"""A PyTorch tensor or a numpy array."""

Rows = tuple[tuple[str, str], ...]

# Paths outside the blocks; `#` stands for the same number on both sides.
_NETWORK: dict[str, Rows] = {
    "kbnet-s": (
        ("intro", "first"),
        ("ending", "last"),
        ("downs.#", "downsample.#"),
        ("ups.#", "upsample.#"),
        ("encoders.#.#", "encoder.#.#"),
        ("middle_blks.#", "middle.#"),
        ("decoders.#.#", "decoder.#.#"),
    ),
    "kbnet-l": (
        ("patch_embed.proj", "first"),
        ("output", "last"),
        ("down1_2.body", "downsample.0"),
        ("down2_3.body", "downsample.1"),
        ("down3_4.body", "downsample.2"),
        ("up4_3.body", "upsample.0"),
        ("up3_2.body", "upsample.1"),
        ("up2_1.body", "upsample.2"),
        ("reduce_chan_level3", "reduce.0"),
        ("reduce_chan_level2", "reduce.1"),
        ("encoder_level1.#", "encoder.0.#"),
        ("encoder_level2.#", "encoder.1.#"),
        ("encoder_level3.#", "encoder.2.#"),
        ("latent.#", "middle.#"),
        ("decoder_level3.#", "decoder.0.#"),
        ("decoder_level2.#", "decoder.1.#"),
        ("decoder_level1.#", "decoder.2.#"),
        ("refinement.#", "refinement.#"),
    ),
}

# Paths inside a block.
_BLOCK: dict[str, Rows] = {
    "kbnet-s": (
        ("norm1", "fusion_norm"),
        ("sca.1", "channel_branch.mix"),
        ("conv11", "static_branch"),
        ("conv1", "adaptive_in.0"),
        ("conv21", "adaptive_in.1"),
        ("conv2.0", "coefficients.grouped"),
        ("conv2.2", "coefficients.expand"),
        ("conv211", "coefficients.projection"),
        ("attgamma", "coefficients.scale"),
        ("w", "kba.weight"),
        ("b", "kba.bias"),
        ("ga1", "kba_scale"),
        ("conv3", "fusion_out"),
        ("beta", "fusion_scale"),
        ("norm2", "ffn_norm"),
        ("conv4", "ffn_in"),
        ("conv5", "ffn_out"),
        ("gamma", "ffn_scale"),
    ),
    "kbnet-l": (
        ("norm1", "fusion_norm"),
        ("attn.sca.1", "fusion.channel_branch.mix"),
        ("attn.dwconv", "fusion.static_branch"),
        ("attn.conv1", "fusion.adaptive_in"),
        ("attn.conv2.0", "fusion.coefficients.grouped"),
        ("attn.conv2.2", "fusion.coefficients.expand"),
        ("attn.conv211", "fusion.coefficients.projection"),
        ("attn.attgamma", "fusion.coefficients.scale"),
        ("attn.w", "fusion.kba.weight"),
        ("attn.b", "fusion.kba.bias"),
        ("attn.ga1", "fusion.kba_scale"),
        ("attn.project_out", "fusion.out"),
        ("norm2", "attention_norm"),
        ("ffn.qkv", "attention.qkv"),
        ("ffn.qkv_dwconv", "attention.qkv_depthwise"),
        ("ffn.temperature", "attention.temperature"),
        ("ffn.project_out", "attention.out"),
    ),
}

# A tensor that identifies the family of a network.
FIRST_KEY = {"kbnet-s": "intro.weight", "kbnet-l": "patch_embed.proj.weight"}


def from_official(family: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert the authors' tensors to kbnet's names and shapes.

    Raises:
        CheckpointError: a name isn't in the table, or the bases have an impossible shape.
    """
    renamed = {_translate(family, key, 0): tensor for key, tensor in tensors.items()}
    for key, weight in renamed.items():
        if key.endswith("kba.weight"):  # [1,N,C*G*k*k] -> [N,C,G*k*k], with the bias [1,N,C] -> [N,C]
            bias_key = key.removesuffix("weight") + "bias"
            if bias_key not in renamed:
                raise CheckpointError("found kernel bases without their biases")
            bias = renamed[bias_key]
            fits = weight.ndim == bias.ndim == 3 and weight.shape[0] == bias.shape[0] == 1
            if not fits or bias.shape[2] == 0 or weight.shape[2] % bias.shape[2]:
                raise CheckpointError(
                    "expected kernel bases [1,N,C*G*k*k] with biases [1,N,C], "
                    f"got {list(weight.shape)} and {list(bias.shape)}"
                )
            renamed[key], renamed[bias_key] = weight[0].reshape(weight.shape[1], bias.shape[2], -1), bias[0]
    return renamed


def to_official(family: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert tensors to the authors' names and shapes; the inverse of `from_official`."""
    renamed = {}
    for key, tensor in tensors.items():
        if key.endswith("kba.weight"):
            tensor = tensor.reshape(1, len(tensor), -1)
        elif key.endswith("kba.bias"):
            tensor = tensor[None]
        renamed[_translate(family, key, 1)] = tensor
    return renamed


def _translate(family: str, key: str, side: int) -> str:
    """Translate a name from one side of the tables (0: the authors', 1: kbnet's) to the other."""
    path, rest = _replace(_NETWORK[family], key, side)
    if path is None:
        raise CheckpointError(f"the tensor {key!r:.80} is not part of a {family}")
    if not re.match("encoder|middle|latent|decoder|refinement", path):
        return path + rest
    inner, rest = _replace(_BLOCK[family], rest.removeprefix("."), side)
    if inner is None:
        raise CheckpointError(f"the tensor {key!r:.80} is not part of a {family} block")
    return f"{path}.{inner}{rest}"


def _replace(rows: Rows, key: str, side: int) -> tuple[str | None, str]:
    for row in sorted(rows, key=lambda row: -row[side].count(".")):
        pattern = re.escape(row[side]).replace(r"\#", r"(\d+)")
        if match := re.match(rf"{pattern}(?=\.|$)", key):
            path = row[1 - side]
            for number in match.groups():
                path = path.replace("#", number, 1)
            return path, key[match.end() :]
    return None, key
