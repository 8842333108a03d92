"""Every command under "I want to" in docs/protocol.md works as it is written."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.stack import Stack
from support.waiting import DEADLINE

PROTOCOL = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
WISHES = PROTOCOL.partition("\n## Reference\n")[0]
RECIPES = re.findall(r"^```sh\n(.*?)^```", WISHES, re.DOTALL | re.MULTILINE)
[PYTHON] = re.findall(r"^```python\n(.*?)^```", WISHES, re.DOTALL | re.MULTILINE)

CURL = r"""
set -e -o pipefail
curl() {
  case "$*" in
    *--max-time*) command curl "$@" || [ $? = 28 ] ;;
    *-N*) exec 3< <(exec curl "$@" 2>/dev/null); sed '/^: /q' <&3; kill $! ;;
    *) command curl -sS --fail-with-body "$@"; echo ;;
  esac
}
"""
"""A refused request fails. A stream ends after its first lines, or when its time is over (curl's exit code 28)."""


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("recipe", RECIPES, ids=[re.sub(r"\W+", "-", recipe)[-40:].strip("-") for recipe in RECIPES])
def test_command_works_as_written(shared_server: Stack, topic: str, recipe: str) -> None:
    here = recipe.replace("http://127.0.0.1:8000", shared_server.url).replace("/feedback", f"/{topic}")
    prepare = f'curl {shared_server.url}/v1/topics/{topic}/events -d \'[{{"rating": 4}}, {{"rating": 5}}]\'\n'
    ran = subprocess.run(["bash", "-c", CURL + prepare + here], capture_output=True, text=True, timeout=DEADLINE)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("retry: 2000") == recipe.count("curl -N")
    assert len(ran.stdout.splitlines()) > 1


def test_python_works_as_written(shared_server: Stack, topic: str) -> None:
    here = PYTHON.replace("http://127.0.0.1:8000", shared_server.url).replace('"feedback"', f'"{topic}"')
    ran = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, timeout=DEADLINE)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("snapshot {")


def test_recipes_are_found() -> None:
    assert len(RECIPES) > 15
