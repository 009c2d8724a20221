"""Servers that tests share."""

from importlib.util import find_spec

import pytest

if not all(find_spec(package) for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "httpx")):
    collect_ignore_glob = ["test_*.py"]  # the serve extra is not installed


@pytest.fixture(scope="module")
def inverting():
    from serving import Inverting

    return Inverting()


@pytest.fixture(scope="module")
def client(inverting):
    """A server that inverts pictures of at most 2000 pixels and 50 kB."""
    from serving import serving

    from kbnet.server import Limits

    with serving(inverting.provide, Limits(bytes=50_000, pixels=2000)) as client:
        yield client
