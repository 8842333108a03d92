"""The code of docs/python.md and of the README of the distribution runs as it is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.stack import Stack
from support.waiting import DEADLINE

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
FOLLOWS = "client.run()  # until a function raises\n"


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_each_block_runs(shared_server: Stack, number: int) -> None:
    code = BLOCKS[number].replace("http://127.0.0.1:8000", shared_server.url)
    if code.endswith(FOLLOWS):
        shared_server.post("shop.orders", [{"key": "a", "type": "created"}])
        code = code.replace(FOLLOWS, "client.run(last_id='earliest')\n")
        code = code.replace('print(event["key"])', 'exit(print(event["key"]))')
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=False
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout


def test_the_block_of_the_distribution_publishes(shared_server: Stack, topic: str) -> None:
    text = (ROOT / "clients/python/README.md").read_text()
    [code] = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    code = code.replace("http://127.0.0.1:8000", shared_server.url).replace('"feedback"', f'"{topic}"')
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    [event] = shared_server.get(f"/v1/topics/{topic}/events").json()["events"]
    assert (event["key"], event["rating"]) == ("pizza", 4)
