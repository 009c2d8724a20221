"""Which folder serves which source, what is validated on, and where a run starts."""

import shutil
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from small_runs import SETTINGS, make_photos, recipe

from kbnet.data import to_tensor
from kbnet.errors import InvalidInputError, RecipeError
from kbnet.imaging import Photo, read_photo, write_photo
from kbnet.inference import Restorer
from kbnet.metrics import noisy, psnr, to_uint8
from kbnet.models import create_model, find, save_file
from kbnet.training import Run, validation
from kbnet.training.sources import assign_folders, load_sources
from kbnet.training.start import inherit_usage, initial_model
from kbnet.training.validation import Validator

NOISE = {"kind": "gaussian", "sigma": [20, 30]}


def mixture(*sources, **sections):
    return recipe(degradation=None, sources=list(sources), **sections)


def assigned(data, *sources):
    folders = assign_folders(mixture(*sources).all_sources, data)
    return [[str(folder) for folder in of_source] for of_source in folders]


@pytest.fixture
def two(tmp_path, monkeypatch):
    """A folder with photos and pairs, whose input is 10 brighter."""
    monkeypatch.setattr(validation, "CROP", 16)
    make_photos(tmp_path / "photos")
    make_photos(tmp_path / "pairs" / "target", count=3)
    (tmp_path / "pairs" / "input").mkdir()
    for path in (tmp_path / "pairs" / "target").iterdir():
        brighter = np.clip(read_photo(path).pixels.astype(int) + 10, 0, 255).astype(np.uint8)
        write_photo(Photo(brighter), tmp_path / "pairs" / "input" / path.name)
    return tmp_path


def test_a_plain_folder_serves_a_source_without_one(tmp_path):
    assert assigned(["a", tmp_path], {"degradation": NOISE}) == [["a", str(tmp_path)]]
    assert assigned(["odd=name"], {"degradation": NOISE}) == [["odd=name"]]


def test_a_folder_below_serves_the_source_of_its_name(two):
    photos, pairs = {"folder": "photos", "degradation": NOISE}, {"folder": "pairs", "layout": "pairs"}
    assert assigned([two], photos, pairs) == [[str(two / "photos")], [str(two / "pairs")]]
    assert assigned([two, "pairs=/elsewhere", "pairs=b"], photos, pairs)[1] == ["/elsewhere", "b"]
    with pytest.raises(InvalidInputError, match="no data for pairs: add --data pairs=FOLDER, or a --data"):
        assigned(["photos=x"], photos, pairs)
    with pytest.raises(InvalidInputError, match="no data for gaussian: add --data FOLDER"):
        assigned(["pairs=x"], {"degradation": NOISE}, pairs)


def test_a_share_of_the_patches_is_of_drawn_pictures_and_none_is_validated_on(two):
    noise = {"kind": "photo-noise", "clean_share": 0.1}
    plan = mixture({"folder": "photos", "weight": 2.0, "drawn": 0.25, "degradation": noise})
    (photos, drawn), held_out = load_sources(plan, [two], 3, 1, memory=None, cache=None)
    assert (photos.weight, drawn.weight) == (1.5, 0.5)
    assert (photos.degrade.clean_share, drawn.degrade.clean_share) == (0.1, 0.3)
    assert drawn.photos[0][0].shape[2] == 3
    assert drawn.names[0] == "drawn 0"
    assert [one.source.folder for one in held_out] == ["photos"]
    with pytest.raises(ValueError, match="drawn needs a degradation"):
        mixture({"folder": "pairs", "layout": "pairs", "drawn": 0.5})


def test_a_mixture_trains_and_is_validated_source_by_source(two, tmp_path):
    plan = mixture(
        {"folder": "photos", "degradation": NOISE, "weight": 3}, {"folder": "pairs", "layout": "pairs", "weight": 1}
    )
    run = Run(plan, two, tmp_path / "run", workers=0)
    reports = []
    run.train(reports.append)
    found = reports[-1].validation
    assert found.scores.keys() == {"photos sigma 25", "pairs"}
    assert found.inputs["pairs"] == pytest.approx(20 * np.log10(255 / 10), abs=0.6)  # some are cut at white
    assert found.inputs["photos sigma 25"] == pytest.approx(20 * np.log10(255 / 25), abs=0.6)
    assert {picture.shape for picture in found.pictures.values()} == {(16, 48, 3)}
    assert found.mean == pytest.approx(np.mean(list(found.scores.values())))


@pytest.mark.parametrize(
    ("sigma", "names"),
    [([0, 55], ["sigma 15", "sigma 25", "sigma 50"]), ([15, 15], ["sigma 15"]), ([0, 20], ["sigma 15"]),
     ([30, 40], ["sigma 35"])],
)  # fmt: skip
def test_gaussian_noise_is_validated_at_the_published_levels_that_are_trained(sigma, names, two):
    plan = recipe(degradation={"kind": "gaussian", "sigma": sigma})
    _, held_out = load_sources(plan, [two / "photos"], 3, 1, memory=None, cache=None)
    assert list(Validator(held_out).protocols) == names


def test_validation_is_the_published_protocol(two):
    _, held_out = load_sources(recipe(), [two / "photos"], 3, 1, memory=None, cache=None)
    network = create_model("kbnet-nano", **SETTINGS).eval()
    found = Validator(held_out)(network, Accelerator(cpu=True))
    clean = read_photo(two / "photos" / "0.png").pixels[4:20, 2:18]
    image = noisy(clean, 25)
    with torch.no_grad():
        restored = network(torch.from_numpy(image).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert found.scores["sigma 25"] == pytest.approx(psnr(to_uint8(restored), clean))
    assert found.inputs["sigma 25"] == pytest.approx(psnr(to_uint8(image), clean))


def test_other_degradations_are_validated_with_fixed_seeds_and_real_surroundings(two, monkeypatch):
    from kbnet import degradations

    @dataclass(frozen=True)
    class Seen:
        shapes: ClassVar[set] = set()
        numbers: ClassVar[list] = []

        def __call__(self, clean, generator):
            self.shapes.add(tuple(clean.shape))
            self.numbers.append(float(torch.rand((), generator=generator)))
            return clean * 0.5

    monkeypatch.setitem(degradations.DEGRADATIONS, "dim", Seen)
    plan = mixture({"degradation": {"kind": "dim"}, "margin": 2}, run={"validation_every": 2})
    _, held_out = load_sources(plan, [two / "photos"], 3, 8, memory=None, cache=None)
    for _ in range(2):
        validator = Validator(held_out, 8)
    (images,) = validator.protocols.values()
    assert list(validator.protocols) == ["dim"]
    assert Seen.shapes == {(3, 20, 20)}  # 24x20: with two margins of 2, 16x16 and not 20x16
    assert Seen.numbers[:3] == Seen.numbers[3:]
    assert len({*Seen.numbers}) == 3
    degraded, clean = images[0]
    assert clean.shape == (16, 16, 3)
    assert torch.allclose(torch.from_numpy(degraded).permute(2, 0, 1), to_tensor(clean) / 2)


def test_validation_is_on_so_many_photos_at_most(two):
    plan = recipe(run={"validation_every": 2, "validation_photos": 2})
    sets, held_out = load_sources(plan, [two / "photos"], 3, 1, memory=None, cache=None)
    assert sets[0].names == ["1.png", "3.png"]
    assert len(held_out[0].photos) == 2  # of 0, 2 and 4


def test_a_run_starts_from_the_weights_that_the_recipe_names(two, tmp_path):
    torch.manual_seed(7)
    network = create_model("kbnet-nano", **SETTINGS)
    save_file(network, tmp_path / "start.safetensors")
    plan = recipe(model={"init": str(tmp_path / "start.safetensors")})
    run = Run(plan, two / "photos", tmp_path / "run", workers=0)
    for key, tensor in network.state_dict().items():
        assert torch.equal(run.stepper.model.state_dict()[key], tensor)
        assert torch.equal(run.averaged().state_dict()[key], tensor)
    run.train()
    # Once there is a checkpoint the weights are not asked for.
    (tmp_path / "start.safetensors").unlink()
    assert Run(plan, two / "photos", tmp_path / "run").step == 6


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"width": 8}, "width is 8, not 4"),
        ({"channels": 1}, "channels is 1, not 3"),
        ({"channels": 4}, "channels is 4, not 3"),
        ({"bases": 3}, "bases is 3, not 2"),
    ],
)
def test_weights_of_another_network_are_refused_in_one_line(settings, says, two, tmp_path):
    save_file(create_model("kbnet-nano", **SETTINGS | settings), tmp_path / "start.safetensors")
    plan = recipe(model={"init": str(tmp_path / "start.safetensors")})
    with pytest.raises(RecipeError, match=says) as caught:
        Run(plan, two / "photos", tmp_path / "run")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("preset", ["kbnet-nano", "kbnet-l-derain"])
def test_a_gray_network_starts_as_the_mean_of_a_colour_one(preset, tmp_path):
    settings = (
        SETTINGS if preset == "kbnet-nano" else {"width": 8, "blocks": [1, 1, 1, 1], "refinement_blocks": 1, "bases": 2}
    )
    colour = create_model(preset, **settings).eval()
    with torch.no_grad():  # so that the last layer does something, in each channel something else
        torch.nn.init.normal_(colour.last.weight, std=0.1)
    save_file(colour, tmp_path / "colour.safetensors")
    model = {"preset": preset, "settings": settings | {"channels": 1}, "init": str(tmp_path / "colour.safetensors")}
    gray = initial_model(recipe(model=model), tmp_path / "run").eval()
    photo = torch.rand(1, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = colour(photo.expand(-1, 3, -1, -1)).mean(1, keepdim=True)
        torch.testing.assert_close(gray(photo), expected, rtol=1e-5, atol=1e-5)


FEW = SETTINGS | {"encoder_blocks": [1, 2], "middle_blocks": 1, "decoder_blocks": [1, 1]}
MORE = SETTINGS | {"encoder_blocks": [2, 3], "middle_blocks": 2, "decoder_blocks": [1, 2]}


def test_a_network_with_more_blocks_starts_as_the_one_with_fewer(tmp_path):
    shallow = create_model("kbnet-nano", **FEW).eval()
    save_file(shallow, tmp_path / "shallow.safetensors")
    model = {"settings": MORE, "init": str(tmp_path / "shallow.safetensors")}
    deep = initial_model(recipe(model=model), tmp_path / "run")
    photo = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(deep.eval()(photo), shallow(photo))
    deep.train()(photo).square().mean().backward()
    scales = [p.grad for name, p in deep.named_parameters() if name.endswith(("fusion_scale", "ffn_scale"))]
    assert all(grad is not None and grad.abs().max() > 0 for grad in scales)  # the new blocks learn at once


@pytest.mark.parametrize(
    "fewer",
    [{"encoder_blocks": [2, 1]}, {"middle_blocks": 0}, {"encoder_blocks": [1, 2, 1], "decoder_blocks": [1] * 3}],
)
def test_a_network_with_fewer_blocks_is_refused(fewer, tmp_path):
    save_file(create_model("kbnet-nano", **FEW), tmp_path / "start.safetensors")
    model = {"settings": FEW | fewer, "init": str(tmp_path / "start.safetensors")}
    with pytest.raises(RecipeError, match="_blocks"):
        initial_model(recipe(model=model), tmp_path / "run")


SENSOR = {"channels": 5, "width": 8, "encoder_blocks": [2], "middle_blocks": 1, "decoder_blocks": [1], "bases": 2}


def test_a_network_for_a_sensor_starts_from_the_lower_levels_of_one_for_photos(tmp_path):
    photos = create_model(
        "kbnet-nano", **SETTINGS | {"encoder_blocks": [1, 1], "decoder_blocks": [1, 1], "middle_blocks": 1}
    )
    save_file(photos, tmp_path / "photos.safetensors")
    model = {"settings": SENSOR, "init": str(tmp_path / "photos.safetensors")}
    ours = initial_model(recipe(model=model, degradation={"kind": "raw-noise"}), tmp_path / "run").state_dict()
    theirs = photos.state_dict()
    for name, source in {
        "encoder.0.0.": "encoder.1.0.",
        "downsample.0.": "downsample.1.",
        "middle.0.": "middle.0.",
        "decoder.0.0.": "decoder.0.0.",
        "upsample.0.": "upsample.0.",
    }.items():
        parts = [key for key in ours if key.startswith(name)]
        assert parts
        assert all(torch.equal(ours[key], theirs[source + key.removeprefix(name)]) for key in parts)
    assert not ours["encoder.0.1.fusion_scale"].any()  # a block more


def test_a_run_on_a_sensor(two, tmp_path):
    made = recipe(model={"settings": SENSOR}, degradation={"kind": "raw-noise"})
    run = Run(made, two / "photos", tmp_path / "run")
    clean, noisy = run.patches.batch(0, 3, 8)
    assert clean.shape == noisy.shape == (3, 5, 4, 4)
    assert torch.equal(clean[:, 4], noisy[:, 4])
    assert not torch.equal(clean[:, :4], noisy[:, :4])
    validations = []
    run.train(lambda progress: validations.append(progress.validation))
    assert [sorted(one.scores) for one in validations if one] == [["raw-noise"]] * 3


@pytest.mark.parametrize(
    ("channels", "degradation", "patch", "expected"),
    [
        (3, {"kind": "raw-noise"}, 8, "the network has 3 channels, but raw-noise needs 5"),
        (5, {"kind": "gaussian", "sigma": [0, 55]}, 8, "the network has 5 channels, but gaussian needs 1 or 3"),
        (5, {"kind": "raw-noise"}, 7, "patch must be even for raw-noise, got 7"),
    ],
)
def test_what_a_sensor_needs(channels, degradation, patch, expected):
    settings = SENSOR | {"channels": channels}
    with pytest.raises(ValueError, match=expected):
        recipe(model={"settings": settings}, degradation=degradation, phases=[{"steps": 6, "patch": patch, "batch": 2}])


@pytest.mark.parametrize("init", ["nowhere.safetensors", "kbnet-l-derain"])
def test_weights_that_are_not_there_are_refused(init, two, tmp_path):
    with pytest.raises(RecipeError, match=r"model\.init: .*weights"):
        Run(recipe(model={"init": init}), two / "photos", tmp_path / "run")


def test_a_task_is_a_place_to_start_from(two, tmp_path):
    with pytest.raises(
        RecipeError, match=r"denoise is a kbnet-s whose settings differ from this recipe's kbnet-nano \(width"
    ):
        Run(recipe(model={"init": "denoise"}), two / "photos", tmp_path / "run")


def test_a_model_is_used_with_the_context_of_the_weights_that_it_started_from(tmp_path):
    entry = find("denoise-gaussian")
    run = tmp_path / "run"
    inherit_usage(recipe(model={"init": "denoise-gaussian"}), run)
    for name in ("model.safetensors", "best.safetensors"):
        restorer = Restorer.from_pretrained(shutil.copy(entry.path, run / name))
        assert (restorer.context, restorer.window) == (entry.context, entry.window) == ("local", 128)
    inherit_usage(recipe(model={"init": str(run / "best.safetensors")}), tmp_path / "next")
    assert (tmp_path / "next" / "kbnet.json").read_text() == (run / "kbnet.json").read_text()
    inherit_usage(recipe(), tmp_path / "from scratch")
    alone = shutil.copy(entry.path, tmp_path / "alone.safetensors")
    inherit_usage(recipe(model={"init": str(alone)}), tmp_path / "from a file")
    assert not [name for name in ("from scratch", "from a file") if (tmp_path / name).exists()]
