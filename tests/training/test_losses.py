"""Losses against their formulas, and as means over patches."""

import pytest
import torch

from kbnet.training.losses import loss_of
from kbnet.training.recipe import LossSection


@pytest.fixture
def patches():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(4, 3, 5, 7, generator=generator), torch.rand(4, 3, 5, 7, generator=generator)


def test_losses_are_what_their_names_say(patches):
    restored, clean = patches
    d = restored - clean
    expected = {
        "l1": d.abs().mean(),
        "charbonnier": (d**2 + 1e-6).sqrt().mean(),
        "psnr": (10 * torch.log10((d**2).mean((1, 2, 3)))).mean(),
    }
    for kind, value in expected.items():
        torch.testing.assert_close(loss_of(LossSection(kind=kind), restored, clean), value)


@pytest.mark.parametrize("kind", ["l1", "charbonnier", "psnr"])
def test_parts_of_a_batch_add_up_to_the_whole(kind, patches):
    restored, clean = patches
    section = LossSection(kind=kind)
    parts = sum(loss_of(section, restored[p], clean[p]) * share for p, share in ((slice(1), 0.25), (slice(1, 4), 0.75)))
    torch.testing.assert_close(parts, loss_of(section, restored, clean))


@pytest.mark.parametrize("kind", ["l1", "charbonnier", "psnr"])
def test_equal_patches_give_the_lowest_loss_and_a_finite_gradient(kind, patches):
    clean = patches[1]
    restored = clean.clone().requires_grad_()
    loss = loss_of(LossSection(kind=kind), restored, clean)
    loss.backward()
    assert restored.grad.isfinite().all()
    assert loss.item() == pytest.approx({"l1": 0.0, "charbonnier": 1e-3, "psnr": -80.0}[kind], abs=1e-6)


def test_the_floor_of_the_psnr_loss_ends_what_a_patch_can_gain():
    clean = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    section = LossSection(kind="psnr", floor=1e-5)
    assert loss_of(section, clean, clean).item() == pytest.approx(-50, abs=1e-4)
    slopes = []
    for error in (1e-4, 3e-2):  # far below and far above the floor
        restored = (clean + error).requires_grad_()
        loss_of(section, restored, clean).backward()
        slopes.append(float(restored.grad.abs().max()))
    assert slopes[0] < slopes[1]
