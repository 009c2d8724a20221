"""One evaluation: a benchmark, its data, a model and how it is used; what is told about them in results."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kbnet.errors import InvalidInputError
from kbnet.evaluation.benchmarks import Benchmark, find_benchmark
from kbnet.evaluation.blurring import blur_samples, describe_kernels
from kbnet.evaluation.environment import environment
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
    """What stays the same from the first row to the last; made by `open_session`.

    Attributes:
        benchmark: from the table.
        request: its data and settings.
        restorer: what is measured.
        sha256: of the weights.
        strength: blend with the input below 1.
        published_tiles: restore in the tiles of the authors' scripts.
        score: compares an output with the clean picture.
        limit: number of pictures looked at; None for all.
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
        """Every sample of the benchmark; InvalidInputError where the data is not as it must be."""
        return self.benchmark.collect(self.request)

    def chosen(self, samples: Sequence[Sample], known: Container[str] = ()) -> list[Sample]:
        """Those up to the limit, and those whose rows are `known` already, which a quick look shall not lose."""
        within = {sample.name for sample in limited(samples, self.limit)}
        return [sample for sample in samples if sample.name in within or sample.name in known]

    def restore(self, image: Image) -> Image:
        """Restore one image as the benchmark wants it."""
        if self.published_tiles:
            return in_published_tiles(self._restore, image)
        return self._restore(image)

    def settings(self) -> dict[str, Any]:
        """All that rows depend on, as plain values; rows of other settings do not belong to the same results."""
        how = identity(self.restorer)
        del how["weights"], how["gray"]  # the file's digest says the first, and one model alone is measured
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
        """The results file: facts of machine and command, settings, means by group, and every row.

        Args:
            command: that made it.
            rows: in order.
            complete: whether they are of every sample.
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
        benchmark: its name.
        data: folder of the data set, as the benchmark's `layout` says; none for pictures that are drawn by code.
        model: shipped model, task or weights file; by default the benchmark's task.
        sigmas: in place of the benchmark's.
        kernels: file or folder of blur kernels, for the benchmark that blurs.
        tile: "protocol" for what the published figures were made with, or as `Restorer` takes it.
        device, dtype, context, ensemble, strength: as `Restorer` takes them.
        lpips: measure LPIPS too.
        limit: look at the first pictures only.

    Raises:
        InvalidInputError: no such benchmark or folder, or an option that the benchmark does not take.
        UnknownModelError, CheckpointError: no such model, or its file is no good.
        MissingExtraError: `lpips` without its package.
    """
    chosen = find_benchmark(benchmark)
    if sigmas and not chosen.sigmas:
        raise InvalidInputError(f"the benchmark {benchmark} adds no noise, so it takes no sigma")
    if kernels is not None and chosen.collect is not blur_samples:
        raise InvalidInputError(f"the benchmark {benchmark} blurs nothing, so it takes no kernels")
    if not chosen.needs_data:
        if data is not None:
            raise InvalidInputError(f"the benchmark {benchmark} draws its pictures, so it takes no --data")
        data = Path(chosen.name)
    elif data is None:
        raise InvalidInputError(f"expected --data FOLDER for the benchmark {benchmark}: {chosen.layout}")
    elif not data.is_dir():
        raise InvalidInputError(f"expected a folder, got {data}, which is not one; give another --data")
    name = model or chosen.task
    if (entry := find(name)) is not None:
        name = entry.name  # a task may have a second model for gray images, and here one model is measured
    published = tile == "protocol" and chosen.published_tiles
    side: int | Literal["auto"] = 0 if tile == "protocol" else tile
    score = with_lpips(chosen.score) if lpips else chosen.score
    restorer = Restorer.from_pretrained(name, tile=side, device=device, dtype=dtype, context=context, ensemble=ensemble)
    channels = chosen.channels or restorer.network.config.channels
    request = Request(data, channels, tuple(dict.fromkeys(sigmas)) or chosen.sigmas, kernels)
    return Session(chosen, request, restorer, digest(resolve(name)), strength, published, score, limit)


def measured_figures(results: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a results file by the names that the catalogue of weights gives them: PSNR in dB of every group.

    "CBSD68 sigma 25", "Rain100L-dev Y", "polyu-dev", "CBSD68 defocus", "CBSD68 blur", "CBSD68 clean"; the same with
    ", input" for the degraded pictures, and with ", lowest" for the lowest of the restored ones.
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
