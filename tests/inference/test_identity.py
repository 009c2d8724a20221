"""One identity of a model and of how it is computed: what may be mixed in one job, and what may not."""

import copy
import json

import numpy as np
import pytest
import torch
from small_networks import kbnet_l, kbnet_s, loud, on_cpu

from kbnet.inference import Restorer, identity
from kbnet.inference.identity import digest
from kbnet.models import load_file, save_file

NETWORK = loud(kbnet_s, 3)


def of(network=NETWORK, **options):
    return identity.identity(on_cpu(network, **{"tile": 64} | options))


def changed(network, name):
    network = copy.deepcopy(network)
    with torch.no_grad():
        network.get_parameter(name)[0, 0, 0, 0] += 1e-3
    return network


def test_the_same_weights_have_one_identity_whatever_they_are_called(tmp_path):
    save_file(NETWORK, tmp_path / "a.safetensors")
    save_file(load_file(tmp_path / "a.safetensors"), tmp_path / "b.safetensors")
    one, two = (identity.identity(Restorer.from_pretrained(tmp_path / f"{name}.safetensors")) for name in "ab")
    assert one == two
    assert one == json.loads(json.dumps(one))
    assert one["weights"] == of()["weights"]


@pytest.mark.parametrize(
    "other",
    [
        lambda: of(changed(NETWORK, "first.weight")),
        lambda: of(loud(kbnet_s, 2)),
        lambda: of(loud(kbnet_l)),
        lambda: of(dtype="bfloat16"),
        lambda: of(tile=128),
        lambda: of(overlap=16),
        lambda: of(context="tile"),
        lambda: of(context="local", window=32),
        lambda: of(ensemble=True),
    ],
)
def test_another_form_has_another_identity(other, monkeypatch):
    monkeypatch.setenv("KBNET_FUSED", "off")  # some processors don't multiply in bfloat16 by the engine
    assert other() != of()


def test_the_instruction_set_the_version_and_the_gray_network_are_part_of_it(monkeypatch):
    plain = of()
    with monkeypatch.context() as within:
        within.setenv("KBNET_INSTRUCTION_SET", "scalar")
        assert identity.instruction_set() != plain["instruction_set"]
    with monkeypatch.context() as within:
        within.setattr(identity, "__version__", "0.0.0")
        assert of() != plain
    restorer = on_cpu(NETWORK, tile=64)
    restorer.gray = on_cpu(loud(kbnet_s, 1), tile=64)
    assert identity.identity(restorer)["gray"] == of(loud(kbnet_s, 1))
    assert identity.identity(restorer) != plain


def test_the_weights_of_an_exported_graph_are_those_of_its_files(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    from kbnet.export import export_model, graph_facts

    found = []
    for number, network in enumerate((NETWORK, changed(NETWORK, "first.weight"))):
        path = tmp_path / f"{number}.onnx"
        export_model(network, path, graph_facts(network))
        found.append(identity.identity(Restorer.from_pretrained(path)))
        assert found[-1]["weights"] == digest(path)
        assert found[-1]["runtime"] == "onnxruntime"
    assert found[0] != found[1]


def test_a_digest_is_that_of_the_bytes(tmp_path):
    data = np.arange(1000, dtype=np.uint8).tobytes()
    (tmp_path / "a").write_bytes(data)
    assert digest(tmp_path / "a") == digest(data)
    assert len(digest(b"")) == 64
