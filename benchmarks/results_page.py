"""Generate docs/results.md from benchmarks/results/*.json and published.toml.

python benchmarks/results_page.py            # writes the page; a test checks that it is up to date
"""

import argparse
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kbnet.evaluation.benchmarks import find_benchmark

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results.md"
SOURCES = {"paper": "published", "second-hand": "published, quoted by others"}
SIGMAS = ("15", "25", "50")
ON_Y = ("test100", "rain100h", "rain100l", "test1200", "test2800")

RUNTIMES = {"torch": "PyTorch, kbnet's kernels", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}

Results = Mapping[str, Any]

INTRODUCTION = """# Results

`python benchmarks/results_page.py` generates this page from the files in `benchmarks/results`. Each file names its
command, the machine and the SHA-256 of the weights, and has one row per image. PSNR is in dB, averaged over the images
of a set. `kbnet evaluate --list` describes the protocol of each benchmark.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args()
    options.output.write_text(page(read(options.results), published()), encoding="utf-8")
    print(options.output)


def read(folder: Path) -> dict[str, Results]:
    """All results files by name."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def published() -> Results:
    """Figures published by others, and benchmarks that could not be run."""
    return tomllib.loads((HERE / "published.toml").read_text(encoding="utf-8"))


def page(files: Mapping[str, Results], others: Results) -> str:
    """The whole page."""
    parts = [
        INTRODUCTION,
        gaussian(files, others["gaussian"]),
        pairs(files),
        clean(files),
        runtimes(files),
        raw(files),
        eight_bits(files),
        training(files),
        workers(files),
        formats(files),
        beside(others["other"]),
        not_run(others["not_run"]),
        sources(files),
    ]
    return "\n".join(part for part in parts if part)


def gaussian(files: Mapping[str, Results], others: Sequence[Results]) -> str:
    """One table per set: measured models and peers, then published figures."""
    tables: dict[str, list[list[str]]] = {}
    noisy: dict[str, dict[str, float]] = {}
    for name, results in files.items():
        for set_name, label, scores, before, seconds in _measured(results):
            noisy.setdefault(set_name, {}).update(before)
            cells = [label, *(_decibels(scores.get(sigma)) for sigma in SIGMAS), _seconds(seconds)]
            tables.setdefault(set_name, []).append([*cells, f"`{name}`"])
    published_by_set = {entry["set"]: entry["rows"] for entry in others}
    text = "## Gaussian noise\n\nThe papers' protocol: unclipped noise, full frame, results rounded to 8 bits.\n"
    for set_name in [*tables, *(name for name in published_by_set if name not in tables)]:
        rows = []
        if noisy.get(set_name):
            rows.append(["noisy", *(_decibels(noisy[set_name].get(sigma)) for sigma in SIGMAS), "", ""])
        rows += tables.get(set_name, [])
        for row in published_by_set.get(set_name, []):
            cells = [row["method"], *(_decibels(row["psnr"].get(sigma)) for sigma in SIGMAS), "–"]
            rows.append([*cells, SOURCES[row["source"]]])
        heads = [set_name, "sigma 15", "25", "50", "seconds per megapixel", "from"]
        text += f"\n{table(heads, rows)}"
    return text


def _measured(results: Results) -> Iterable[tuple[str, str, dict[str, float], dict[str, float], float | None]]:
    """(set, method, PSNR by sigma, PSNR of the noisy images, seconds per megapixel) of any results file."""
    if "psnr" in results and "restorer" in results:  # files from before `kbnet evaluate`
        how = results["restorer"]
        scores = {name.removeprefix("sigma "): value for name, value in results["psnr"].items()}
        before = {
            sigma: sum(row[f"sigma {sigma}"]["before"] for row in results["images"]) / len(results["images"])
            for sigma in scores
        }
        yield results["set"], _model(how), scores, before, results["seconds_per_megapixel"]
    elif any(group.startswith("sigma ") for group in results.get("means", {})):
        means = {group.removeprefix("sigma "): mean for group, mean in results["means"].items()}
        scores, before = (
            {sigma: float(mean[side]["psnr"]) for sigma, mean in means.items()} for side in ("output", "input")
        )
        yield _set(results), _model(results["settings"]), scores, before, results["seconds_per_megapixel"]
    elif "summary" in results and "methods" in results:  # benchmarks/peers.py
        for set_name in dict.fromkeys(row["set"] for row in results["summary"]):
            for method, about in results["methods"].items():
                rows = [row for row in results["summary"] if (row["set"], row["method"]) == (set_name, method)]
                if rows:
                    scores = {f"{row['sigma']:g}": row["psnr"] for row in rows}
                    seconds = sum(row["seconds"] for row in rows) / len(rows)
                    yield set_name, about.get("label", method), scores, {}, seconds


def pairs(files: Mapping[str, Results]) -> str:
    """All other benchmarks of `kbnet evaluate` with clean references, input and output."""
    rows = []
    for name, results in _evaluations(files):
        for group, mean in results["means"].items():
            if not mean["input"] or group.startswith("sigma "):
                continue
            before, after = float(mean["input"]["psnr"]), float(mean["output"]["psnr"])
            benchmark = find_benchmark(results["settings"]["benchmark"])
            kind = "Y" if benchmark.name in ON_Y else "gray" if benchmark.channels == 1 else "RGB"
            rows.append(
                [
                    f"{_set(results)}{'' if group == 'all' else f', {group}'} ({mean['pictures']})",
                    benchmark.title,
                    kind,
                    _model(results["settings"]),
                    _decibels(before),
                    _decibels(after),
                    f"{after - before:+.2f}",
                    f"{_decibels(mean['lowest']['psnr'])}",
                    str(mean["worse"]),
                    f"`{name}`",
                ]
            )
    heads = ["set (images)", "benchmark", "on", "model", "input", "restored", "gain", "lowest", "worse than input"]
    return f"## Real noise, rain and blur\n\n{table([*heads, 'from'], rows)}" if rows else ""


def _two(scores: Mapping[str, float]) -> str:
    return f"{_decibels(scores['mean'])} and {_decibels(scores['lowest'])}"


def raw(files: Mapping[str, Results]) -> str:
    """Camera raw files with known noise: methods by sensitivity."""
    found = files.get("raw")
    if found is None or "clean" not in found:
        return ""
    rows = [[str(row["iso"]), *(_decibels(value) for value in row["psnr"].values())] for row in found["rows"]]
    told, guessed = found["clean"]["told"], found["clean"]["estimated"]
    text = (
        "## Camera raw files\n\nSynthetic raw files, developed by LibRaw; PSNR against the development of the same "
        f'file without noise, {found["photos"]} crops of {found["crop"]} pixels from photos. "kbnet" removes the noise '
        "before developing, all others afterwards; a DNG can tell its noise, otherwise kbnet estimates it. Files "
        f"without noise ({found['clean']['photos']}), mean and lowest: {_two(told)} if they tell so, {_two(guessed)} "
        "with an estimate, which takes fine texture for noise where a small photo has nothing else.\n\n"
    )
    return text + table(["ISO", *found["rows"][0]["psnr"]], rows) + "\nFrom `raw`.\n"


def clean(files: Mapping[str, Results]) -> str:
    """How much the models change clean photos."""
    rows = [
        [
            f"{_set(results)} ({mean['pictures']})",
            _model(results["settings"]),
            _decibels(mean["output"]["psnr"]),
            f"{_decibels(mean['lowest']['psnr'])} ({mean['lowest']['photo']})",
            f"`{name}`",
        ]
        for name, results in _evaluations(files)
        for mean in results["means"].values()
        if not mean["input"]
    ]
    text = (
        "## Clean photos\n\nPSNR of restored clean photos, compared with the originals. Higher means less damage.\n\n"
    )
    return text + table(["set (images)", "model", "mean", "lowest", "from"], rows) if rows else ""


def runtimes(files: Mapping[str, Results]) -> str:
    """Exported graphs compared with PyTorch and the compiled kernels."""
    rows = []
    for name, results in files.items():
        for one in results.get("networks", []) if "tolerance" in results else []:
            taken, memory = one["milliseconds"], one["peak_bytes"]
            for runtime, milliseconds in taken.items():
                largest = [value for what, value in one["differences"].items() if runtime.startswith(what.split()[0])]
                rows.append(
                    [
                        one["network"],
                        f"{one['side']} x {one['side']}",
                        RUNTIMES[runtime],
                        f"{milliseconds:,.0f} ms",
                        f"{milliseconds / taken['torch']:.2f}",
                        f"{memory[runtime] / 1e6:,.0f} MB",
                        f"{max(largest):.1e}" if largest else "",
                        f"`{name}`",
                    ]
                )
    text = (
        "## Exported graphs\n\nOne image in float32. The difference is the largest deviation from PyTorch over three "
        "sizes, including odd ones, for values in [0,1].\n\n"
    )
    heads = ["network", "image", "runtime", "time", "relative to PyTorch", "memory", "difference", "from"]
    return text + table(heads, rows) if rows else ""


def eight_bits(files: Mapping[str, Results]) -> str:
    """Quality, time and size of OpenVINO's lower precisions."""
    rows = []
    for name, results in files.items():
        if one := results.get("int8"):
            size = one["bytes"] | {"bfloat16": one["bytes"]["float32"]}
            rows += [
                [
                    what,
                    _decibels(one["psnr"][what]),
                    f"{one['side']} x {one['side']}",
                    f"{taken:,.0f} ms",
                    f"{size[what] / 1e6:.1f} MB",
                    f"`{name}`",
                ]
                for what, taken in one["milliseconds"].items()
            ]
    text = (
        "## Lower precision\n\nThe included denoiser in OpenVINO, on photos that were not used to calibrate its 8-bit "
        "graph, with noise of sigma 5 to 55. Time for one image, and size of the weights.\n\n"
    )
    return text + table(["precision", "PSNR", "image", "time", "file", "from"], rows) if rows else ""


def training(files: Mapping[str, Results]) -> str:
    """Training speed with and without the compiled kernels."""
    rows = [
        [
            results["recipe"],
            one["phase"].replace(" = ", " "),
            one["backend"],
            f"{one['patches_per_second']:.1f}",
            f"{one['loader_share']:.1%}",
            f"`{name}`",
        ]
        for name, results in files.items()
        if "recipe" in results
        for one in results["rows"]
        if "loader_share" in one
    ]
    text = "## Training\n\nThe same training steps with the compiled kernels and with the reference operator.\n\n"
    heads = ["recipe", "phase", "operator", "patches per second", "time waiting for the loader", "from"]
    return text + table(heads, rows) if rows else ""


def workers(files: Mapping[str, Results]) -> str:
    """Folders restored with Ray."""
    rows = [
        [
            f"{results['pictures']} of {results['side']} x {results['side']}",
            label,
            f"{run['pictures_an_hour']:,.0f}",
            str(run["wrong"] + run["failed"]),
            f"`{name}`",
        ]
        for name, results in files.items()
        if "scaling_efficiency_1_to_2" in results
        for label, run in results["runs"].items()
    ]
    text = (
        "## Many workers\n\nOne thread per worker, also in the plain run without Ray. A result is wrong if it differs "
        "from the plain run.\n\n"
    )
    return text + table(["images", "run", "images per hour", "wrong or missing", "from"], rows) if rows else ""


def formats(files: Mapping[str, Results]) -> str:
    """What reading and writing changes in files of each kind."""
    if "corpus" not in files:
        return ""
    rows = [
        [
            row["kind"],
            *(_plain(row.get(name)) for name in ("largest", "mean", "largest dE", "mean dE")),
            row.get("profile", ""),
            row.get("metadata") or "–",
            row.get("behind", "–"),
            "; ".join(row["notes"]) or "–",
        ]
        for row in files["corpus"]["rows"]
    ]
    text = (
        "## Files of cameras and phones\n\n`kbnet restore --strength 0`, which changes no pixel: the differences come "
        "from reading and writing a file of each kind (`python benchmarks/corpus.py`). Pixels in levels of 255, "
        "colours in CIELAB, converted by LittleCMS from each file's profile. Lossy formats are encoded once more.\n\n"
    )
    heads = ["file", "largest difference", "mean", "largest dE", "mean dE", "profile", "EXIF and XMP"]
    heads += ["gain map, video", "notes"]
    return text + table(heads, rows)


def _plain(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"


def beside(others: Sequence[Results]) -> str:
    """Published figures for sets that were not measured here."""
    rows = [
        [entry["set"], row["method"], _decibels(row["psnr"]), SOURCES[row["source"]]]
        for entry in others
        for row in entry["rows"]
    ]
    text = "## Published by others\n\nThese figures come from papers and were not measured here.\n\n"
    return f"{text}{table(['set', 'method', 'PSNR', 'from'], rows)}"


def not_run(entries: Sequence[Results]) -> str:
    """The missing benchmarks, with reasons."""
    lines = [f"- **{entry['what']}.** {entry['why']}" for entry in entries]
    return "## Not measured\n\n" + "\n".join(lines) + "\n"


def sources(files: Mapping[str, Results]) -> str:
    """All files with their commands and machines."""
    rows = []
    for name, results in files.items():
        facts = results["facts"]
        machine = f"{facts.get('processor', '')}, {facts.get('threads', '?')} threads, torch {facts.get('torch', '?')}"
        weights = results.get("sha256") or results.get("settings", {}).get("sha256", "")
        rows.append([f"`{name}.json`", f"`{facts['command']}`", machine, weights[:12]])
    return f"## Files\n\n{table(['file', 'command', 'machine', 'weights, SHA-256'], rows)}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _evaluations(files: Mapping[str, Results]) -> list[tuple[str, Results]]:
    return [(name, results) for name, results in files.items() if "means" in results and "settings" in results]


def _set(results: Results) -> str:
    limit = f", first {results['limit']}" if results["limit"] else ""
    return f"{results['settings']['set']}{limit}"


def _model(how: Results) -> str:
    extra = [f"context {how['context']}"]
    extra += ["ensemble"] if how["ensemble"] else []
    extra += [f"strength {how['strength']:g}"] if how.get("strength", 1) != 1 else []
    extra += [how["dtype"]] if how["dtype"] != "float32" else []
    return f"`{how['model']}`, {', '.join(extra)}"


def _decibels(value: float | str | None) -> str:
    return "–" if value is None else f"{float(value):.2f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
