"""Recipes: what is refused, with one line, and what the shipped ones say."""

import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from kbnet.data import BatchNoise
from kbnet.degradations import create_degradation
from kbnet.errors import KBNetError, RecipeError
from kbnet.models import KBNetS
from kbnet.training import Recipe
from kbnet.training.recipe import MixupSection
from kbnet.training.schedule import learning_rate

RECIPES = Path(__file__).parents[2] / "recipes"

GOOD = """
[model]
preset = "kbnet-nano"

[degradation]
kind = "gaussian"
sigma = [0, 55]

[[phases]]
steps = 60
patch = 64
batch = 16

[[phases]]
steps = 40
patch = 128
batch = 4

[optimizer]
lr = 1e-3
final_lr = 1e-6
warmup_steps = 10
hold_steps = 30
clip_norm = 0.1
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(GOOD)
    return path


def refusal(path, replace=None):
    with pytest.raises(RecipeError) as caught:
        Recipe.read(path, replace)
    message = str(caught.value)
    assert message.isprintable(), "one line"
    return message


@pytest.mark.slow
def test_every_shipped_recipe_is_valid_and_its_network_can_be_built():
    found = sorted(RECIPES.glob("*.toml"))
    assert len(found) == 18
    for path in found:
        recipe = Recipe.read(path)
        assert recipe.steps > 0
        with torch.device("meta"):
            wanted = 1 if "gray" in path.name else 5 if "raw" in path.name else 3
            assert recipe.create_model().config.channels == wanted


@pytest.mark.parametrize("path", sorted(RECIPES.glob("kbnet-*.toml")), ids=lambda path: path.stem)
def test_the_published_recipes_have_the_published_settings(path):
    recipe = Recipe.read(path)
    large = path.stem.startswith("kbnet-l")
    per_gpu = (8, 5, 3, 1, 1, 1) if large else (8, 5, 3, 2, 1, 1)
    assert [phase.batch for phase in recipe.phases] == [8 * batch for batch in per_gpu]
    assert [phase.patch for phase in recipe.phases] == [128, 160, 192, 256, 320, 320 if large else 384]
    assert [phase.steps for phase in recipe.phases] == [92_000, 64_000, 48_000, 36_000, 36_000, 24_000]
    o = recipe.optimizer
    assert (o.lr, o.final_lr, o.weight_decay, o.betas, o.clip_norm) == (3e-4, 1e-6, 1e-4, (0.9, 0.999), 0.01)
    assert (o.warmup_steps, o.hold_steps, o.schedule) == (0, 92_000, "cosine")
    assert [learning_rate(recipe, step) for step in (0, 91_999, 299_999)] == [3e-4, 3e-4, pytest.approx(1e-6)]
    assert recipe.loss.kind == "l1"
    assert recipe.mixup == (None if large else MixupSection(alpha=1.2, probability=0.5))
    (source,) = recipe.all_sources
    if "gaussian" in path.stem:
        sigma = int(path.stem.rpartition("-")[2])
        assert source.degradation.build() == BatchNoise((sigma, sigma))
        assert recipe.model.preset == path.stem.rpartition("-")[0]
    else:
        name = path.stem.rpartition("-")[2]
        assert source.layout == {"derain": "rain13k"}.get(name, name)


def test_every_shipped_recipe_begins_with_the_command_that_runs_it():
    for path in RECIPES.glob("*.toml"):
        assert path.read_text().startswith(f"# kbnet train recipes/{path.name} ")


def test_every_field_of_a_recipe_is_documented_or_has_a_plain_name():
    undocumented = {
        f"{section}.{name}"
        for section, outer in Recipe.model_fields.items()
        for name, inner in getattr(outer.annotation, "model_fields", {}).items()
        if inner.description is None
    }
    assert undocumented <= {"optimizer.weight_decay", "optimizer.betas", "run.seed"}


def test_a_good_recipe_is_read_as_it_is_written(path):
    recipe = Recipe.read(path)
    assert recipe.degradation.build() == BatchNoise((0, 55))
    assert recipe.steps == 100
    assert [recipe.phase_at(step).patch for step in (0, 59, 60, 99)] == [64, 64, 128, 128]
    assert isinstance(recipe.create_model(), KBNetS)


def test_a_recipe_survives_the_json_in_which_a_checkpoint_keeps_it(path):
    recipe = Recipe.read(path, {"model.settings.encoder_blocks": "[1, 1, 1, 1]"})
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_recipe_cannot_be_changed_after_it_was_checked(path):
    with pytest.raises(ValueError, match="frozen"):
        Recipe.read(path).optimizer.lr = 1.0


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("optimizer.lr", "5e-4", lambda r: r.optimizer.lr == 5e-4),
        ("run.seed", "7", lambda r: r.run.seed == 7),  # a section that the file leaves out
        ("degradation.sigma", "[10, 10]", lambda r: r.degradation.build() == BatchNoise((10, 10))),
        ("model.preset", "kbnet-nano-gray", lambda r: r.model.preset == "kbnet-nano-gray"),  # a bare word
        ("model.preset", '"kbnet-nano-gray"', lambda r: r.model.preset == "kbnet-nano-gray"),
        ("model.settings.width", "8", lambda r: r.create_model().config.width == 8),
        ("phases", "[{steps=50, patch=32, batch=2}]", lambda r: r.steps == 50),
        ("phases.0.steps", "200", lambda r: r.phases[0].steps == 200 and r.steps == 240),
        ("phases.1", "{steps=1, patch=32, batch=2}", lambda r: r.steps == 61),
        ("degradation.sigma.1", "9", lambda r: r.degradation.build() == BatchNoise((0, 9))),
    ],
)
def test_a_dotted_name_replaces_one_field(name, value, read, path):
    assert read(Recipe.read(path, {name: value}))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("optimizer.learning_rate", "1e-3", "optimizer.learning_rate"),
        ("optimiser.lr", "1e-3", "optimiser"),
        ("lr", "1e-3", "lr"),
        ("optimizer.lr", "fast", "optimizer.lr"),
        ("optimizer.lr", "0", "optimizer.lr"),
        ("optimizer.lr", "nan", "optimizer.lr"),
        ("optimizer.lr", "inf", "optimizer.lr"),
        ("optimizer.final_lr", "1", "final_lr"),
        ("optimizer.clip_norm", "-1", "optimizer.clip_norm"),
        ("optimizer.betas", "[0.9]", "optimizer.betas"),
        ("optimizer.betas", "[0.9, 1.0]", "optimizer.betas"),
        ("optimizer.betas", "[-0.1, 0.9]", "optimizer.betas"),
        ("optimizer.hold_steps", "91", "warmup_steps + hold_steps (101) must not exceed the 100 steps of all phases"),
        ("optimizer.hold_steps", "1.5", "optimizer.hold_steps"),
        ("degradation.kind", "snow", "degradation: kind must be one of"),
        ("degradation.depth", "3", "degradation"),
        ("degradation.sigma", "[20, 10]", "0 <= low <= high"),
        ("degradation.sigma", "[-1, 10]", "0 <= low <= high"),
        ("degradation.sigma", "[0, nan]", "sigma"),
        ("degradation.sigma", "[0, inf]", "sigma"),
        ("degradation.sigma", "25", "sigma must be [low, high]"),
        ("degradation.sigma", "[25]", "sigma must be [low, high]"),
        ("degradation.sigma", '["a", "b"]', "sigma must be [low, high]"),
        ("phases", "[]", "phases"),
        ("phases", "[{steps=0, patch=32, batch=2}]", "phases.0.steps"),
        ("phases", "[{steps=50, patch=32}]", "phases.0.batch"),
        ("phases", "[{steps=100, patch=32, batch=2, accumulate=3}]", "accumulate (3) must not exceed batch (2)"),
        ("phases.0.steps", "few", "phases.0.steps: expected a whole number, got 'few'"),
        ("phases.2.steps", "5", "phases is a list: expected an index from 0 to 1"),
        ("phases.first.steps", "5", "as in phases.0; got 'first'"),
        ("phases.0", "5", "phases.0: expected a table of fields, got 5"),
        ("optimizer.lr.0", "5", "optimizer.lr is a single value"),
        ("degradation.sigma.2", "9", "degradation.sigma is a list: expected an index from 0 to 1"),
        ("loss.kind", "l2", "loss.kind"),
        ("loss.epsilon", "0", "loss.epsilon"),
        ("mixup.probability", "1.5", "mixup.probability"),
        ("mixup.alpha", "0", "mixup.alpha"),
        ("optimizer.schedule", "steps", "optimizer.schedule"),
        ("optimizer.schedule", "cycles", "needs a list of cycles"),
        ("optimizer.cycles", "[{steps=90}]", "needs a list of cycles, and other schedules take none"),
        (
            "sources",
            "[{degradation={kind='gaussian', sigma=[0, 5]}}]",
            "expected either a degradation section or a list of sources",
        ),
        ("phases..steps", "5", "as in phases.0; got ''"),
        ("", "5", "recipe"),
        ("model.preset", "kbnet-m", "model.preset must be one of"),
        ("model.preset.width", "8", "model.preset is a single value and has no field 'width'"),
        ("model.settings.depth", "8", "depth"),
        ("model.settings.width", "1000000000", "width"),
        ("model.settings.width", "wide", "width"),
        ("run.ema", "1", "run.ema"),
        ("run.validation_every", "1", "run.validation_every"),
        ("run.checkpoint_minutes", "0", "run.checkpoint_minutes"),
    ],
)
def test_a_wrong_field_is_refused_and_named_in_one_line(name, value, says, path):
    assert says in refusal(path, {name: value})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("optimizer.learning_rate", "1", "optimizer.learning_rate is not a recipe field"),
        ("optimizer.warmup", "1", "optimizer.warmup is not a recipe field; did you mean 'warmup_steps'?"),
        ("optimiser.lr", "1e-3", "optimiser is not a recipe field; did you mean 'optimizer'?"),
        ("phases.0.step", "3", "phases.0.step is not a recipe field; did you mean 'steps'?"),
        ("mixup.probabilty", "0.1", "mixup.probabilty is not a recipe field; did you mean 'probability'?"),
        ("loss.kind", "charbonier", "expected l1, charbonnier or psnr, got 'charbonier'; did you mean 'charbonnier'?"),
        ("model.preset", "kbnet-nono", "did you mean 'kbnet-nano'?"),
        ("degradation.kind", "gausian", "did you mean 'gaussian'?"),
        ("sources", "[{layout='ssid'}]", "did you mean 'sidd'?"),
    ],
)
def test_the_nearest_name_is_suggested(name, value, says, path):
    assert says in refusal(path, {name: value})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("optimizer.lr", "fast", "optimizer.lr: expected a number, got 'fast'"),
        ("optimizer.lr", "0", "optimizer.lr: expected a number greater than 0, got 0"),
        ("optimizer.lr", "inf", "optimizer.lr: expected a finite number, got inf"),
        ("optimizer.hold_steps", "1.5", "optimizer.hold_steps: expected a whole number, got 1.5"),
        ("optimizer.betas", "[0.9]", "optimizer.betas.1 is missing"),
        ("optimizer.betas", "[0.1, 0.2, 0.3]", "optimizer.betas: expected at most 2 entries, got 3"),
        ("optimizer.betas", "0.9", "optimizer.betas: expected a list, got 0.9"),
        ("run.validation_every", "1", "run.validation_every: expected a number of at least 2, got 1"),
        ("run.seed", "20260930123000", "run.seed: expected a number of at most 4294967295, got 20260930123000"),
        ("run.compile", "maybe", "run.compile: expected true or false, got 'maybe'"),
        ("model.preset", "3", "model.preset: expected text in quotes, got 3"),
        ("mixup", "3", "mixup: expected a table of fields, got 3"),
        ("phases", "[]", "phases: expected at least 1 entry, got 0"),
        ("sources", "[{folder=''}]", "sources.0.folder: expected text, got an empty string"),
    ],
)
def test_complaints_are_in_words_of_recipes(name, value, says, path):
    message = refusal(path, {name: value})
    assert says in message
    assert not any(word in message for word in ("Input should", "Value error", "valid dictionary", "Tuple"))


def test_patches_that_the_network_cannot_take_are_refused(path):
    message = refusal(path, {"model.preset": "kbnet-l-derain", "phases": "[{steps=100, patch=60, batch=2}]"})
    assert "multiple of 8" in message


def without_degradation(path):
    path.write_text(GOOD.replace("[degradation]", "").replace('kind = "gaussian"', "").replace("sigma = [0, 55]", ""))


def test_a_missing_section_is_named(path):
    without_degradation(path)
    assert "expected either a degradation section or a list of sources" in refusal(path)
    path.write_text(GOOD.replace("[optimizer]", "[other]"))
    assert "optimizer is missing" in refusal(path)


GAUSSIAN = "degradation={kind='gaussian', sigma=[5, 5]}"
RAIN = f"{{weight=3, folder='photos', {GAUSSIAN}, margin=4, scale=[0.5, 1], jpeg_share=0.4}}"


def test_sources_have_weights_folders_layouts_and_degradations(path):
    without_degradation(path)
    recipe = Recipe.read(path, {"sources": f"[{RAIN}, {{folder='rain-pairs', layout='rain13k'}}]"})
    photos, pairs = recipe.all_sources
    assert (photos.weight, photos.margin, photos.scale, photos.label) == (3, 4, (0.5, 1), "photos")
    assert photos.jpeg_share == 0.4
    assert photos.degradation.build() == BatchNoise((5, 5))
    assert (pairs.weight, pairs.layout, pairs.degradation) == (1, "rain13k", None)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ("[]", "expected either a degradation section or a list of sources"),
        (f"[{RAIN}, {RAIN}]", "sources need different names; set folder for those named photos"),
        ("[{layout='pairs'}, {layout='pairs'}]", "set folder for those named pairs"),
        ("[{layout='raw'}]", "layout must be one of photos, pairs, sidd"),
        ("[{folder='photos'}]", "layout photos needs a degradation"),
        ("[{layout='sidd', degradation={kind='gaussian', sigma=[5, 5]}}]", "layouts of pairs take none"),
        ("[{layout='pairs', margin=3}]", "margin needs a degradation"),
        ("[{layout='pairs', scale=[0.5, 1]}]", "scale needs a degradation"),
        (
            "[{degradation={kind='gaussian', sigma=[5, 5]}, scale=[0.5, 2]}]",
            "scale must be [low, high] with 0 < low <= high <= 1",
        ),
        (f"[{{{GAUSSIAN}, scale=[0.5]}}]", "sources.0.scale"),
        ("[{layout='pairs', jpeg_share=0.5}]", "jpeg_share needs a degradation"),
        ("[{layout='pairs', weight=0}]", "sources.0.weight"),
        ("[{layout='pairs', folder=''}]", "sources.0.folder"),
        ("[{degradation={kind='pairs'}}]", "layout photos needs a degradation"),
    ],
)
def test_wrong_sources_are_refused(sources, says, path):
    without_degradation(path)
    assert says in refusal(path, {"sources": sources})


@pytest.mark.parametrize(("fields", "layout"), [("", "pairs"), (', layout="dpdd"', "dpdd")])
def test_pairs_are_a_kind_of_degradation(fields, layout, path):
    without_degradation(path)
    (source,) = Recipe.read(path, {"degradation": f'{{kind="pairs"{fields}}}'}).all_sources
    assert (source.layout, source.degradation) == (layout, None)
    for wrong in ('layout="photos"', 'layout="raw"', "layout=1", "sigma=[0, 1]"):
        assert "degradation" in refusal(path, {"degradation": f'{{kind="pairs", {wrong}}}'})


def test_the_other_fields_of_a_degradation_are_its_own(path):
    without_degradation(path)
    recipe = Recipe.read(path, {"degradation": '{kind="jpeg", quality=[30, 90], clean_share=0.1}'})
    assert recipe.degradation.build() == create_degradation("jpeg", quality=(30, 90), clean_share=0.1)
    assert recipe.all_sources[0].label == "jpeg"
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    for fields, says in {"quality=[90, 30]": "quality", "quality='low'": "quality", "colour=2": "colour"}.items():
        assert says in refusal(path, {"degradation": f'{{kind="jpeg", {fields}}}'})


@pytest.mark.parametrize("content", [b"not = = toml", b"\xff\xfe\x00", b"[model\n", b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_refused(content, path):
    path.write_bytes(content)
    assert "is not valid TOML" in refusal(path)


def test_a_missing_recipe_is_named(tmp_path):
    assert "gone.toml: No such file" in refusal(tmp_path / "gone.toml")


def test_a_folder_is_no_recipe(tmp_path):
    assert "Is a directory" in refusal(tmp_path)


def test_a_recipe_error_is_one_of_the_packages_errors():
    assert issubclass(RecipeError, KBNetError)
    assert issubclass(RecipeError, ValueError)


def test_the_learning_rate_rises_holds_and_falls_to_its_last_value(path):
    recipe = Recipe.read(path)
    rates = [learning_rate(recipe, step) for step in range(recipe.steps)]
    assert rates[0] == pytest.approx(1e-4)  # a tenth of the warm-up, and not zero
    assert rates[9] == pytest.approx(1e-3)
    assert rates[10:40] == [1e-3] * 30
    assert rates[69] == pytest.approx((1e-3 + 1e-6) / 2)  # halfway down the cosine of 60 steps
    assert rates[-1] == pytest.approx(1e-6)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[39:]))
    assert learning_rate(recipe, recipe.steps + 5) == pytest.approx(1e-6)


def test_a_recipe_without_a_cosine_holds_to_the_end(path):
    recipe = Recipe.read(path, {"optimizer.hold_steps": "90"})
    assert learning_rate(recipe, 99) == 1e-3


@pytest.mark.parametrize(
    ("schedule", "halfway", "quarter"),
    [("cosine", 0.5, 0.8536), ("linear", 0.5, 0.75), ("1-sqrt", 1 - 0.5**0.5, 0.5)],
)
def test_every_way_down_ends_at_the_last_rate(schedule, halfway, quarter, path):
    recipe = Recipe.read(path, {"optimizer.schedule": schedule})
    low, high = 1e-6, 1e-3
    for step, share in ((69, halfway), (54, quarter), (99, 0.0)):  # of the 60 steps from 40 on
        assert learning_rate(recipe, step) == pytest.approx(low + (high - low) * share, rel=1e-3)


def test_cycles_start_again_each_at_its_own_rate(path):
    settings = {"optimizer.hold_steps": "0", "optimizer.schedule": "cycles"}
    cycles = "[{steps=30, final_lr=1e-3}, {steps=20, lr=5e-4}, {steps=40, lr=1e-4, final_lr=1e-5}]"
    recipe = Recipe.read(path, settings | {"optimizer.cycles": cycles})
    rates = [learning_rate(recipe, step) for step in range(100)]
    assert rates[9:40] == [pytest.approx(1e-3)] * 31  # the end of the warm-up, and a cycle that ends where it starts
    assert rates[40] < 5e-4 < rates[39]
    assert rates[49] == pytest.approx((5e-4 + 1e-6) / 2)
    assert rates[59] == pytest.approx(1e-6)
    assert rates[60] == pytest.approx(1e-4, rel=0.01)
    assert rates[99] == learning_rate(recipe, 120) == pytest.approx(1e-5)
    for wrong, says in {
        "[{steps=89}]": "add up to 99 steps, but the phases to 100",
        "[{steps=90, lr=1e-7}]": "a cycle's final_lr (1e-06) must not exceed its lr (1e-07)",
    }.items():
        assert says in refusal(path, settings | {"optimizer.cycles": wrong})
    assert "hold_steps doesn't work with the schedule cycles" in refusal(
        path, {"optimizer.schedule": "cycles", "optimizer.cycles": "[{steps=60}]"}
    )


def test_the_shipped_denoisers_are_trained_on_the_noise_that_their_tasks_promise():
    gaussian = tomllib.loads((RECIPES / "denoise-gaussian-nano.toml").read_text())
    assert gaussian["degradation"] == {"kind": "gaussian", "sigma": [0, 55]}
    any_noise = tomllib.loads((RECIPES / "denoise-nano.toml").read_text())
    (source,) = any_noise["sources"]
    assert source["drawn"] > 0
    assert source["degradation"]["kind"] == "photo-noise"
    assert source["degradation"]["gaussian"]["sigma"] == [0, 55]
    assert any_noise["model"] == {"preset": "kbnet-nano"}  # from random weights, so that no other terms bind it
