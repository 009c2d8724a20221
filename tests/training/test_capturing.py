"""A training step as a CUDA graph, without a GPU.

`Tape` stands in for the graph: it notes the calls of operators that a step makes, and repeats just these, on the same
memory, without any of the step's Python. What a step reads from anywhere but tensors that stay in their place is then
frozen, as in a graph, and the comparison with plain steps fails.
"""

import contextlib
import logging
from typing import ClassVar

import pytest
import torch
from small_runs import assert_same_state, make_photos, recipe, state, train
from torch.optim.swa_utils import AveragedModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kbnet.training import Run, capturing, optimizers, stepping, validation
from kbnet.training.losses import loss_of
from kbnet.training.schedule import learning_rate

PHASES = [
    {"steps": 6, "patch": 8, "batch": 3},
    {"steps": 2, "patch": 16, "batch": 2},
    {"steps": 7, "patch": 16, "batch": 4, "accumulate": 2},
]
MUON = {"kind": "muon", "lr": 1e-2, "warmup_steps": 2, "clip_norm": 1.0}


class Tape(TorchDispatchMode):
    """The calls of operators between `with` and its end, to be repeated; stands in for `torch.cuda.CUDAGraph`."""

    tapes: ClassVar[list] = []
    fails = None

    def __init__(self):
        super().__init__()
        self.calls, self.replays = [], 0
        self.tapes.append(self)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        assert function is not torch.ops.aten._local_scalar_dense.default, "a step waits for the GPU"
        result = function(*args, **kwargs)
        self.calls.append((function, args, kwargs, result))
        return result

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Stream:
    def __init__(self, device=None):
        self.device = device

    def wait_stream(self, other):
        pass


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "CROP", 16)
    return make_photos(tmp_path / "photos")


@pytest.fixture
def taped(monkeypatch):
    """Training on a CPU as if it could record graphs; the tapes that were made."""
    monkeypatch.setattr(Tape, "tapes", [])
    monkeypatch.setattr(Tape, "fails", None)
    steppers = []
    real = stepping.Stepper.__init__

    def init(stepper, *arguments):
        real(stepper, *arguments)
        steppers.append(stepper)

    @contextlib.contextmanager
    def graph(tape, stream, capture_error_mode):
        (stepper,) = steppers[-1:]
        assert all(group["capturable"] for group in stepper.optimizer.param_groups if "capturable" in group)
        touched = [*stepper.model.parameters(), *stepper.ema.module.parameters(), stepper.ema.n_averaged]
        touched += [t for values in stepper.optimizer.state.values() for t in values.values()]
        touched += [t for p in ("muon", "adamw") for t in _inner_state(stepper.optimizer, p)]
        before = [t.detach().clone() for t in touched]
        with tape:
            yield
        with torch.no_grad():
            for t, value in zip(touched, before, strict=True):
                t.copy_(value)  # recording runs nothing
        if tape.fails is not None:
            raise RuntimeError(tape.fails)

    monkeypatch.setattr(stepping.Stepper, "__init__", init)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(capturing, "refuses", lambda wanted, accelerator: None if wanted == "auto" else "")
    return Tape.tapes


def _inner_state(optimizer, name):
    inner = getattr(optimizer.optimizer, name, None)
    return [] if inner is None else [t for values in inner.state.values() for t in values.values()]


def without(plan):
    """The same recipe with no graph."""
    return plan.model_copy(update={"run": plan.run.model_copy(update={"cuda_graph": "off"})})


@pytest.mark.parametrize(
    "sections",
    [{}, {"optimizer": MUON}, {"loss": {"kind": "psnr"}}, {"run": {"bfloat16": True}}],
    ids=["adamw", "muon", "psnr", "bfloat16"],
)
def test_a_recorded_step_does_what_the_plain_one_does(sections, data, tmp_path, taped):
    plan = recipe(phases=PHASES, **sections)
    plain, expected = train(tmp_path / "plain", data, without(plan))
    assert taped == []
    run, reports = train(tmp_path / "taped", data, plan)
    # Three plain steps of each size, one recording of each that has more of them, and its repetitions.
    assert [tape.replays for tape in taped] == [3, 4]
    assert run.stepper.recorded == 2
    assert reports == expected
    assert_same_state(state(run), state(plain))


def test_a_run_with_graphs_goes_on_as_if_it_had_not_been_cut_off(data, tmp_path, taped):
    plan = recipe(phases=PHASES, optimizer=MUON)
    whole, expected = train(tmp_path / "whole", data, plan)
    train(tmp_path / "cut", data, plan, stop_at=5)
    resumed, reports = train(tmp_path / "cut", data, plan)
    assert reports == expected[4:]
    assert_same_state(state(resumed), state(whole))


def test_a_state_loaded_between_steps_is_what_the_next_step_starts_from(data, tmp_path, taped):
    run = Run(recipe(phases=PHASES[:1]), data, tmp_path / "run", workers=0)
    run.train()
    stepper, batch = run.stepper, run.batch(5)
    stepper.load_state(stepper.state() | {"step": 5})
    one = [float(value) for value in stepper(*batch)]
    assert taped[0].replays == 3  # what the tape works on is no longer the training's
    assert all(map(torch.isfinite, map(torch.tensor, one)))


def test_where_nothing_can_be_recorded_it_trains_without_and_says_so_once(data, tmp_path, taped, monkeypatch, caplog):
    plan = recipe(phases=PHASES)
    plain, expected = train(tmp_path / "plain", data, without(plan))
    monkeypatch.setattr(Tape, "fails", "CUDA error: operation not permitted when stream is capturing\nmore")
    with caplog.at_level(logging.WARNING, "kbnet"):
        run, reports = train(tmp_path / "run", data, plan)
    assert reports == expected
    assert_same_state(state(run), state(plain))
    assert len(taped) == 1
    told = [record.message for record in caplog.records if "CUDA graph" in record.message]
    assert told == [
        "training steps run without CUDA graphs, which is slower for small networks: "
        "CUDA error: operation not permitted when stream is capturing"
    ]


def test_what_is_no_error_of_the_recording_is_not_taken_for_one(data, tmp_path, taped, monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError

    run = Run(recipe(phases=PHASES), data, tmp_path / "run", workers=0)
    monkeypatch.setattr(capturing, "WARM_UP", 0)
    monkeypatch.setattr(stepping, "loss_of", broken)
    with pytest.raises(ZeroDivisionError):
        run.train()


class On:
    """An accelerator of so many processes on a device."""

    def __init__(self, device, processes=1):
        self.device, self.num_processes = torch.device(device), processes


def test_a_graph_is_for_one_process_on_a_gpu():
    assert capturing.refuses("auto", On("cuda")) is None
    assert "several processes" in capturing.refuses("auto", On("cuda", 2))
    assert capturing.refuses("auto", On("cpu", 2)) == ""  # nobody would expect one
    assert capturing.refuses("off", On("cuda")) == ""


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_numbers_in_tensors_train_as_plain_numbers_do(kind, data, tmp_path):
    """Against a step written down the usual way: learning rate and decay as numbers of Python."""
    plan = recipe(phases=PHASES[:1], optimizer=MUON | {"kind": kind})
    run = Run(plan, data, tmp_path / "run", workers=0)
    model = plan.create_model()
    model.load_state_dict(run.stepper.model.state_dict())
    model.to(memory_format=torch.channels_last)
    averages, optimizer = AveragedModel(model), optimizers.make_optimizer(model, plan.optimizer)
    model.train()
    run.stepper.model.train()
    for step in range(6):
        clean, degraded = run.batch(step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(plan, step)
        optimizer.zero_grad()
        loss = loss_of(plan.loss, model(degraded.contiguous(memory_format=torch.channels_last)), clean)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), plan.optimizer.clip_norm)
        optimizer.step()
        decay = min(plan.run.ema, (1 + step) / (10 + step)) if step else 0.0
        with torch.no_grad():
            torch._foreach_lerp_(list(averages.module.parameters()), list(model.parameters()), 1 - decay)
        ours = run.stepper(clean, degraded)
        torch.testing.assert_close(ours, torch.stack([loss.detach(), norm]), rtol=1e-6, atol=1e-6)
    for expected, found in ((model, run.stepper.model), (averages.module, run.averaged())):
        for name, parameter in expected.named_parameters():
            torch.testing.assert_close(found.get_parameter(name), parameter, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_checkpoint_holds_plain_numbers(kind, data, tmp_path):
    run, reports = train(tmp_path / "run", data, recipe(optimizer=MUON | {"kind": kind}))
    saved = run.stepper.state()["optimizer"]
    parts = [saved] if "param_groups" in saved else list(saved.values())
    for part in parts:
        for group in part["param_groups"]:
            assert type(group["lr"]) is float
            assert group["lr"] == reports[-1].lr
            assert not group.get("capturable", False)
