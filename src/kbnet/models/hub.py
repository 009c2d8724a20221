"""Weights on the Hugging Face Hub: upload them with a model card, and load them by name as "user/repo".

A repository holds model.safetensors, kbnet.json (what the Restorer needs in addition to the weights) and README.md (the
model card). kbnet reads nothing else and executes nothing. Downloaded weights stay in the Hub's own cache, so they also
load offline.
"""

import errno
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kbnet import files
from kbnet.errors import DownloadError, InvalidInputError, KBNetError, MissingExtraError
from kbnet.models import usage
from kbnet.models.catalogue import CatalogueEntry, find, resolve
from kbnet.models.config import matching_presets
from kbnet.models.weights import Weights, read_weights, write_weights

CARD = "README.md"

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_Result = TypeVar("_Result")
_LICENSES = {"MIT": "mit", "CC BY 4.0": "cc-by-4.0", "CC BY-SA 4.0": "cc-by-sa-4.0", "CC0": "cc0-1.0"}
_LICENSES |= {"CC BY-NC-SA 4.0": "cc-by-nc-sa-4.0", "CC BY-NC 4.0": "cc-by-nc-4.0", "Apache-2.0": "apache-2.0"}


def push_to_hub(
    model: str | Path,
    repo: str,
    *,
    license: str | None = None,
    summary: str | None = None,
    private: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload weights to a repository of the Hugging Face Hub, with a model card. Creates the repository if needed.

    Args:
        model: an included model, a task, or a weights file.
        repo: the repository, as "user/repo".
        license, summary: license and one-line description for the card; default to the catalogue's. `license` is
            required for weights files.
        private: whether to make a new repository private.
        token: access token for the Hub; defaults to the one stored by `hf auth login`.
        endpoint: URL of another hub.

    Returns:
        URL of the repository.

    Raises:
        InvalidInputError: `repo` isn't "user/repo", or the license is missing.
        MissingExtraError: huggingface_hub isn't installed.
        DownloadError: the Hub rejects the request or can't be reached.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InvalidInputError(f"expected a repository as user/repo, got {repo!r}")
    entry = find(str(model))
    if license is None and entry is None:
        raise InvalidInputError("these weights are not in the catalogue; specify their license")
    weights = read_weights(resolve(model))
    used = usage.usage_of(model) or usage.Usage()
    hub = _hub()
    card = model_card(weights, repo, entry, license=license, summary=summary)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / usage.WEIGHTS
        write_weights(weights, file, usage=used)
        contents: dict[str, Any] = {
            usage.WEIGHTS: file,
            usage.FILE: (used.to_json() + "\n").encode(),
            CARD: card.encode(),
        }
        if entry is not None and entry.credits_path is not None:
            contents[entry.credits] = entry.credits_path
        api = hub.HfApi(endpoint=_endpoint(endpoint), token=token)

        def push() -> str:
            url = api.create_repo(repo, private=private, exist_ok=True)
            operations = [hub.CommitOperationAdd(name, content) for name, content in contents.items()]
            api.create_commit(repo, operations, commit_message="Upload weights with kbnet")
            return str(url)

        return _asking(push, repo)


def model_card(
    weights: Weights,
    repo: str,
    entry: CatalogueEntry | None,
    *,
    license: str | None = None,
    summary: str | None = None,
) -> str:
    """Write the README.md of a repository: how to use the weights, and what the catalogue says about them."""
    terms = license or (entry.license if entry else "")
    what = summary or (entry.summary if entry else "KBNet weights")
    preset = (matching_presets(weights.config) or [weights.config.family])[0]
    lines = ["---", "library_name: kbnet", "pipeline_tag: image-to-image", f"license: {_LICENSES.get(terms, 'other')}"]
    if terms not in _LICENSES:
        lines.append(f"license_name: {json.dumps(terms)}")
    lines += ["tags: [kbnet, image-restoration]", "---", "", f"# {repo.partition('/')[2]}", "", f"{what}.", ""]
    lines += [f"{preset}, {weights.parameters / 1e6:.2f} million parameters (KBNet, arXiv 2303.02881).", ""]
    usage = f'restorer = kbnet.Restorer.from_pretrained("{repo}")'
    lines += ["```python", "import kbnet", "", usage, "```", "", f"Licence of the weights: {terms}", ""]
    if entry is not None:
        lines += ["## Quality", "", "| | dB |", "|---|---|"]
        lines += [f"| {name} | {value:.2f} |" for name, value in entry.metrics.items()]
        lines += ["", f"Measured by `{entry.measured_by}`", "", "## Training", "", f"Data: {entry.training_data}.", ""]
        lines += [f"Credits of the photos: {entry.credits}", ""] if entry.credits else []
        lines += [entry.history + ("" if entry.history.endswith(".") else ".")] if entry.history else []
    return "\n".join(lines) + "\n"


def is_repository(name: str | Path) -> bool:
    """Whether a model name refers to a repository (user/repo) rather than to a local path."""
    path = Path(name)
    named = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", str(name)) is not None
    weights = path.suffix.lower() in (".safetensors", ".pth", ".pt", ".ckpt", ".onnx", ".xml")
    return named and not weights and not path.exists() and not path.parent.exists()


def fetch(repo: str, *, revision: str | None = None, endpoint: str | None = None, cache: Path | None = None) -> Path:
    """Return the path of a repository's weights file, from the Hub or its cache.

    If the repository has a kbnet.json, it is in the same folder.

    Args:
        repo: the repository, as "user/repo".
        revision: branch, tag or commit; defaults to the main branch.
        endpoint: URL of another hub.
        cache: folder to use instead of the Hub's own cache.

    Raises:
        MissingExtraError: huggingface_hub isn't installed.
        DownloadError: the repository or the file doesn't exist, or the Hub can't be reached and the cache has no copy.
        OutputError: the cache can't be written.
    """
    hub = _hub()
    options: dict[str, Any] = {"endpoint": _endpoint(endpoint), "cache_dir": cache}
    path = Path(_asking(lambda: hub.hf_hub_download(repo, usage.WEIGHTS, revision=revision, **options), repo))
    try:
        # From the same commit: the cache names the folder after it.
        hub.hf_hub_download(repo, usage.FILE, revision=path.parent.name, **options)
    except hub.errors.EntryNotFoundError:
        pass  # optional: weights uploaded by hand lack it; offline, so may the cache
    except (hub.errors.HfHubHTTPError, OSError) as error:
        raise _failed(repo, error) from error
    return path


def _endpoint(given: str | None) -> str | None:
    # The library reads this variable only once, at import.
    return given or os.environ.get("HF_ENDPOINT") or None


def _hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ModuleNotFoundError:
        raise MissingExtraError("huggingface_hub", "hub") from None
    return huggingface_hub


def _asking(call: Callable[[], _Result], repo: str) -> _Result:
    hub = _hub()
    try:
        return call()
    except (hub.errors.HfHubHTTPError, hub.errors.EntryNotFoundError, OSError, ValueError) as error:
        raise _failed(repo, error) from error


def _failed(repo: str, error: Exception) -> KBNetError:
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        return files.failed(Path(error.filename or "the cache of the Hugging Face Hub"), error)
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return DownloadError(f"{repo}: the Hugging Face Hub request failed: {line[:200]}")
