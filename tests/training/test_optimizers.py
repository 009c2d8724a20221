"""Muon: the library's steps, in batches; and what of a network it is given."""

import pytest
import torch
from torch import nn

from kbnet import create_model
from kbnet.training.optimizers import Muon, MuonAdamW, make_optimizer, newton_schulz
from kbnet.training.recipe import OptimizerSection

SHAPES = [(8, 8, 1, 1), (8, 8, 1, 1), (6, 3, 3, 3), (3, 10, 1, 1), (1, 4, 1, 1), (16, 8, 2, 2)]


def parameters(formats=torch.contiguous_format):
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=generator).to(memory_format=formats) for shape in SHAPES]
    return [nn.Parameter(one) for one in made]


def gradients(step):
    generator = torch.Generator().manual_seed(step + 1)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_it_takes_the_steps_of_torch_matrix_by_matrix(memory_format):
    ours = parameters(memory_format)
    theirs = [nn.Parameter(p.detach().clone().contiguous().flatten(1)) for p in ours]
    start = [p.detach().clone() for p in ours]
    muon = Muon(ours, lr=0.02, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for p, q, g in zip(ours, theirs, gradients(step), strict=True):
            p.grad, q.grad = g.to(memory_format=memory_format), g.flatten(1)
        muon.step()
        reference.step()
    for p, q, before in zip(ours, theirs, start, strict=True):
        moved = (q.view_as(before) - before).norm()
        assert moved > 0
        assert (p - q.view_as(p)).norm() < 0.02 * moved  # torch's iterates in bfloat16


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (4, 64), (64, 200)])
def test_singular_values_come_near_one_and_singular_vectors_stay(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    aligned = (u.mT @ newton_schulz(matrices).float() @ vh.mT).diagonal(dim1=1, dim2=2)
    assert aligned.min() > 0.3  # the smallest singular values are still on their way
    assert aligned.max() < 1.3
    assert aligned.median() > 0.6


def test_a_gradient_of_zeros_moves_nothing():
    weight = nn.Parameter(torch.ones(4, 4, 1, 1))
    weight.grad = torch.zeros_like(weight)
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(weight, torch.ones(4, 4, 1, 1))


def test_a_parameter_without_gradient_is_left_alone():
    still, moving = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    moving.grad = torch.eye(4)
    Muon([still, moving], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(still, torch.ones(4, 4))
    assert not torch.equal(moving, torch.ones(4, 4))


def test_full_convolutions_get_muon_and_everything_else_adamw_once_each():
    model = create_model("kbnet-nano", width=4)
    optimizer = make_optimizer(model, OptimizerSection(kind="muon", lr=1e-3, clip_norm=1.0))
    assert isinstance(optimizer, MuonAdamW)
    names = {id(p): name for name, p in model.named_parameters()}
    muon, weights, vectors = ([names[id(p)] for p in group["params"]] for group in optimizer.param_groups)
    assert sorted(muon + weights + vectors) == sorted(names.values())
    assert {"first.weight", "encoder.0.0.ffn_in.weight"} <= set(muon)
    assert {"encoder.0.0.kba.weight", "encoder.0.0.adaptive_in.1.weight"} <= set(weights)
    block = "encoder.0.0"
    assert {"first.bias", f"{block}.ffn_norm.weight", f"{block}.kba_scale", f"{block}.kba.bias"} <= set(vectors)


def test_weights_decay_and_scales_and_biases_do_not():
    model = create_model("kbnet-nano", width=4)
    optimizer = make_optimizer(model, OptimizerSection(kind="muon", lr=0.5, weight_decay=0.5, clip_norm=1.0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        weight = name.endswith("weight") and "norm" not in name
        torch.testing.assert_close(p.detach(), before[name] * (0.75 if weight else 1.0))


def test_one_learning_rate_drives_both_also_after_a_state_was_loaded():
    model = create_model("kbnet-nano", width=4)
    section = OptimizerSection(kind="muon", lr=1e-3, clip_norm=1.0)
    optimizer = MuonAdamW(model, section)
    optimizer.load_state_dict(MuonAdamW(model, section).state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())
