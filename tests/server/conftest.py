"""The room needs the extra `serve`; servers that tests share."""

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from serving import Inverting, serving

from kbnet.server import Limits


@pytest.fixture(scope="module")
def inverting():
    return Inverting()


@pytest.fixture(scope="module")
def client(inverting):
    """A server that inverts pictures of at most 2000 pixels and 50 kB."""
    with serving(inverting.provide, Limits(bytes=50_000, pixels=2000)) as client:
        yield client
