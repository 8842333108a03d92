"""The systemd units and the Kubernetes manifest of deploy/: their programs run on this machine with their arguments."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pushsvc.cli.main import program
from support.ports import free_port
from support.site_proxy import DEPLOY
from support.stack import Stack
from support.waiting import until

UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFEST: list[dict[str, Any]] = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "pushsvc.yaml").read_text()))
DRAIN = 5  # s, the default of --drain
PROBES = ("readinessProbe", "livenessProbe")


def parse(words: list[str]) -> dict[str, Any]:
    """Return the options of a command line of ours; fail if it has one that does not exist."""
    assert words[0].rsplit("/", 1)[-1] == "pushsvc"
    command = program.commands[words[1]]
    with command.make_context(words[1], words[2:], resilient_parsing=False) as context:
        return context.params


# systemd


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_a_unit(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    text = unit.read_text()
    copy = tmp_path / unit.name.replace("@", "@1")
    copy.write_text(text.replace("/opt/pushsvc/bin/pushsvc", sys.executable))
    run = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
    said = [line for line in run.stderr.splitlines() if unit.name.partition("@")[0] in line]
    assert said == []
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_the_command_of_a_unit_exists(unit: Path) -> None:
    line = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    port = "8001"
    options = parse(shlex.split(line.removeprefix("ExecStart=").replace("%i", port)))
    assert options["log_format"] == "json"
    stop = next(line for line in unit.read_text().splitlines() if line.startswith("TimeoutStopSec="))
    assert int(stop.partition("=")[2]) > (options["drain"] or DRAIN) + 10


def test_units_differ_only_where_they_must() -> None:
    """Compare what protects the machine: all three have it."""
    protections = {unit.read_text().partition("CapabilityBoundingSet=")[2] for unit in UNITS}
    assert len(UNITS) == 3
    assert len(protections) == 1


# Kubernetes


def pods() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for item in MANIFEST:
        if "template" in item.get("spec", {}):
            yield item, item["spec"]["template"]["spec"]


def container_of(name: str) -> dict[str, Any]:
    return next(pod["containers"][0] for item, pod in pods() if item["metadata"]["name"] == name)


def test_selectors_name_pods_and_ports_of_the_manifest() -> None:
    labels = [item["spec"]["template"]["metadata"]["labels"] for item, _ in pods()]
    for item in MANIFEST:
        selector = item.get("spec", {}).get("selector")
        if selector is not None:
            assert selector.get("matchLabels", selector) in labels, item["metadata"]
    named = {port["name"] for _, pod in pods() for one in pod["containers"] for port in one["ports"]}
    for item in MANIFEST:
        if item["kind"] == "Service":
            assert all(port.get("targetPort", port["name"]) in named for port in item["spec"]["ports"])


def test_every_container_is_bounded_and_without_privileges() -> None:
    for _, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["resources"]["limits"]["memory"]
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
            }  # fmt: skip
            if not container["image"].startswith("valkey"):
                options = parse(container["args"])
                hook = container.get("lifecycle", {}).get("preStop", {"exec": {"command": ["sleep", "0"]}})
                assert (
                    pod["terminationGracePeriodSeconds"]
                    > int(hook["exec"]["command"][1]) + (options["drain"] or DRAIN) + 10
                )


def test_the_containers_run_with_their_arguments_and_answer_their_probes(
    redis_url: str, prefix: str, tmp_path: Path
) -> None:
    settings = next(item["data"]["pushsvc.toml"] for item in MANIFEST if item["kind"] == "ConfigMap")
    (tmp_path / "settings.toml").write_text(settings)
    with Stack(redis_url, prefix, tmp_path) as stack:
        for name, variables in {"web": {"PUSHSVC_JWT_KEY": "k" * 64}, "aggregator": {}}.items():
            container = container_of(f"pushsvc-{name}")
            given = {one["name"] for one in container["env"]}
            assert set(variables) <= given
            stack.environment = variables
            port = free_port()
            changes = {
                "0.0.0.0": "127.0.0.1", str(container["ports"][0]["containerPort"]): str(port),
                "/etc/pushsvc/pushsvc.toml": str(tmp_path / "settings.toml"),
            }  # fmt: skip
            words = [changes.get(word, word) for word in container["args"][1:]]
            stack.start(name, *words, "--drain", "0")
            stack.port = port
            for probe in [container[one] for one in PROBES if one in container]:
                until(lambda name=name, path=probe["httpGet"]["path"]: _answers(stack, path) or stack.ended(name))
                assert not stack.ended(name), stack.output(name)
            if name == "web":
                assert stack.post("t", {}).status == 401
                assert stack.get("/livez", Host="push.example.com").status == 200
                assert stack.get("/livez", Host="evil.example.com").status == 403


def _answers(stack: Stack, path: str) -> bool:
    try:
        return stack.get(path, Host="localhost").status == 200
    except OSError:
        return False


def test_web_listens_on_all_addresses_because_it_asks_for_tokens(redis_url: str, prefix: str, tmp_path: Path) -> None:
    assert "--insecure" not in container_of("pushsvc-web")["args"]
    with Stack(redis_url, prefix, tmp_path) as stack:
        stack.environment = {"PUSHSVC_JWT_KEY": "k" * 64}
        stack.start("web", "web", "--host", "0.0.0.0", "--port", str(stack.port), "--drain", "0")
        until(lambda: _answers(stack, "/readyz") or stack.ended("web"))
        assert not stack.ended("web"), stack.output("web")


def test_files_name_no_path_of_a_developer() -> None:
    for file in DEPLOY.rglob("*"):
        if file.is_file():
            assert os.path.expanduser("~") + "/" not in file.read_text()
