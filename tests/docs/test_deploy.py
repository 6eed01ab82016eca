"""The files in docs/deploy: they parse, and what they say is true of the command line and of the server."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.cli.main import build_parser
from runtime.server.health import PATIENCE_S
from runtime.server.openapi import describe_api
from runtime.server.settings import ServerSettings
from tests.docs.pages import DOCS, blocks, commands
from tests.paths import ROOT

FOLDER = DOCS / "deploy"
IMAGE = (FOLDER / "Dockerfile").read_text("utf-8")
UNIT = (FOLDER / "embeddings.service").read_text("utf-8")
COMPOSE_FILE = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
COMPOSE = COMPOSE_FILE["services"]["embeddings"]
DEPLOYMENT, SERVICE, SCALER = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text("utf-8"))
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def directive(name: str) -> Any:
    """Return the value of an instruction of the Dockerfile in the form of JSON."""
    return json.loads(re.findall(rf"^{name} (\[.*\])$", IMAGE, re.MULTILINE)[0])


ENTRYPOINT = directive("ENTRYPOINT")
COMMANDS = {
    "Dockerfile": ENTRYPOINT + directive("CMD"),
    "compose.yaml": ENTRYPOINT + COMPOSE["command"],
    "embeddings.service": shlex.split(re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)[0]),
    "kubernetes.yaml": ENTRYPOINT + CONTAINER["args"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_those_of_the_command_line(name: str) -> None:
    program, *words = COMMANDS[name]
    assert program.endswith("python")
    assert words[:3] == ["-m", "runtime", "serve"]
    arguments = build_parser().parse_args(words[2:])
    assert arguments.port == 8080
    assert len(arguments.artifacts) == 1


def test_every_file_of_the_folder_is_on_the_page() -> None:
    page = (DOCS / "operating.md").read_text("utf-8")
    for path in FOLDER.iterdir():
        assert f"(deploy/{path.name})" in page


def test_probes_ask_for_paths_of_the_server() -> None:
    paths = describe_api()["paths"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "get" in paths[CONTAINER[probe]["httpGet"]["path"]]
        assert CONTAINER[probe]["timeoutSeconds"] > PATIENCE_S
    assert CONTAINER["livenessProbe"]["httpGet"]["path"] == "/health", "a dead model needs a new process"
    assert float(re.findall(r"'http://127.0.0.1:8080/health', timeout=(\d+)\)", IMAGE)[0]) > PATIENCE_S
    assert CONTAINER["ports"][0] == {"name": "http", "containerPort": 8080}
    assert SERVICE["spec"]["ports"][0]["targetPort"] == "http"


def test_the_time_to_stop_is_longer_than_the_drain() -> None:
    drain_s = ServerSettings().drain_seconds
    sleep_s = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] > sleep_s + drain_s
    assert int(COMPOSE["stop_grace_period"].removesuffix("s")) > drain_s
    assert int(re.findall(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)[0]) > drain_s


def test_nothing_runs_as_root_or_writes_outside_tmp() -> None:
    assert re.search(r"^USER \d+:\d+$", IMAGE, re.MULTILINE)
    assert COMPOSE["read_only"]
    assert COMPOSE["tmpfs"] == ["/tmp"]  # noqa: S108
    assert POD["securityContext"]["runAsNonRoot"]
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert [mount["mountPath"] for mount in CONTAINER["volumeMounts"] if not mount.get("readOnly")] == ["/tmp"]  # noqa: S108
    assert "DynamicUser=yes" in UNIT


def test_the_image_copies_what_the_package_is_built_from() -> None:
    for line in re.findall(r"^COPY (?!--from)(.*)$", IMAGE, re.MULTILINE):
        for name in line.split()[:-1]:
            assert (ROOT / name).exists()


def test_compose_mounts_what_the_quickstart_writes() -> None:
    (volume,) = COMPOSE["volumes"]
    source, target, _ = volume.split(":")
    assert ((FOLDER / source).resolve(), target) == (ROOT / "artifacts", "/artifacts")
    assert (FOLDER / COMPOSE_FILE["secrets"]["keys"]["file"]).resolve() == ROOT / "keys.txt"


def test_the_commands_of_docker_fit_the_image() -> None:
    lines = [words for block in blocks(DOCS / "operating.md") for words in commands(block)]
    lines = [words for words in lines if words[0] == "docker" and words[1] != "compose"]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    arguments = [word for words in lines for word in words if word.startswith("EXTRAS=")]
    for choice in [*arguments, *re.findall(r"^ARG (EXTRAS=.*)$", IMAGE, re.MULTILINE)]:
        assert set(choice.removeprefix("EXTRAS=").split(",")) <= set(extras)
    for build, run in zip(lines[::2], lines[1::2], strict=True):
        assert build[build.index("--file") + 1 :] == ["docs/deploy/Dockerfile", "."]
        tag = build[build.index("--tag") + 1]
        assert run[run.index("--volume") + 1] == "$PWD/artifacts:/artifacts:ro"
        build_parser().parse_args([*ENTRYPOINT[3:], *(run[run.index(tag) + 1 :] or directive("CMD"))])


def test_the_autoscaler_reads_a_metric_of_the_server() -> None:
    (metric,) = SCALER["spec"]["metrics"]
    page = (ROOT / "docs/operating.md").read_text("utf-8")  # another test compares its names with the server's
    assert f"`{metric['pods']['metric']['name']}`" in page
    assert SCALER["spec"]["scaleTargetRef"]["name"] == DEPLOYMENT["metadata"]["name"]


@pytest.mark.process
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "embeddings.service"
    unit.write_text(UNIT.replace("/opt/embeddings/bin/python", "/bin/true"), "utf-8")
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)  # noqa: S607
    assert (done.returncode, done.stderr) == (0, "")
