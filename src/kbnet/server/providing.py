"""Loads each Restorer once, at its first use."""

import logging
from collections.abc import Callable
from functools import cache
from typing import cast

from kbnet.inference import Restorer
from kbnet.models import find
from kbnet.server.restoration import Restore

log = logging.getLogger(__name__)


def restorers(device: str = "auto", dtype: str = "auto") -> Callable[[str], Restore]:
    """Return a function that maps a task, variant or model name to its Restorer.

    Args:
        device, dtype: as for `Restorer`.
    """

    @cache
    def load(name: str, preset: str) -> Restore:
        loaded = Restorer.from_pretrained(name, device=device, dtype=dtype, preset=preset)  # type: ignore[arg-type]
        log.info("loaded %s: %s, %s, on %s", loaded.name, loaded.runner.runtime, loaded.dtype, loaded.device)
        return cast(Restore, loaded)

    def provide(name: str) -> Restore:
        entry = find(name)
        if entry is not None and entry.variant == "hq" and name != entry.name:
            return load(entry.task, "best")  # by task, so that gray images are restored by the gray weights
        return load(entry.alias if entry is not None and name != entry.name else name, "fast")

    return provide
