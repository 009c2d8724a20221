"""`kbnet benchmark`: what it measures is what it prints, beside reference machines."""

import json
from pathlib import Path

import numpy as np
import pytest

from kbnet.cli.benchmark import Machine, reference_machines, seconds_per_megapixel
from kbnet.models import PRESETS, catalogue

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


class Restorer:
    """Takes so many seconds for a megapixel, by a clock of its own."""

    def __init__(self, seconds):
        self.seconds, self.now, self.sizes = seconds, 0.0, []

    def __call__(self, image):
        assert image.dtype == np.uint8
        height, width, _ = image.shape
        self.sizes.append(width)
        self.now += self.seconds * height * width / 1e6


@pytest.mark.parametrize(
    ("speed", "limit", "largest", "runs"),
    [
        (0.5, 30, 1024, 5),  # quick: all repetitions
        (6, 30, 1024, 4),
        (50, 30, 512, 1),
        (1000, 30, 256, 1),  # so slow that the smallest is measured, once
    ],
)
def test_a_machine_of_any_speed_is_measured_in_time(speed, limit, largest, runs):
    restorer = Restorer(speed)
    found = seconds_per_megapixel(restorer, limit, clock=lambda: restorer.now)
    assert found == pytest.approx(speed)
    assert max(restorer.sizes) == largest
    assert restorer.sizes[2:].count(largest) == runs


def test_reference_machines_are_data_of_results_that_are_kept():
    machines = reference_machines()
    assert machines
    for machine in machines:
        assert isinstance(machine, Machine)
        for name in machine.source.split(", "):
            assert (RESULTS / Path(name).name).exists(), name
        assert machine.seconds.keys() <= PRESETS.keys()
        assert all(0 < seconds < 1000 for seconds in machine.seconds.values())


def test_every_network_that_ships_is_measured_and_compared(kbnet_, monkeypatch):
    monkeypatch.setattr("kbnet.cli.benchmark._SIDES", (64, 32))
    monkeypatch.setattr("kbnet.cli.benchmark._REPEATS", 1)
    done = kbnet_("benchmark", "--seconds", 1)
    assert done.code == 0, done.err
    text = done.out.decode()
    for network in {entry.preset for entry in catalogue().values() if PRESETS[entry.preset].channels == 3}:
        assert network in text
    assert "this machine: " in text
    assert reference_machines()[0].name in text
    facts = json.loads(kbnet_("benchmark", "--seconds", 1, "--model", "kbnet-nano-derain", "--json").out)
    assert list(facts["seconds_per_megapixel"]) == ["kbnet-nano"]
    assert facts["seconds_per_megapixel"]["kbnet-nano"] > 0
    assert facts["threads"] == 1
