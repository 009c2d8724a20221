"""Evaluation as in papers: benchmarks, results that survive an interruption, and reports.

find_benchmark(name).collect(request) -> samples --run(samples, restore, score)--> rows --summarise--> means
"""

from kbnet import needs_torch  # noqa: F401
from kbnet.evaluation.benchmarks import BENCHMARKS, Benchmark, find_benchmark
from kbnet.evaluation.journal import Journal
from kbnet.evaluation.rows import Pictures, Row, run, summarise
from kbnet.evaluation.samples import Image, Request, Sample, Target, limited
from kbnet.evaluation.session import Session, measured_figures, open_session

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "Image",
    "Journal",
    "Pictures",
    "Request",
    "Row",
    "Sample",
    "Session",
    "Target",
    "find_benchmark",
    "limited",
    "measured_figures",
    "open_session",
    "run",
    "summarise",
]
