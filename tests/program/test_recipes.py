"""Every curl command of README and docs works as it is written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.stack import Stack
from support.waiting import DEADLINE

ROOT = Path(__file__).parents[2]
WISHES = (ROOT / "docs" / "protocol.md").read_text().partition("\n## Reference\n")[0]
BLOCKS = [
    block
    for document in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    for block in re.findall(r"^```sh\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE)
]
RECIPES = [block for block in BLOCKS if "curl " in block and "pushsvc " not in block and "flask " not in block]
"""What starts an application of Flask is tested with the application."""
[PYTHON] = re.findall(r"^```python\n(.*?)^```", WISHES, re.DOTALL | re.MULTILINE)

SHELL = r"""
set -e -o pipefail
curl() {
  case "$*" in
    *--max-time*) command curl "$@" || [ $? = 28 ] ;;
    *-N*) exec 3< <(exec curl "$@" 2>/dev/null); sed '/^: /q' <&3; kill $! ;;
    *) command curl -sS --fail-with-body "$@"; echo ;;
  esac
}
redis-cli() {
  "$PYTHON" -c 'import redis, sys; assert redis.from_url(sys.argv[1]).execute_command(*sys.argv[2:])' "$REDIS" "$@"
}
"""
"""A refused request fails. A stream ends after its first lines, or when its time is over (curl's exit code 28)."""


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize("recipe", RECIPES, ids=[re.sub(r"\W+", "-", recipe)[-40:].strip("-") for recipe in RECIPES])
def test_command_works_as_written(shared_server: Stack, topic: str, recipe: str) -> None:
    here = re.sub(r"(http://127.0.0.1:8000|\blocalhost:8000)", shared_server.url, recipe)
    here = here.replace("/feedback", f"/{topic}").replace('"feedback"', f'"{topic}"')
    here = here.replace("pushsvc:ingest:feedback", f"{shared_server.prefix}ingest:{topic}")
    prepare = f'curl {shared_server.url}/v1/topics/{topic}/events -d \'[{{"rating": 4}}, {{"rating": 5}}]\'\n'
    ran = subprocess.run(
        ["bash", "-c", SHELL + prepare + here],
        capture_output=True, text=True, timeout=DEADLINE,
        env={**os.environ, "PYTHON": sys.executable, "REDIS": shared_server.redis_url},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("retry: 2000") == recipe.count("curl -N")
    assert len(ran.stdout.splitlines()) > 1


def test_python_works_as_written(shared_server: Stack, topic: str) -> None:
    here = PYTHON.replace("http://127.0.0.1:8000", shared_server.url).replace('"feedback"', f'"{topic}"')
    ran = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, timeout=DEADLINE)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("snapshot {")


def test_recipes_are_found() -> None:
    assert len(RECIPES) > 25
