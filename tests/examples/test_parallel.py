"""examples/parallel: the command of its README, and what its application refuses."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
import requests

from support.flask_example import running
from support.ports import free_port
from support.waiting import until

FOLDER = Path(__file__).parents[2] / "examples/parallel"
pytest.importorskip("joblib", reason="joblib is not installed: the extra jobs")


def test_a_file_is_computed_and_equals_pandas(tmp_path: Path) -> None:
    environment = os.environ | {"PORT": str(free_port()), "ROWS": "400000", "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(FOLDER / "run.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    *_, equal, times = done.stdout.splitlines()
    assert equal == "equals pandas: 6 shops, 400,000 rows"
    assert re.fullmatch(r"two processes [\d.]+ s, one [\d.]+ s, pandas with the file in memory [\d.]+ s", times)
    until(lambda: not list(tmp_path.iterdir()))


@pytest.fixture
def application(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "tmp").mkdir()
    with running(FOLDER, tmp_path, PUSHSVC_DATA_DIR=tempfile.mkdtemp(), TMPDIR=str(tmp_path / "tmp")) as url:
        yield url


def newest(application: str, job: str, processes: int = 2) -> dict[str, object]:
    answer = requests.get(f"{application}/push/v1/topics/job.{job}.{processes}/latest?format=json", timeout=120)
    events = answer.json()["events"] if answer.ok else []
    return events[0] if events else {}


def ended(application: str, job: str) -> dict[str, object]:
    return until(lambda: (event := newest(application, job)).get("state", "running") != "running" and event)


def test_what_cannot_be_computed_is_named_and_leaves_no_file(application: str, tmp_path: Path) -> None:
    url = f"{application}/jobs?by=shop&value=amount"
    for body, problem in (
        (b"", "is empty"),
        (b"shop,amount\nn,1\ns,much\n", "lines 2 to 3: ValueError: could not convert string to float: 'much'"),
        (b"shop,price\nn,1\n", "KeyError: 'amount'"),
        (b'shop,amount\nn,"1\n', "the file ends between quotes"),
    ):
        job = until(lambda body=body: (answer := requests.post(url, body, timeout=120)).ok and answer.json()["job"])
        event = ended(application, job)
        assert event["state"] == "failed"
        assert problem in str(event["error"])
    until(lambda: not [path for path in (tmp_path / "tmp").iterdir() if "parallel" in path.name])
    for query in ("", "?by=shop", "?by=shop&value=shop"):
        assert requests.post(f"{application}/jobs{query}", b"shop\n", timeout=120).status_code == 400
    with closing(HTTPConnection(application.removeprefix("http://"), timeout=120)) as connection:
        connection.putrequest("POST", "/jobs?by=shop&value=amount")
        connection.putheader("Content-Length", "500000001")
        connection.endheaders(b"shop")
        assert connection.getresponse().status == 413


def test_a_second_file_has_to_wait_and_a_job_can_be_cancelled(application: str, tmp_path: Path) -> None:
    url = f"{application}/jobs?by=shop&value=amount"
    body = b"shop,amount\n" + b"north,1.5\n" * 5_000_000
    job = requests.post(url, body, timeout=120).json()["job"]
    assert requests.post(url, b"shop,amount\n", timeout=120).status_code == 409
    until(lambda: newest(application, job).get("state") == "running")
    assert requests.delete(f"{application}/jobs/{job}", timeout=120).status_code == 204
    assert ended(application, job)["state"] == "cancelled"
    until(lambda: requests.delete(f"{application}/jobs/{job}", timeout=120).status_code == 404)
    until(lambda: not [path for path in (tmp_path / "tmp").iterdir() if "parallel" in path.name])
