"""The rules and the dashboard of deploy/ against a running service, and a real Prometheus where there is one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.ports import free_port
from support.site_proxy import DEPLOY
from support.stack import Stack
from support.waiting import DEADLINE, until

RULES = DEPLOY / "prometheus" / "pushsvc.rules.yml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "pushsvc.json").read_text())
METRIC = re.compile(r"\bpushsvc_[a-z_]+")
LABEL_VALUES = re.compile(r"label_values\((.+),\s*(\w+)\)")


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def expressions() -> list[str]:
    rules = [rule["expr"] for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    return rules + [target["expr"] for panel in panels() for target in panel["targets"]]


@pytest.fixture(scope="module")
def served(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """``pushsvc serve`` with something to count, and a stream that was open."""
    with Stack(redis_url, "figures:", tmp_path_factory.mktemp("served")) as stack:
        stack.start("web", "serve", "--port", str(stack.port), "--redis", redis_url)
        until(lambda: stack.ready() or stack.ended("web"))
        assert not stack.ended("web"), stack.output("web")
        with stack.stream("/v1/topics/t/stats") as stream:
            assert stack.post("t", [{"key": "a", "n": 1}, {"n": 2}]).status == 202
            stream.until(lambda _, data: data.get("offset") == 2)
        yield stack


def test_every_metric_of_rules_and_panels_is_served(served: Stack) -> None:
    wanted = {name for text in expressions() for name in METRIC.findall(text)}
    missing = wanted - set(METRIC.findall(served.get("/metrics").body.decode()))
    # A metric with labels has no sample before the first event that it counts.
    with_labels = set(re.findall(r"(pushsvc_[a-z_]+)\{", (DEPLOY.parent / "docs" / "operations.md").read_text()))
    assert missing <= with_labels


def test_promtool_accepts_the_rules_and_their_tests_pass() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool")
    for command in (["check", "rules", RULES.name], ["test", "rules", "pushsvc.rules.test.yml"]):
        run = subprocess.run(["promtool", *command], cwd=RULES.parent, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr


def test_every_expression_runs_in_prometheus_and_panels_have_data(served: Stack, tmp_path: Path) -> None:
    if shutil.which("prometheus") is None:
        pytest.skip("needs prometheus")
    port = free_port()
    scrape = {"job_name": "pushsvc", "static_configs": [{"targets": [f"127.0.0.1:{served.port}"]}]}
    file = tmp_path / "prometheus.yml"
    file.write_text(json.dumps({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)], "scrape_configs": [scrape],
    }))  # fmt: skip
    command = [
        "prometheus", f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:

        def get(path: str, **query: str) -> Any:
            url = f"http://127.0.0.1:{port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
                return json.load(answer)["data"]

        def ask(expression: str) -> list[Any]:
            found: list[Any] = get("query", query=expression)["result"]
            return found

        def looks_ready() -> bool:
            try:
                # A rate needs two samples.
                found = ask("count_over_time(pushsvc_events_accepted_total[5m]) >= 2")
                return bool(found)
            except OSError:
                return False

        until(lambda: looks_ready() or process.poll() is not None)
        assert process.poll() is None, (tmp_path / "log").read_text()
        for text in expressions():
            ask(_filled(text))  # an error of Prometheus raises
        empty = [
            panel["title"] for panel in panels()
            if not any(ask(_filled(target["expr"])) for target in panel["targets"])
        ]  # fmt: skip
        # Counters with labels have no sample before the first one is counted.
        assert set(empty) <= {"Unavailable", "Alerts and webhooks", "Limited"}
        assert ask("ALERTS") == []
        (instances,) = (each for each in DASHBOARD["templating"]["list"] if each["name"] == "instance")
        selector, label = LABEL_VALUES.findall(instances["query"]["query"])[0]
        assert get(f"label/{label}/values", **{"match[]": selector}) == [f"127.0.0.1:{served.port}"]
    finally:
        process.terminate()
        process.wait(DEADLINE)


def _filled(expression: str) -> str:
    """Put in what Grafana puts in."""
    return expression.replace("$__rate_interval", "1m").replace("$instance", ".*")


def test_the_dashboard_has_what_grafana_needs() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    cells = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] <= 24 - place["w"]
        covered = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not covered & cells, f"{panel['title']} covers another panel"
        cells |= covered
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "instance"}
    for panel in panels():
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert '{instance=~"$instance"' in target["expr"]
