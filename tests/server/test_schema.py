"""Requests made up from the API's own description: what it promises is what it answers, whatever is asked.

In a process of its own: the tool that makes them up hooks into pytest and Python, where others have done so before.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

pytest.importorskip("fastapi")
schemathesis = pytest.importorskip("schemathesis")

from schemathesis.specs.openapi.checks import positive_data_acceptance  # noqa: E402  # not every body is a picture
from serving import Inverting, serving  # noqa: E402  # the server's own modules need what is asked for above

import kbnet  # noqa: E402
from kbnet.server import Limits  # noqa: E402

EXAMPLES = 25  # of each operation


@pytest.mark.slow
def test_the_api_keeps_to_its_description():
    places = [Path(kbnet.__file__).parents[1], Path(__file__).parent]
    child = subprocess.run(
        [sys.executable, __file__],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))},
    )
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-3000:]
    assert "kept its word" in child.stdout


def check():
    with serving(Inverting().provide, Limits(bytes=50_000, pixels=2000)) as client:
        address = str(client.base_url).rstrip("/")
        schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
        operations = [result.ok() for result in schema.get_all_operations()]
        assert {operation.path for operation in operations} >= {"/v1/restore", "/v1/models", "/healthz", "/metrics"}
        for operation in operations:
            assert highest_status(operation, address) < 500


def highest_status(operation, address):
    """Ask many times, and check each answer; the highest status."""
    answered = []

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(operation.as_strategy())
    def ask(case):
        reply = case.call_and_validate(base_url=address, excluded_checks=[positive_data_acceptance])
        answered.append(reply.status_code)

    ask()
    return max(answered)


if __name__ == "__main__":
    check()
    print("kept its word")
