"""Random networks on random images against numpy in float64: settings, sizes, contexts, threads, instruction sets.

    python benchmarks/fuzz.py --minutes 10
    FUZZ_MINUTES=10 .ci/sanitize               # the same with address and undefined-behaviour sanitizers
    python benchmarks/fuzz.py --only 4711      # one case again

Each case is drawn from its number. Fails if a result is further from numpy's than rounding explains. After a crash, the
last line names the case. Writes benchmarks/results/fuzz.json.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("KBNET_POISON_MEMORY", "1")  # read when the engine first asks for memory

from kbnet.engine import Context, Engine, FullFrame, Gather, Local, Shared
from kbnet.engine.native import bfloat16_instruction_sets, instruction_sets
from kbnet.engine.reference import restore
from kbnet.errors import InvalidInputError
from kbnet.models.config import Config, KBNetLConfig, KBNetSConfig
from kbnet.models.description import shapes_of

TOLERANCES = {"float32": 1e-4, "bfloat16": 0.05}  # relative to the largest change of the image

Arrays = dict[str, NDArray[Any]]


@dataclass
class Case:
    """What one case runs."""

    config: Config
    arrays: Arrays
    image: NDArray[np.float32]
    context: str
    window: int
    instruction_set: str
    dtype: str
    threads: int

    def __str__(self) -> str:
        where = f"{self.context} {self.window}" if self.context == "local" else self.context
        runs = f"{self.instruction_set}, {self.dtype}, {self.threads} threads"
        return f"{self.config}, image {self.image.shape}, {where}, {runs}"


def draw(number: int) -> Case:
    """Draw a case."""
    rng = np.random.default_rng(number)
    config = draw_config(rng)
    shape = (int(rng.integers(1, 4)), config.channels, draw_side(rng), draw_side(rng))
    name = str(rng.choice(instruction_sets()))
    in_bfloat16 = name in bfloat16_instruction_sets() and rng.random() < 0.6
    return Case(
        config,
        {key: parameter(rng, key, shape) for key, shape in shapes_of(config).items()},
        rng.normal(0.5, 0.4, shape).astype(np.float32),
        str(rng.choice(["full", "local", "shared"])),
        int(rng.integers(4, 65)),
        name,
        "bfloat16" if in_bfloat16 else "float32",
        int(rng.integers(1, 8)),
    )


def draw_side(rng: np.random.Generator) -> int:
    """Draw a side of an image, often a tiny one."""
    return int(rng.integers(1, 9) if rng.random() < 0.3 else rng.integers(1, 101))


def draw_config(rng: np.random.Generator) -> Config:
    """Draw settings until some don't contradict each other."""
    while True:
        common: dict[str, Any] = {
            "channels": int(rng.choice([1, 3, 3, 4])),
            "width": int(rng.integers(2, 25)),
            "bases": int(rng.integers(1, 41)),
            "group_channels": int(rng.integers(1, 9)),
            "kernel_size": int(rng.choice([1, 3, 3, 3, 5, 7])),
            "coefficient_limit": int(rng.integers(2, 33)),
        }
        try:
            if rng.random() < 0.6:
                levels = int(rng.integers(1, 4))
                return KBNetSConfig(
                    **common,
                    encoder_blocks=tuple(rng.integers(0, 3, levels).tolist()),
                    middle_blocks=int(rng.integers(0, 3)),
                    decoder_blocks=tuple(rng.integers(0, 3, levels).tolist()),
                    ffn_scale=float(rng.choice([1.0, 1.5, 2.0, 3.0])),
                    lightweight=bool(rng.integers(2)),
                )
            blocks, heads = rng.integers(0, 2, 4), rng.integers(1, 5, 4)
            return KBNetLConfig(
                **common,
                blocks=tuple(blocks.tolist()),
                heads=tuple(heads.tolist()),
                refinement_blocks=int(rng.integers(0, 2)),
                expansion=float(rng.choice([1.0, 1.5, 2.0])),
                bias=bool(rng.integers(2)),
            )
        except InvalidInputError:
            continue


def parameter(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draw a parameter so that every branch shows in the result, and results stay near 1."""
    values = rng.normal(0, 1, shape)
    if name.endswith("norm.weight") or name.endswith("temperature"):
        values = 1 + 0.2 * values
    elif name.endswith("bias"):
        values = 0.1 * values
    elif name.endswith("kba.weight"):
        values /= np.sqrt(shape[0] * np.prod(shape[2:]))
    elif len(shape) > 1 and np.prod(shape[1:]) > 1 and not name.endswith("scale"):
        values /= np.sqrt(np.prod(shape[1:]))
    else:
        values = 0.3 + 0.1 * values
    return values.astype(np.float32)


def error_of(case: Case) -> float:
    """Return the largest difference from numpy's result, relative to the largest change of the image."""
    settings = asdict(case.config)
    exact: Arrays = {key: value.astype(np.float64) for key, value in case.arrays.items()}
    engine = Engine(settings, case.arrays, threads=case.threads, instruction_set=case.instruction_set, dtype=case.dtype)
    found = run(engine, case)
    expected = run(lambda image, context: restore(image.astype(np.float64), exact, settings, context), case)
    change = np.abs(expected - case.image).max()
    return float(np.abs(found - expected).max() / max(change, 1e-3))


def run(network: Callable[[Any, Context], Any], case: Case) -> NDArray[Any]:
    """Run a network on the case's image in the case's context."""
    result: NDArray[Any]
    if case.context == "shared":
        gather = Gather(halo=min(case.window // 8, (min(case.image.shape[2:]) - 1) // 2))
        network(case.image, gather)
        result = network(case.image, Shared(gather.means))
    else:
        result = network(case.image, Local(case.window) if case.context == "local" else FullFrame())
    return result


def main() -> int:
    """Run cases until the time is over, and return 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="run this case, and write no results")
    options = parser.parse_args()
    if options.only is not None:
        case = draw(options.only)
        print(case)
        error, tolerance = error_of(case), TOLERANCES[case.dtype]
        print(f"relative error {error:.2e}, tolerance {tolerance:g}")
        return 0 if error <= tolerance else 1
    start, number = time.monotonic(), options.first
    counts: Counter[str] = Counter()
    largest = dict.fromkeys(TOLERANCES, 0.0)
    failures = []
    while time.monotonic() - start < 60 * options.minutes:
        print(f"\rcase {number}, {len(failures)} failed", end="", flush=True)
        case = draw(number)
        error = error_of(case)
        largest[case.dtype] = max(largest[case.dtype], error)
        counts.update([case.config.family, case.context, f"{case.instruction_set}, {case.dtype}"])
        if not error <= TOLERANCES[case.dtype]:
            failures.append(number)
            print(f"\ncase {number}: relative error {error:.2e}: {case}")
        number += 1
    from facts import write  # imports torch

    results = {
        "sanitizers": "asan" in os.environ.get("LD_PRELOAD", ""),
        "minutes": options.minutes,
        "cases": number - options.first,
        "failed": failures,
        "largest_relative_error": {dtype: float(f"{error:.2e}") for dtype, error in largest.items()},
        "counts": dict(sorted(counts.items())),
    }
    print(f"\n{results}\n{write('fuzz', results, Path(__file__).parent / 'results')}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
