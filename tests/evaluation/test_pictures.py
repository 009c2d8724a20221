"""Pictures are drawn of what there is; what they show is tested where it is computed."""

import json
import sys

import numpy as np
import pytest
import torch

from kbnet.errors import MissingExtraError
from kbnet.imaging import read_photo
from kbnet.models import create_model

S = {"width": 8, "encoder_blocks": (1,), "decoder_blocks": (1,), "middle_blocks": 1}


def results(sets=("CBSD68", "Set12"), sigmas=(15, 50)):
    methods = {
        "kbnet": {"label": "kbnet", "told_sigma": False},
        **{f"peer {n}": {"label": f"peer {n}", "told_sigma": True} for n in range(8)},
    }
    rows = [
        {"set": s, "sigma": g, "method": m, "images": 2, "psnr": 25.0 + n, "seconds": 0.01 * 3**n, "cpu_seconds": 1.0}
        for s in sets
        for g in sigmas
        for n, m in enumerate(methods)
        if s == "CBSD68" or m != "peer 3"
    ]
    return json.loads(json.dumps({"methods": methods, "summary": rows}))


def test_quality_is_drawn_against_time(tmp_path):
    pytest.importorskip("matplotlib")
    from kbnet.evaluation.plots import quality_against_time

    path = tmp_path / "new" / "peers.png"
    quality_against_time(results(), path, "a processor")
    pixels = read_photo(path).pixels
    assert 0.5 < (pixels == 255).mean() < 0.99
    assert pixels.shape[1] > 700


@pytest.mark.slow
@pytest.mark.parametrize(("bases", "channels"), [(1, 1), (9, 3)])
def test_a_block_is_drawn(bases, channels):
    pytest.importorskip("matplotlib")
    from kbnet.evaluation.figures import draw_block
    from kbnet.evaluation.inspection import inspect_block

    torch.manual_seed(0)
    network = create_model("kbnet-nano", channels=channels, bases=bases, **S).eval()
    shape = (16, 24) if channels == 1 else (16, 24, 3)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    tensor = torch.from_numpy(image).reshape(16, 24, channels).permute(2, 0, 1) / 255
    pixels = {"edge": (0, 0), "23,15": (23, 15)}
    coarse = draw_block(inspect_block(network, tensor, "middle.0"), image, pixels)
    assert coarse.dtype == np.uint8
    assert 0.05 < (coarse != 255).mean() < 0.95
    other = draw_block(inspect_block(network, tensor, "middle.0"), image, pixels, group=0, title="another")
    assert other.shape == coarse.shape
    assert not np.array_equal(other, coarse)


def test_without_matplotlib_one_line_says_what_to_install(monkeypatch, tmp_path):
    from kbnet.evaluation.plots import quality_against_time

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'kbnet\[eval\]'"):
        quality_against_time(results(), tmp_path / "a.png")
