"""Every accepted kind of image comes back as the same kind, shape and depth; everything else is refused."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from identities import IDENTITIES, NETWORKS, adding, values
from PIL import Image

from kbnet.errors import InvalidInputError, NonFiniteInputError
from kbnet.inference.arrays import accept
from kbnet.inference.samples import LUMA

# Of PIL's modes, the one that comes back: where it is another, Pillow itself has no arithmetic on the former.
PIL_MODES = {
    "L": "L",
    "LA": "LA",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "I;16": "I;16",
    "P": "RGB",
    "1": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
    "La": "LA",
    "RGBa": "RGBA",
    "I;16B": "I;16",
}
INTEGERS = ("uint8", "uint16", ">u2")
FLOATS = ("float16", "float32", "float64")


def random_array(dtype, shape, random):
    if dtype in INTEGERS:
        native = np.dtype(dtype).newbyteorder("=")
        return random.integers(0, np.iinfo(dtype).max, shape, native, endpoint=True).astype(dtype)
    return random.uniform(-1, 2, shape).astype(dtype)  # beyond [0,1], as noise makes them


def array(dtype, *last):
    return lambda height, width, random: random_array(dtype, (height, width, *last), random)


def tensor(dtype, *first):
    return lambda height, width, random: torch.from_numpy(random_array(dtype, (*first, height, width), random))


def pil(mode):
    def build(height, width, random):
        if mode == "I;16":
            return Image.fromarray(random_array("uint16", (height, width), random))
        if mode == "I;16B":
            return Image.frombytes(mode, (width, height), random_array(">u2", (height, width), random).tobytes())
        rgba = Image.fromarray(random_array("uint8", (height, width, 4), random))
        if mode == "P":  # Pillow's own palettes are of RGB
            return rgba.convert("RGB").convert("P")
        if mode == "La":
            return rgba.convert("LA").convert("La")
        return rgba.convert("RGB").convert(mode) if mode == "YCbCr" else rgba.convert(mode)

    return build


KINDS = {
    **{f"{dtype} {last}": array(dtype, *last) for dtype in INTEGERS + FLOATS for last in ((), (1,), (3,))},
    **{f"torch {dtype} {first}": tensor(dtype, *first) for dtype in FLOATS for first in ((1, 1), (2, 1), (1, 3))},
    "torch bfloat16": lambda height, width, random: tensor("float32", 2, 3)(height, width, random).bfloat16(),
    **{f"PIL {mode}": pil(mode) for mode in PIL_MODES},
}


def facts(image):
    """What must be the same of an image before and after."""
    if isinstance(image, Image.Image):
        return "PIL", image.size, image.mode
    return type(image), tuple(image.shape), image.dtype


sides = st.integers(1, 24)


@pytest.mark.parametrize("channels", [3, 1])
@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(KINDS)), sides, sides, st.integers(0, 99))
@example("uint8 (3,)", 1, 1, 0)
@example("uint16 ()", 1, 50, 0)
@example("PIL RGBA", 7, 13, 0)
@example("torch float32 (1, 3)", 50, 1, 0)
def test_an_image_comes_back_as_the_same_kind_and_is_itself_left_alone(channels, kind, height, width, seed):
    image = KINDS[kind](height, width, np.random.default_rng(seed))
    before = values(image).copy()
    result = NETWORKS[channels](image)
    expected = facts(image)
    if expected[0] == "PIL":
        expected = (*expected[:2], PIL_MODES[image.mode])
    assert facts(result) == expected
    np.testing.assert_array_equal(values(image), before)
    assert np.isfinite(values(result)).all()
    assert result is not image


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 13)], ids=str)
def test_a_network_that_changes_nothing_returns_the_image(channels, kind, size):
    image = KINDS[kind](*size, np.random.default_rng(1))
    result = IDENTITIES[channels](image)
    if isinstance(image, Image.Image):
        image = values(image).astype("=u2") if image.mode == "I;16B" else image.convert(PIL_MODES[image.mode])
    if values(result).dtype.kind == "u":
        np.testing.assert_array_equal(values(result), values(image))
    else:
        # Not clipped either: the values reach from -1 to 2.
        np.testing.assert_allclose(values(result).astype(float), values(image).astype(float), rtol=0, atol=1e-6)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("kind", ["uint8 (3,)", "uint16 ()", "float32 (3,)", "torch float32 (1, 3)", "PIL RGB"])
def test_the_network_is_applied(channels, kind):
    image = KINDS[kind](7, 13, np.random.default_rng(1))
    result = NETWORKS[channels](image)
    assert (values(result) != values(image)).mean() > 0.5


@pytest.mark.parametrize("dtype", INTEGERS)
def test_every_integer_value_survives(dtype):
    every = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(16, -1)
    colour = np.stack([every, every[::-1], every[:, ::-1]], axis=2)
    for channels in (3, 1):
        np.testing.assert_array_equal(IDENTITIES[channels](every), every)
        np.testing.assert_array_equal(IDENTITIES[channels](colour), colour)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integer_results_are_clipped(dtype):
    largest = np.iinfo(dtype).max
    image = np.array([[0, largest]], dtype)
    assert adding(0.4)(image).tolist() == [[round(0.4 * largest), largest]]
    assert adding(-0.4)(image).tolist() == [[0, round(0.6 * largest)]]


@pytest.mark.parametrize("dtype", FLOATS)
def test_float_results_are_not_clipped(dtype):
    image = np.array([[0, 1]], dtype)
    np.testing.assert_allclose(adding(0.4)(image), [[0.4, 1.4]], atol=1e-3)  # float16 steps by 1e-3 there
    np.testing.assert_allclose(adding(-1.4)(image), [[-1.4, -0.4]], atol=1e-3)


def test_integer_results_are_rounded_half_to_even():
    halves = np.arange(255, dtype=np.float32) + np.float32(0.5)
    result = halves / np.float32(255)
    exact = result * np.float32(255) == halves  # others are halves no more after the division
    assert exact.sum() > 100
    accepted = accept(np.zeros((1, 255), np.uint8))
    accepted.images[0].write(0, result[None, None, None])
    rounded = accepted.result()[0]
    assert (rounded[exact] % 2 == 0).all()
    assert (np.abs(rounded - halves) <= 0.5 + 1e-4).all()


def test_sixteen_bits_are_kept_sixteen_deep():
    # An image whose values differ in the low byte alone must not come back as steps of 257.
    image = np.arange(30_000, 30_200, dtype=np.uint16).reshape(10, 20)
    np.testing.assert_array_equal(adding(1 / 65535)(image), image + 1)


def test_gray_goes_into_a_colour_network_three_times_and_is_averaged_back():
    gray = np.random.default_rng(0).random((9, 11), np.float32)
    colour = NETWORKS[3](np.stack([gray] * 3, axis=2))
    assert np.ptp(colour, axis=2).max() > 1e-3  # the network does not treat the three alike
    np.testing.assert_allclose(NETWORKS[3](gray), colour.mean(2), atol=1e-6)


def test_of_colour_in_a_gray_network_the_luma_is_restored_and_the_chroma_kept():
    colour = np.random.default_rng(0).random((9, 11, 3), np.float32)
    luma = colour @ np.array(LUMA, np.float32)
    change = NETWORKS[1](colour) - colour
    assert np.abs(change).max() > 1e-3
    assert np.ptp(change, axis=2).max() < 1e-6  # the same for the three colours: their differences stay
    np.testing.assert_allclose(change[..., 0], NETWORKS[1](luma) - luma, atol=1e-6)


def test_white_has_a_luma_of_one():
    assert sum(LUMA) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "PA"])
def test_alpha_comes_back_as_it_was(mode):
    image = pil("RGBA")(7, 13, np.random.default_rng(0)).convert(mode)
    alpha = values(image.getchannel("A"))
    assert np.ptp(alpha) > 200
    np.testing.assert_array_equal(values(NETWORKS[3](image).getchannel("A")), alpha)


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_of_255_are_refused_unless_their_range_is_given(dtype):
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (9, 11, 3)).astype(dtype)
    for one in (image, torch.from_numpy(image).permute(2, 0, 1)[None]):
        with pytest.raises(
            InvalidInputError, match=r"got a median above 4; if white is 255, pass value_range=\(0, 255\)"
        ):
            NETWORKS[3](one)
        np.testing.assert_allclose(
            values(IDENTITIES[3](one, value_range=(0, 255))), values(one), atol=0.2 if dtype == "float16" else 1e-4
        )
        assert facts(NETWORKS[3](one, value_range=(0, 1))) == facts(one)
    if dtype != "float16":
        expected = NETWORKS[3]((image / 255).astype(dtype)) * 255
        np.testing.assert_allclose(NETWORKS[3](image, value_range=(0, 255)), expected, atol=1e-2)


def test_scene_linear_floats_above_one_are_taken():
    image = np.full((4, 5), 0.18, np.float32)
    image[0] = 1000
    np.testing.assert_allclose(IDENTITIES[1](image), image, rtol=1e-5)
    np.testing.assert_allclose(IDENTITIES[1](np.full((4, 5), 4.0)), 4, rtol=1e-5)
    with pytest.raises(InvalidInputError, match="median above 4"):
        IDENTITIES[1](np.full((4, 5), 4.01))


def test_a_range_may_begin_below_zero_and_end_below_what_integers_hold():
    image = np.array([[-1.0, 0.0, 1.0]])
    np.testing.assert_allclose(adding(0.25, 1)(image, value_range=(-1, 1)), [[-0.5, 0.5, 1.5]], atol=1e-6)
    twelve_bits = np.array([[0, 1000, 4095]], np.uint16)
    result = adding(0.5, 1)(twelve_bits, value_range=(0, 4095))
    assert result.tolist() == [[2048, 3048, 4095]]


@pytest.mark.parametrize("given", [(1, 0), (0, 0), (0, np.inf), (0, np.nan), 255, (0, 1, 2), "no", ("a", "b")])
def test_other_ranges_are_refused(given):
    with pytest.raises(InvalidInputError, match="value_range"):
        IDENTITIES[1](np.zeros((4, 5)), value_range=given)


def test_images_together_have_one_range():
    image = np.full((4, 5), 100.0)
    np.testing.assert_allclose(IDENTITIES[1].together([image, image], value_range=(0, 255)), [image, image], rtol=1e-5)


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
@pytest.mark.parametrize(
    "look",
    [read_only, np.asfortranarray, lambda a: a[::-1, ::-1], lambda a: a[::2, 1::3], lambda a: a.transpose(1, 0, 2)],
    ids=["read-only", "fortran", "backwards", "every other", "transposed"],
)
def test_an_array_is_accepted_however_it_lies_in_memory(dtype, look):
    array = random_array(dtype, (12, 15, 3), np.random.default_rng(0))
    expected = NETWORKS[3](np.ascontiguousarray(look(array.copy())))
    np.testing.assert_array_equal(NETWORKS[3](look(array)), expected)


def test_a_tensor_is_accepted_however_it_lies_in_memory():
    image = torch.rand(2, 3, 8, 10)
    expected = NETWORKS[3](image)
    wide = torch.full((2, 3, 8, 20), torch.nan)
    wide[..., ::2] = image
    for look in (image.contiguous(memory_format=torch.channels_last), image.mT.contiguous().mT, wide[..., ::2]):
        assert torch.equal(look, image)
        torch.testing.assert_close(NETWORKS[3](look), expected)


def test_a_tensor_comes_back_as_one_that_can_be_written_to_and_learned_from():
    result = NETWORKS[3](torch.rand(1, 3, 8, 8, requires_grad=True))
    assert not result.requires_grad
    result.clamp_(0, 1)
    weight = torch.ones((), requires_grad=True)
    (result * weight).sum().backward()
    assert weight.grad is not None


def test_a_result_is_not_a_view_of_the_input():
    image = torch.rand(1, 3, 8, 8)
    before = image.clone()
    IDENTITIES[3](image).zero_()
    assert torch.equal(image, before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_what_is_not_finite_is_refused(dtype, value):
    image = np.zeros((5, 4, 3), dtype)
    image[3, 2, 1] = value
    with pytest.raises(NonFiniteInputError, match=r"expected finite .* got NaN or infinity"):
        NETWORKS[3](image)
    with pytest.raises(NonFiniteInputError, match=r"expected finite .* got NaN or infinity"):
        NETWORKS[3](torch.from_numpy(image).permute(2, 0, 1)[None])


@pytest.mark.parametrize("value", [1e300, -1e300])
def test_what_float32_cannot_hold_is_refused_as_infinite(value):
    with pytest.raises(NonFiniteInputError):
        NETWORKS[3](np.full((2, 2), value))
    with pytest.raises(NonFiniteInputError):
        NETWORKS[3](torch.full((1, 1, 2, 2), value, dtype=torch.float64))


def animation():
    class Animation(Image.Image):
        is_animated = True

    Animation.__module__ = "PIL.GifImagePlugin"
    return Animation()


def keyed_gray():
    image = Image.fromarray(np.zeros((5, 4), np.uint16))
    image.info["transparency"] = 7
    return image


REFUSED = {
    "a list": ([[0.0]], r"expected a PIL image, .* got list;"),
    "a path": ("photo.png", r"expected a PIL image, .* got str; for a file, use `kbnet restore`"),
    "nothing": (None, r"got NoneType"),
    "a row": (np.zeros(5), r"expected an array \[H,W\] or \[H,W,3\], got \[5\]"),
    "two channels": (np.zeros((5, 4, 2)), r"expected an array .* got \[5, 4, 2\]"),
    "alpha": (np.zeros((5, 4, 4), np.uint8), r"got \[5, 4, 4\]; pass alpha separately"),
    "channels first": (np.zeros((3, 5, 4)), r"expected an array .* got \[3, 5, 4\]"),
    "a batch of arrays": (np.zeros((2, 5, 4, 3)), r"expected an array .* got \[2, 5, 4, 3\]"),
    "no rows": (np.zeros((0, 4)), r"got \[0, 4\]"),
    "no columns": (np.zeros((4, 0, 3)), r"got \[4, 0, 3\]"),
    "int64": (np.zeros((5, 4), np.int64), r"expected uint8, uint16 or floating-point values, got int64"),
    "bool": (np.zeros((5, 4), bool), r"expected uint8, .* got bool"),
    "complex": (np.zeros((5, 4), complex), r"expected uint8, .* got complex128"),
    "uint8 tensor": (
        torch.zeros(1, 3, 5, 4, dtype=torch.uint8),
        r"expected a floating-point tensor .* got torch.uint8",
    ),
    "tensor [C,H,W]": (torch.zeros(3, 5, 4), r"expected a floating-point tensor \[B,1,H,W\] .* \[3, 5, 4\]"),
    "tensor of two channels": (torch.zeros(1, 2, 5, 4), r"expected a floating-point tensor .* \[1, 2, 5, 4\]"),
    "empty batch": (torch.zeros(0, 3, 5, 4), r"expected a floating-point tensor .* \[0, 3, 5, 4\]"),
    "a mask": (np.ma.masked_invalid(np.full((4, 4), np.nan)), r"expected an array without a mask"),
    "animation": (animation(), r"expected a still image, got an animation"),
    # Pillow would clip the values of these to 255 in silence.
    "PIL I;16 with a transparent value": (
        keyed_gray(),
        r"expected an 8-bit PIL image .* got mode I;16 with a transparent value",
    ),
    "PIL I": (Image.new("I", (4, 5), 40_000), r"expected an 8-bit PIL image or one of mode I;16, got mode I;"),
    "PIL F": (Image.new("F", (4, 5), 0.5), r"expected an 8-bit PIL image .* got mode F;"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_any_other_kind_is_refused_in_one_line_that_says_what_came(name):
    image, line = REFUSED[name]
    with pytest.raises(InvalidInputError, match=line) as refusal:
        NETWORKS[3](image)
    assert "expected" in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not isinstance(refusal.value, NonFiniteInputError)
