"""The deployment files pass their linters and agree with the command and with each other."""

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import kbnet
from linters import run, tool

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
MANIFEST = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
POD = MANIFEST[0]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
UNIT = (DEPLOY / "kbnet.service").read_text(encoding="utf-8")
REHEARSE = runpy.run_path(str(DEPLOY / "rehearse.py"))
BUILD, LAST = REHEARSE["stages"]((DEPLOY / "Dockerfile").read_text(encoding="utf-8"))


def test_hadolint_finds_nothing_in_the_dockerfile():
    run(tool("hadolint"), DEPLOY / "Dockerfile")


def test_the_image_is_slim_without_root_and_checks_its_health():
    words = dict(LAST)
    base = re.findall(r"^FROM (\S+)", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert all("-slim-" in image for image in base)
    assert int(words["USER"]) == POD["securityContext"]["runAsUser"] > 0
    assert "/healthz" in words["HEALTHCHECK"]
    assert "g++" in dict(BUILD)["RUN"] + str(BUILD)
    assert "apt-get" not in str(LAST)
    assert any(word == "COPY" and rest.startswith("--from=build /opt/kbnet") for word, rest in LAST)


def test_the_build_sees_what_it_needs_and_nothing_else(tmp_path):
    REHEARSE["context"](tmp_path)
    seen = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*")}
    assert seen == {
        "CMakeLists.txt",
        "LICENSE",
        "README.md",
        "constraints.txt",
        "csrc",
        "pyproject.toml",
        "src",
        "tools",
    }
    assert not list(tmp_path.rglob("*.so"))
    assert (tmp_path / "src/kbnet/weights/catalogue.toml").exists()


def serve_options():
    from typer.main import get_command

    from kbnet.cli import app

    command = get_command(app).commands["serve"]
    return {name for option in command.params for name in option.opts}


@pytest.mark.parametrize(
    "arguments",
    [
        json.loads(dict(LAST)["CMD"]),
        COMPOSE["services"]["kbnet"]["command"],
        CONTAINER["args"],
        shlex.split(re.search(r"^ExecStart=\S+ (.*)$", UNIT, re.MULTILINE)[1]),
    ],
    ids=["Dockerfile", "compose", "Kubernetes", "systemd"],
)
def test_every_command_is_one_that_kbnet_knows(arguments):
    pytest.importorskip("fastapi")
    assert arguments[0] == "serve"
    given = {word for word in arguments if word.startswith("--")}
    assert given
    assert given <= serve_options()


def test_compose_follows_the_compose_specification():
    run(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")
    service = COMPOSE["services"]["kbnet"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["deploy"]["resources"]["limits"]["cpus"] == service["environment"]["OMP_NUM_THREADS"]


def test_the_manifest_follows_kubernetes_schemas():
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for resource in MANIFEST:
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    broken = json.loads(json.dumps(MANIFEST[0]))
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_pods_are_probed_limited_and_hold_together():
    deployment, service = MANIFEST
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels == service["spec"]["selector"]
    port = CONTAINER["ports"][0]
    assert str(port["containerPort"]) == dict(LAST)["EXPOSE"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    for probe in ("startupProbe", "readinessProbe"):
        assert CONTAINER[probe]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    assert {"cpu", "memory"} <= CONTAINER["resources"]["limits"].keys()
    assert CONTAINER["env"][0] == {"name": "OMP_NUM_THREADS", "value": CONTAINER["resources"]["limits"]["cpu"]}
    assert POD["securityContext"]["runAsNonRoot"]
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    mounts = {mount["name"] for mount in CONTAINER["volumeMounts"]}
    assert mounts == {volume["name"] for volume in POD["volumes"]}
    assert CONTAINER["image"] == f"kbnet:{kbnet.__version__}"


def variables():
    """What the three ways of running the server set in its environment."""
    unit = dict(pair.split("=", 1) for pair in re.findall(r"^Environment=(\S+)$", UNIT, re.MULTILINE))
    pod = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}
    return [COMPOSE["services"]["kbnet"]["environment"], pod, unit]


def test_accepted_pictures_are_finished_before_the_process_is_killed():
    running = pytest.importorskip(
        "kbnet.server.running", reason="the extra `serve` is not installed", exc_type=ImportError
    )
    bound = running._REPLIES + running._HARD  # seconds from the end of KBNET_SHUTDOWN_SECONDS to the end of the process
    compose, pod, unit = (float(names["KBNET_SHUTDOWN_SECONDS"]) for names in variables())
    assert compose + bound < float(COMPOSE["services"]["kbnet"]["stop_grace_period"].removesuffix("s"))
    assert pod + bound < POD["terminationGracePeriodSeconds"]
    assert unit + bound < float(re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[1])


@pytest.mark.parametrize("names", variables(), ids=["compose", "Kubernetes", "systemd"])
def test_every_variable_is_one_that_kbnet_reads(names):
    pytest.importorskip("fastapi")
    options = {name.removeprefix("KBNET_") for name in names if name.startswith("KBNET_")}
    known = {name.removeprefix("--").upper().replace("-", "_") for name in serve_options()}
    if "LOG_FORMAT" not in known:
        pytest.skip("this server takes its options from the command line alone")
    assert options <= known


def test_systemd_takes_the_unit_and_rates_it_safe(tmp_path):
    analyze = tool("systemd-analyze")
    unit = tmp_path / "kbnet.service"
    unit.write_text(UNIT.replace("/opt/kbnet/bin/kbnet", sys.executable))  # it asks whether the command is there
    assert run(analyze, "verify", unit) == ""
    if "--offline" in run(analyze, "--help"):
        run(analyze, "security", "--offline=true", "--threshold=20", unit)  # tenths; 0 is safest, 100 is worst
    unit.write_text(UNIT.replace("PrivateTmp=yes", "PrivateTemp=yes").replace("/opt/kbnet/bin/kbnet", sys.executable))
    done = subprocess.run([analyze, "verify", str(unit)], capture_output=True, text=True)
    assert "PrivateTemp" in done.stderr
