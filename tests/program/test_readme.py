"""The documents name existing files, commands and settings."""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from pushsvc.cli.main import program
from pushsvc.config import Settings, load
from pushsvc.event import Limits
from pushsvc.settings import TopicSettings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def command_lines() -> list[list[str]]:
    """Return the words of every command in a shell block, without comments."""
    text = "\n".join(blocks("sh")).replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def test_the_browser_code_is_that_of_the_example() -> None:
    script = re.search(r"<script>\n(.*?)</script>", (ROOT / "examples" / "browser.html").read_text(), re.DOTALL)
    assert script is not None
    assert blocks("js") == [script[1]]


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for words in command_lines() if words[0] == "make"}
    named |= set(re.findall(r"`make ([a-z-]+)", README))
    assert {"demo", "test", "check"} <= named <= targets


def test_the_table_of_commands_is_complete() -> None:
    named = re.findall(r"^\| `pushsvc ([a-z]+)", README, re.MULTILINE)
    public = [name for name, command in program.commands.items() if not command.hidden]
    assert sorted(named) == sorted(public)


def settings_rows() -> list[tuple[str, str, str, str]]:
    row = re.compile(r"^\| `(--[a-z-]+)`, `([a-z_]+)` \| `(PUSHSVC_[A-Z_]+)` \| (\S+) \|", re.MULTILINE)
    return row.findall(README)


def test_the_table_of_settings_is_complete_with_defaults() -> None:
    rows = {key: (option, variable, default) for option, key, variable, default in settings_rows()}
    in_the_file_alone = {"topics", "limits", "issuers", "keys", "alerts", "webhook_secret"}
    assert set(rows) == {one.name for one in fields(Settings)} - in_the_file_alone - {"jwt_key"}
    options = {option: parameter for parameter in server_options() for option in parameter.opts}
    for key, (option, variable, default) in rows.items():
        assert options[option].envvar == variable
        assert shown(key, getattr(Settings(), key)) in (default, default.strip("`"))


def server_options() -> list[click.Parameter]:
    return [one for name in ("serve", "aggregator") for one in program.commands[name].params]


def shown(key: str, value: Any) -> str:
    if value is None:
        return {"redis": "embedded", "maxmemory": "half", "jwt_alg": "HS256"}.get(key, "none")
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return str(value)


def test_the_example_settings_file_has_every_key_with_its_default(tmp_path: Path) -> None:
    [text] = blocks("toml")
    file = tmp_path / "shown.toml"
    file.write_text(text)
    settings = load({}, file)
    assert settings.topics.settings_of("flights") == TopicSettings()
    assert settings.limits == Limits()
    shown_file = tomllib.loads(text)
    assert set(shown_file["limits"]) == {one.name for one in fields(Limits)}
    assert len(shown_file["topics"]["flights"]) == len(fields(TopicSettings))


def test_architecture_names_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    linked = set(re.findall(r"\(\.\./src/pushsvc/([^)/]+)\)", text))
    package = ROOT / "src" / "pushsvc"
    modules = {path.relative_to(package).parts[0] for path in package.rglob("*.py")}
    assert modules - {"__init__.py"} == linked


def test_operations_explains_every_metric() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "src" / "pushsvc").rglob("*.py"))
    metrics = set(re.findall(r'(?:Counter|Gauge|Histogram)\(\s*"(pushsvc_\w+)"', sources))
    explained = set(re.findall(r"`(pushsvc_\w+)(?:\{\w+\})?`", (ROOT / "docs" / "operations.md").read_text()))
    assert len(metrics) > 30
    assert metrics == explained
