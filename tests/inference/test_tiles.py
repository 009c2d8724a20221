"""The tile plan, the padding and the sample of crops: pure functions of sizes, so they are tried on many."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbnet.errors import InvalidInputError
from kbnet.inference.tiles import plan, reflect_pad, sample_crops

no_deadline = settings(deadline=None)  # a busy machine is no failure


@st.composite
def tilings(draw):
    """A length, and a tile, an overlap and a multiple that fit together."""
    multiple = draw(st.sampled_from([1, 4, 8, 16]))
    tile = draw(st.integers(2 * multiple, 200))
    overlap = draw(st.integers(0, tile - tile % multiple - multiple))
    return draw(st.integers(1, 1500)), tile, overlap, multiple


@st.composite
def long_tilings(draw):
    """As `tilings`, and more than one tile is needed."""
    length, tile, overlap, multiple = draw(tilings())
    return length + tile, tile, overlap, multiple


def total_weights(spans, length):
    total = np.zeros(length)
    for span in spans:
        total[span.start : span.stop] += span.weights
    return total


@no_deadline
@given(tilings())
def test_the_shares_of_all_tiles_add_up_to_one_at_every_pixel(tiling):
    spans = plan(*tiling)
    assert all(span.weights.shape == (span.stop - span.start,) for span in spans)
    assert all(span.weights.min() > 0 and span.weights.max() <= 1 for span in spans)
    # Sums of float32: as many roundings as tiles may meet at a pixel, and the division's.
    np.testing.assert_allclose(total_weights(spans, tiling[0]), 1, rtol=0, atol=1e-7 * (len(spans) + 2))


@no_deadline
@given(long_tilings())
def test_tiles_run_from_one_end_of_the_image_to_the_other_on_the_networks_grid(tiling):
    length, tile, _, multiple = tiling
    spans = plan(*tiling)
    assert len(spans) > 1
    assert spans[0].start == 0
    assert spans[-1].stop == length
    assert all(span.start % multiple == 0 for span in spans)
    assert all(0 < span.stop - span.start <= tile for span in spans)


@no_deadline
@given(long_tilings())
def test_neighbours_share_at_least_the_overlap(tiling):
    spans = plan(*tiling)
    for left, right in pairwise(spans):
        assert left.start < right.start
        assert left.stop < right.stop
        assert left.stop - right.start >= tiling[2]


@no_deadline
@given(long_tilings())
def test_no_tile_could_be_left_out(tiling):
    # With one tile fewer, at whole multiples, the image could not be covered with the same overlap.
    length, tile, overlap, multiple = tiling
    tile -= tile % multiple
    step = (tile - overlap) // multiple * multiple
    assert tile + (len(plan(*tiling)) - 2) * step < length


@pytest.mark.parametrize("overlap", [16, 32, 64])
def test_pixels_next_to_a_cut_have_no_share_and_the_middle_of_a_tile_has_all_of_it(overlap):
    first, second, *_ = plan(1000, 192, overlap, 16)
    shared = first.stop - second.start
    quarter = overlap // 4  # at least; it may be more
    assert second.weights[:quarter].max() < 1e-5
    assert first.weights[-quarter:].max() < 1e-5
    assert (first.weights[:-shared] == 1).all()
    # Between them one rises steadily, so there is no step to be seen.
    steps = np.diff(second.weights[:shared])
    assert steps.min() >= 0
    assert steps.max() <= 1.01 / quarter


@no_deadline
@given(tilings())
def test_an_image_no_longer_than_a_tile_is_one_tile(tiling):
    length, tile, overlap, multiple = tiling
    (span,) = plan(min(length, tile), tile, overlap, multiple)
    assert (span.start, span.stop) == (0, min(length, tile))
    assert (span.weights == 1).all()


@pytest.mark.parametrize(
    ("tile", "overlap", "multiple"), [(64, 64, 8), (64, 57, 8), (64, 1000, 8), (64, -1, 8), (70, 60, 16), (8, 0, 16)]
)
def test_an_overlap_that_leaves_no_step_is_refused_in_one_line(tile, overlap, multiple):
    with pytest.raises(InvalidInputError, match=rf"^expected an overlap .* got {overlap}; use a larger tile.*$"):
        plan(500, tile, overlap, multiple)
    if tile > multiple:
        assert len(plan(500, tile, tile - tile % multiple - multiple, multiple)) > 1  # the most that is allowed


sides = st.integers(1, 40)


@no_deadline
@given(sides, sides, st.integers(1, 32))
def test_padding_mirrors_as_numpy_does(height, width, multiple):
    image = np.random.default_rng(0).random((2, 3, height, width), np.float32)
    bottom, right = -height % multiple, -width % multiple
    expected = np.pad(image, [(0, 0), (0, 0), (0, bottom), (0, right)], mode="reflect")
    padded = reflect_pad(image, multiple)
    assert padded.shape[2] % multiple == padded.shape[3] % multiple == 0
    np.testing.assert_array_equal(padded, expected)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ([[7.0]], [[7.0] * 4] * 4),
        ([[1.0, 2.0, 3.0]], [[1.0, 2.0, 3.0, 2.0]] * 4),
        ([[1.0], [2.0]], [[1.0] * 4, [2.0] * 4, [1.0] * 4, [2.0] * 4]),
    ],
    ids=["1x1", "1x3", "2x1"],
)
def test_padding_repeats_what_is_too_small_to_mirror(image, expected):
    padded = reflect_pad(np.array(image)[None, None], 4)
    assert padded[0, 0].tolist() == expected


@st.composite
def samples(draw):
    """An image, crops no larger than it, their border, and how many pixels they may have together."""
    multiple = draw(st.sampled_from([1, 4, 8, 16]))
    side = multiple * draw(st.integers(1, 8))
    halo = draw(st.integers(0, (side - 1) // 2))
    height, width = draw(st.integers(side, 1000)), draw(st.integers(side, 1000))
    return height, width, side, halo, draw(st.integers(0, 2 * height * width)), multiple


@no_deadline
@given(samples())
def test_sample_crops_lie_inside_the_image_on_the_networks_grid(sample):
    height, width, side, _, pixels, multiple = sample
    corners = sample_crops(*sample)
    assert 1 <= len(corners) <= max(1, pixels // side**2)
    assert len(set(corners)) == len(corners)
    for top, left in corners:
        assert top % multiple == left % multiple == 0
        assert 0 <= top <= height - side
        assert 0 <= left <= width - side


def starts_by_axis(sample):
    """The length of each axis, and where crops start along it."""
    height, width = sample[:2]
    corners = sample_crops(*sample)
    tops, lefts = ({corner[axis] for corner in corners} for axis in (0, 1))
    assert len(corners) == len(tops) * len(lefts)
    return (height, sorted(tops)), (width, sorted(lefts))


@no_deadline
@given(samples())
def test_sample_crops_are_spread_over_the_whole_image(sample):
    side, multiple = sample[2], sample[5]
    for length, starts in starts_by_axis(sample):
        # Every part of the axis has its crop: the middles of the crops are at most one part apart, and the outer ones
        # half a part from the ends, give or take the rounding to the grid and the crops moved inside.
        middles = [start + side / 2 for start in starts]
        part = length / len(starts)
        assert middles[0] <= part / 2 + side / 2
        assert length - middles[-1] <= part / 2 + side / 2 + multiple
        assert all(b - a <= part + multiple for a, b in pairwise(middles))


@no_deadline
@given(samples())
def test_with_pixels_enough_sample_crops_cover_the_image(sample):
    height, width, side, halo, _, multiple = sample
    for length, starts in starts_by_axis((height, width, side, halo, 10**12, multiple)):
        assert starts[0] == 0
        assert all(b - a <= side for a, b in pairwise(starts))
        assert length - (starts[-1] + side) < multiple  # where no further crop on the grid lies inside


def test_sample_crops_without_a_border_make_up_an_image_of_whole_crops():
    corners = sample_crops(128, 256, 64, 0, 128 * 256, 16)
    assert corners == [(top, left) for top in (0, 64) for left in (0, 64, 128, 192)]
    # One pixel less is one crop less, and then a row of them.
    assert len(sample_crops(128, 256, 64, 0, 128 * 256 - 1, 16)) < 8


def test_a_sample_of_an_image_thinner_than_a_crop_starts_at_its_edge():
    assert sample_crops(8, 320, 16, 0, 10**6, 16) == [(0, left) for left in range(0, 320, 16)]
    assert sample_crops(320, 8, 16, 0, 10**6, 16) == [(top, 0) for top in range(0, 320, 16)]
