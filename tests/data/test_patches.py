"""The patches drawn from photographs and pairs: pure, fair, and the same in parts as in whole."""

import logging
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numbered_photos import numbered

from kbnet.data import BatchNoise, Item, Mixup, PhotoPatches, decode_all, photo_set
from kbnet.degradations import gaussian_noise
from kbnet.errors import InvalidInputError


@dataclass(frozen=True)
class Brighter:
    """A degradation that shows what it got: adds one, and a number of its own in the first pixel."""

    def __call__(self, clean, generator):
        worse = clean + 1
        worse[:, 0, 0] = torch.rand((), generator=generator)
        return worse


def make_set(items, side=4, degrade=None, channels=1, **options):
    paths = [path for item in items for path in (item.clean, item.degraded) if path is not None]
    return photo_set(items, decode_all(paths, channels), side, degrade, **options)


@pytest.fixture
def photos(write):
    """Gray photos, degraded by `Brighter`."""
    return make_set([Item(write("numbered.png"))], degrade=Brighter())


def test_a_batch_is_a_function_of_seed_and_step(photos):
    clean, degraded = PhotoPatches([photos], seed=1).batch(7, 8, 4)
    assert (clean.shape, clean.dtype, degraded.shape) == ((8, 1, 4, 4), torch.float32, (8, 1, 4, 4))
    torch.manual_seed(5)  # nothing else may count
    other = PhotoPatches([photos], seed=1)
    other.batch(3, 2, 2)
    assert all(map(torch.equal, other.batch(7, 8, 4), (clean, degraded)))
    for seed, step in ((1, 8), (2, 7)):
        again = PhotoPatches([photos], seed=seed).batch(step, 8, 4)
        assert not torch.equal(again[0], clean)
        assert not torch.equal(again[1][:, :, 0, 0], degraded[:, :, 0, 0])


@pytest.mark.parametrize("degrade", [BatchNoise((0, 50)), Brighter()])
@pytest.mark.parametrize("mixup", [None, Mixup(1.2, 1.0)])
def test_the_parts_of_a_batch_are_what_the_whole_batch_holds_there(degrade, mixup, write):
    patches = PhotoPatches([make_set([Item(write("numbered.png"))], degrade=degrade)], 3, mixup)
    whole = patches.batch(5, 7, 4)
    for part in (slice(0, 3), slice(3, 7), slice(6, 7)):
        for mine, of_whole in zip(patches.batch(5, 7, 4, part), whole, strict=True):
            assert torch.equal(mine, of_whole[part])


def test_gaussian_noise_is_drawn_as_it_always_was(write):
    """So that a run which an older release began goes on with the batches that it would have seen."""
    patches = PhotoPatches([make_set([Item(write("numbered.png"))], degrade=BatchNoise((5, 30)))], seed=2)
    clean, degraded = patches.batch(9, 6, 4)
    generator = torch.Generator().manual_seed(2 * 1_000_003 + 9)
    torch.multinomial(torch.ones(1), 6, replacement=True, generator=generator)
    torch.rand(6, 2, generator=generator)
    torch.randint(8, (6,), generator=generator)
    sigma = 5 + 25 * torch.rand(6, generator=generator)
    assert torch.equal(degraded, gaussian_noise(clean, sigma, generator))


def test_threads_do_not_change_a_batch_and_are_left_as_they_were(photos):
    before = torch.get_num_threads()
    batches = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        batches.append(PhotoPatches([photos]).batch(0, 4, 4))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert all(map(torch.equal, *batches))


@pytest.mark.parametrize("memory", [None, 0])
def test_shared_photos_are_sent_as_names_and_give_the_same_batches(memory, write, tmp_path):
    items = [Item(write(f"{i}.png", numbered(16, 20 + i)), write(f"d{i}.png", numbered(16, 20 + i))) for i in range(3)]
    paths = [path for item in items for path in (item.clean, item.degraded)]
    pairs = photo_set(items, decode_all(paths, 1, memory=memory, cache=tmp_path / "cache"), 4, None)
    single = make_set([Item(items[0].clean)], degrade=Brighter())
    expected = PhotoPatches([pairs, single]).batch(1, 20, 4)
    pairs.share()
    single.share()
    sent = pickle.dumps(PhotoPatches([pairs, single]))
    assert all(bytes(clean) not in sent for clean, _ in pairs.photos)
    for patches in (PhotoPatches([pairs, single]), pickle.loads(sent)):
        assert all(map(torch.equal, patches.batch(1, 20, 4), expected))


def turned(patch, turn):
    patch = np.rot90(patch, turn % 4)
    return patch[:, ::-1] if turn >= 4 else patch


def test_patches_are_cut_anywhere_and_turned_any_way_and_nothing_else(photos):
    drawn = (PhotoPatches([photos]).batch(0, 4000, 4)[0] * 255).round().to(torch.uint8).numpy()[:, 0]
    photo = numbered()
    known = {
        turned(photo[top : top + 4, left : left + 4], turn).tobytes(): (top, left, turn)
        for top in range(13)
        for left in range(13)
        for turn in range(8)
    }
    seen = [known[patch.tobytes()] for patch in drawn]  # a patch of any other kind would be a KeyError
    for axis, values in ((0, 13), (1, 13), (2, 8)):
        counts = np.bincount([place[axis] for place in seen], minlength=values)
        assert counts.min() > 0.7 * 4000 / values  # borders and every turn as often as the rest


def test_both_pictures_of_a_pair_are_cut_and_turned_alike(write):
    pair = Item(write("clean.png"), write("degraded.png", 255 - numbered()))
    clean, degraded = PhotoPatches([make_set([pair])]).batch(0, 200, 4)
    assert torch.allclose(clean + degraded, torch.ones(()))
    assert len({tuple(p.flatten().tolist()) for p in clean}) > 100


def test_margins_are_degraded_and_cut_off(write):
    class Corner:
        def __call__(self, clean, generator):
            assert clean.shape == (1, 8, 8)
            worse = clean.clone()
            worse[:, :2] = worse[:, -2:] = 9.0
            worse[:, :, :2] = worse[:, :, -2:] = 9.0
            return worse

    wide = make_set([Item(write("numbered.png"))], degrade=Corner(), margin=2)
    clean, degraded = PhotoPatches([wide]).batch(0, 50, 4)
    assert clean.shape == (50, 1, 4, 4)
    assert torch.equal(clean, degraded)


def test_photos_are_reduced_by_a_factor_drawn_for_each_patch(write):
    # each pixel is one level brighter than its left neighbour
    path = write("slope.png", np.indices((64, 64)).sum(0).astype(np.uint8))

    def slopes(scale, side=8):
        patches = PhotoPatches([make_set([Item(path)], degrade=Brighter(), scale=scale, side=side)], seed=2)
        clean, degraded = patches.batch(3, 16, side)
        assert torch.equal(degraded[:, :, 1:], clean[:, :, 1:] + 1)
        assert torch.equal(patches.batch(3, 16, side, slice(5, 6))[0], clean[5:6])
        return (clean[:, 0, :, 1:] - clean[:, 0, :, :-1])[:, 2:-2, 2:-2].abs().mean((1, 2)) * 255

    assert torch.allclose(slopes((1.0, 1.0)), torch.ones(16), atol=1e-4)
    assert torch.allclose(slopes((0.5, 0.5)), torch.full((16,), 2.0), atol=1e-3)
    drawn = slopes((0.25, 1.0))
    assert drawn.min() < 1.6 < 2.4 < drawn.max() < 4.1
    assert torch.allclose(slopes((0.1, 0.1), side=32), torch.full((16,), 2.0), atol=1e-3)  # the whole photo


def test_some_patches_are_stored_as_jpeg_with_chroma_of_half_resolution(write):
    # Neighbours differ in colour, not in luma: what halves the resolution of chroma makes them the same.
    stripes = np.empty((64, 64, 3), np.uint8)
    stripes[:, ::2], stripes[:, 1::2] = (150, 110, 90), (90, 141, 92)

    def contrasts(jpeg_share):
        found = make_set([Item(write("stripes.png", stripes))], degrade=Brighter(), channels=3, jpeg_share=jpeg_share)
        patches = PhotoPatches([found], seed=2)
        clean, degraded = patches.batch(3, 64, 16)
        assert torch.equal(degraded[..., 1:], clean[..., 1:] + 1)
        assert torch.equal(patches.batch(3, 64, 16, slice(5, 6))[0], clean[5:6])
        return clean[:, 0, 4:-4, 4:-4].std((1, 2)) * 255

    assert contrasts(0.0).min() > 29
    some = contrasts(0.5)
    assert 20 <= (some < 8).sum() <= 44
    assert (some < 8).sum() + (some > 29).sum() == 64
    assert contrasts(1.0).max() < 8


def test_a_photo_of_just_the_size_of_a_patch_is_used_whole(write):
    photos = make_set([Item(write("small.png", numbered(4, 4)))], degrade=Brighter())
    drawn = (PhotoPatches([photos]).batch(0, 20, 4)[0] * 255).round()
    assert (drawn.flatten(1).sort(dim=1).values == torch.arange(16.0)).all()


def test_larger_photos_are_drawn_from_in_proportion_to_their_pixels(write):
    small = Item(write("small.png", np.zeros((10, 10), np.uint8)))
    large = Item(write("large.png", np.full((30, 10), 255, np.uint8)))
    drawn = PhotoPatches([make_set([small, large], degrade=Brighter())]).batch(0, 4000, 4)[0]
    assert drawn.mean() == pytest.approx(0.75, abs=0.03)


def test_sets_are_drawn_from_by_their_weights_whatever_their_size(write):
    black = make_set([Item(write("b.png", np.zeros((40, 40), np.uint8)))], degrade=Brighter(), weight=1.0)
    white = np.full((10, 10), 255, np.uint8)
    pairs = make_set([Item(write("w.png", white), write("d.png", white))], weight=3.0)
    clean, degraded = PhotoPatches([black, pairs]).batch(0, 4000, 4)
    assert clean.mean() == pytest.approx(0.75, abs=0.03)
    of_pairs = clean[:, 0, 1, 1] == 1
    assert torch.equal(degraded[of_pairs], clean[of_pairs])
    assert (degraded[~of_pairs][:, 0, 1, 1] == 1).all()  # black, and one added


def test_mixup_averages_clean_and_degraded_patches_alike_and_as_often_as_it_says(write):
    pair = Item(write("clean.png"), write("degraded.png", 255 - numbered()))
    photos = make_set([pair])
    mixed, plain = PhotoPatches([photos], 0, Mixup(1.2, 0.5)), PhotoPatches([photos], 0)
    changed = 0
    for step in range(40):
        clean, degraded = mixed.batch(step, 4, 4)
        assert torch.allclose(clean + degraded, torch.ones(()), atol=1e-6)  # one lambda and order for both
        assert clean.min() >= 0
        assert clean.max() <= 1
        changed += not torch.equal(clean, plain.batch(step, 4, 4)[0])
    assert 10 < changed < 30
    assert not torch.equal(PhotoPatches([photos], 0, Mixup(1.2, 1.0)).batch(0, 4, 4)[0], plain.batch(0, 4, 4)[0])


def test_a_photo_smaller_than_a_patch_is_named_and_left_out(write, caplog):
    items = [Item(write("good.png")), Item(write("narrow.png", numbered(16, 7)))]
    with caplog.at_level(logging.WARNING, "kbnet"):
        assert make_set(items, side=8, degrade=Brighter()).names == ["good.png"]
    (message,) = caplog.messages
    assert "narrow.png is 7x16, smaller than a patch (8)" in message
    with pytest.raises(InvalidInputError, match="expected photos of at least 18 pixels per side, found none"):
        make_set(items, side=8, degrade=Brighter(), margin=5)


def test_a_photo_smaller_than_the_largest_patch_serves_smaller_ones(write, caplog):
    dark, light = np.zeros((12, 12), np.uint8), np.full((20, 20), 255, np.uint8)
    items = [Item(write("small.png", dark)), Item(write("large.png", light))]
    with caplog.at_level(logging.INFO, "kbnet"):
        patches = PhotoPatches([make_set(items, side=4, largest=8, margin=4, degrade=Brighter())])
    assert caplog.messages == ["1 of 2 photos are smaller than the largest patch (16)"]
    assert set(patches.batch(0, 200, 4)[0].unique().tolist()) == {0.0, 1.0}
    assert patches.batch(0, 200, 8)[0].unique().tolist() == [1.0]
    with pytest.raises(InvalidInputError, match="expected photos of at least 28 pixels per side"):
        make_set(items, side=4, largest=20, margin=4, degrade=Brighter())


def test_pairs_of_two_sizes_are_named_and_left_out(write, caplog):
    good = Item(write("a.png"), write("b.png"))
    odd = Item(write("c.png"), write("d.png", numbered(16, 15)))
    with caplog.at_level(logging.WARNING, "kbnet"):
        assert make_set([good, odd]).names == ["a.png"]
    (message,) = caplog.messages
    assert "d.png is 15x16, but" in message


def test_no_usable_photo_at_all_is_an_error(tmp_path):
    (tmp_path / "text.jpg").write_text("not a photo")
    with pytest.raises(InvalidInputError, match="expected photos of at least 8 pixels per side, found none"):
        make_set([Item(tmp_path / "text.jpg")], side=8, degrade=Brighter())
