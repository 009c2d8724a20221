"""Evaluation sessions: a benchmark, its data, a model and its options, and what results files record of them."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kbnet.environment import environment
from kbnet.errors import InvalidInputError
from kbnet.evaluation.benchmarks import Benchmark, find_benchmark
from kbnet.evaluation.blurring import blur_samples, describe_kernels
from kbnet.evaluation.published_tiles import in_published_tiles
from kbnet.evaluation.rows import Row, seconds_per_megapixel, summarise
from kbnet.evaluation.samples import Image, Request, Sample, limited
from kbnet.evaluation.scores import Score, score_y, with_lpips
from kbnet.inference import Restorer
from kbnet.inference.identity import digest, identity
from kbnet.models import find, resolve

Tile = int | Literal["auto", "protocol"]


@dataclass(frozen=True)
class Session:
    """What is constant during an evaluation; created by `open_session`.

    Attributes:
        benchmark: the benchmark.
        request: its data and options.
        restorer: the restorer to evaluate.
        sha256: SHA-256 of the weights.
        strength: blend with the input: 0 = input, 1 = fully restored.
        published_tiles: whether to restore in the tiles of the authors' scripts.
        score: compares an output with the clean image.
        limit: maximum number of images; None for all.
    """

    benchmark: Benchmark
    request: Request
    restorer: Restorer
    sha256: str
    strength: float
    published_tiles: bool
    score: Score
    limit: int | None

    def samples(self) -> list[Sample]:
        """Return all samples of the benchmark; raises InvalidInputError if the data doesn't fit."""
        return self.benchmark.collect(self.request)

    def chosen(self, samples: Sequence[Sample], known: MutableMapping[str, Row] | tuple[()] = ()) -> list[Sample]:
        """Return the samples up to the limit, and those whose rows are already `known`.

        Removes the rows from `known` that were measured on other data: another folder can have the same name, and its
        images too. Rows of older results files, which don't say on what they were measured, are removed as well.
        """
        if known:
            for sample in samples:
                if sample.name in known and not _is_of(known[sample.name], sample):
                    del known[sample.name]
        within = {sample.name for sample in limited(samples, self.limit)}
        return [sample for sample in samples if sample.name in within or sample.name in known]

    def restore(self, image: Image) -> Image:
        """Restore one image by the benchmark's protocol."""
        if self.published_tiles:
            return in_published_tiles(self._restore, image)
        return self._restore(image)

    def settings(self) -> dict[str, Any]:
        """Return everything that rows depend on, as plain values. Rows with other settings belong to other results."""
        how = identity(self.restorer)
        del how["weights"], how["gray"]  # sha256 replaces the first; there is no second model
        settings: dict[str, Any] = {
            "benchmark": self.benchmark.name,
            "set": self.request.data.resolve().name,
            "model": Path(self.restorer.name).stem,
            "sha256": self.sha256,
            "channels": self.request.channels,
            **how,
            "published_tiles": self.published_tiles,
            "strength": self.strength,
            "lpips": self.score is not self.benchmark.score,
        }
        if self.request.sigmas:
            settings["sigmas"] = list(self.request.sigmas)
        if self.benchmark.collect is blur_samples:
            settings["blur"] = describe_kernels(self.request.kernels)
        return settings

    def results(self, command: str, rows: Sequence[Row], *, complete: bool = True) -> dict[str, Any]:
        """Return the contents of the results file: machine and command, settings, means by group, and all rows.

        Args:
            command: the command line.
            rows: all rows, in order.
            complete: whether they cover all samples.
        """
        seconds = seconds_per_megapixel(rows)
        return {
            "facts": environment(command),
            "title": self.benchmark.title,
            "protocol": self.benchmark.protocol,
            "settings": self.settings(),
            "limit": None if complete else len({row.photo for row in rows}),
            "means": summarise(rows),
            "seconds_per_megapixel": None if seconds is None else round(seconds, 3),
            "worse_than_input": [row.name for row in rows if row.worse],
            "failed": [row.name for row in rows if row.error is not None],
            "images": [row.as_json() for row in rows],
        }

    def _restore(self, image: Image) -> Image:
        restored: Image = self.restorer(image, strength=self.strength)
        return restored


def _is_of(row: Row, sample: Sample) -> bool:
    """Return whether a row was measured on the data of this sample."""
    try:
        return row.data_sha256 == sample.digest()
    except OSError:
        return False  # measuring it again tells what is wrong with the file


def open_session(
    benchmark: str,
    data: Path | None = None,
    model: str | None = None,
    *,
    sigmas: Sequence[float] = (),
    kernels: Path | None = None,
    tile: Tile = "protocol",
    device: str = "auto",
    dtype: str = "auto",
    context: Literal["auto", "global", "local", "tile"] = "auto",
    ensemble: bool = False,
    strength: float = 1.0,
    lpips: bool = False,
    limit: int | None = None,
) -> Session:
    """Load a model for a benchmark.

    Args:
        benchmark: name of the benchmark.
        data: folder of the data set in the benchmark's `layout`; None if code draws its images.
        model: an included model, a task or a weights file; defaults to the benchmark's task.
        sigmas: noise levels on a scale of 255, instead of the benchmark's.
        kernels: file or folder with blur kernels, for the benchmark "blur".
        tile: "protocol" for the tiles of the published results, or as for `Restorer`.
        device, dtype, context, ensemble, strength: as for `Restorer`.
        lpips: whether to measure LPIPS too.
        limit: evaluate only the first images, up to this number.

    Raises:
        InvalidInputError: the benchmark or folder doesn't exist, or the benchmark doesn't take an option.
        UnknownModelError, CheckpointError: the model doesn't exist, or its file is invalid.
        MissingExtraError: `lpips` is set, but its package isn't installed.
    """
    chosen = find_benchmark(benchmark)
    if sigmas and not chosen.sigmas:
        raise InvalidInputError(f"the benchmark {benchmark} adds no noise, so it takes no --sigma")
    if kernels is not None and chosen.collect is not blur_samples:
        raise InvalidInputError(f"the benchmark {benchmark} doesn't blur, so it takes no --kernels")
    if not chosen.needs_data:
        if data is not None:
            raise InvalidInputError(f"the benchmark {benchmark} draws its images, so it takes no --data")
        data = Path(chosen.name)
    elif data is None:
        raise InvalidInputError(f"the benchmark {benchmark} needs --data FOLDER: {chosen.layout}")
    elif not data.is_dir():
        raise InvalidInputError(f"{data} is not a folder; use another --data")
    name = model or chosen.task
    if (entry := find(name)) is not None:
        name = entry.name  # by name: a task can have a second model for gray images, but only one is measured here
    published = tile == "protocol" and chosen.published_tiles
    side: int | Literal["auto"] = 0 if tile == "protocol" else tile
    score = with_lpips(chosen.score) if lpips else chosen.score
    restorer = Restorer.from_pretrained(name, tile=side, device=device, dtype=dtype, context=context, ensemble=ensemble)
    channels = chosen.channels or restorer.config.channels
    request = Request(data, channels, tuple(dict.fromkeys(sigmas)) or chosen.sigmas, kernels)
    return Session(chosen, request, restorer, digest(resolve(name)), strength, published, score, limit)


def measured_figures(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the PSNR in dB of every group in a results file, under the names used in the catalogue of weights.

    Examples are "CBSD68 sigma 25", "Rain100L-dev Y", "polyu-dev", "CBSD68 defocus", "CBSD68 blur" and "CBSD68 clean".
    The suffix ", input" marks the degraded images, and ", lowest" the lowest of the restored ones.
    """
    settings, figures = results["settings"], {}
    for group, mean in results["means"].items():
        whole = "Y" if find_benchmark(settings["benchmark"]).score is score_y else ""
        kind = (settings["benchmark"] if "blur" in settings else whole) if group == "all" else group
        name = f"{settings['set']} {kind}".strip()
        for suffix, part in (("", "output"), (", input", "input"), (", lowest", "lowest")):
            if "psnr" in mean[part]:
                figures[name + suffix] = float(mean[part]["psnr"])
    return figures
