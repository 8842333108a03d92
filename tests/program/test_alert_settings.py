"""``[[alerts]]`` and the settings of webhooks in ``pushsvc.toml``."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest

from pushsvc.cli.options import server_options
from pushsvc.config.settings import Settings, load
from pushsvc.errors import InvalidSetting
from pushsvc.extension.settings import settings_of

GOOD = """
webhook_hosts = ["Hooks.example", "*.chat.example", "[::1]"]
webhook_secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

[[alerts]]
name = "low"
topic = "feedback"
when = "mean(rating, 30s) < 3"
for = "2m"
webhook = "https://hooks.example/x"

[topics.feedback]
windows = ["30s"]
"""


@click.command()
@server_options("webhook_hosts")
def given(settings: Settings) -> Settings:
    return settings


def read(folder: Path, text: str) -> Settings:
    file = folder / "some.toml"
    file.write_text(text)
    return load({}, file)


def test_alerts_and_webhooks_reach_the_processes(tmp_path: Path) -> None:
    settings = Settings.decode(read(tmp_path, GOOD).encode())
    (rule,) = settings.alert_settings.rules
    assert (rule.name, rule.hold, rule.webhook) == ("low", 120_000, "https://hooks.example/x")
    assert settings.alert_settings.webhooks.hosts == ("hooks.example", "*.chat.example", "::1")
    assert len(settings.alert_settings.webhooks.secret) == 24
    assert "MfKQ9" not in repr(settings)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("30s)", "30s", r"some.toml:5: alerts: number 1: when: at character 18"),
        ("30s)", "1m)", r"the alert 'low': when: at character 1: feedback has no window '1m'; its windows: 30s"),
        ('name = "low"', "", r"some.toml:5: alerts: number 1: name: "),
        ('for = "2m"', "for = 2", r"some.toml:5: alerts: number 1: for: must be text"),
        ("hooks.example/x", "other.example/x", r"the alert 'low': webhook: the host 'other.example' is not in"),
        ("webhook_secret", "# webhook_secret", r"webhook: webhooks are signed, and the setting webhook_secret"),
        ("whsec_", "", r"some.toml:3: webhook_secret: must be whsec_"),
        ("*.chat.example", "https://chat.example", r"some.toml:2: webhook_hosts: .* must be a host"),
        ("[[alerts]]", '[[alerts]]\nname = "low"\ntopic = "t"\nwhen = "count(1m) > 1"\n[[alerts]]', r"twice"),
    ],
)
def test_a_fault_is_named_with_its_place(tmp_path: Path, old: str, new: str, text: str) -> None:
    with pytest.raises(InvalidSetting, match=text):
        read(tmp_path, GOOD.replace(old, new, 1))


def test_hosts_and_secret_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUSHSVC_WEBHOOK_HOSTS", "Hooks.example *.chat.example")
    monkeypatch.setenv("PUSHSVC_WEBHOOK_SECRET", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    for settings in (settings_of({}), given.main([], standalone_mode=False)):
        assert settings.alert_settings.webhooks.hosts == ("hooks.example", "*.chat.example")
        assert len(settings.alert_settings.webhooks.secret) == 24
    assert "PUSHSVC_WEBHOOK_SECRET" not in os.environ, "no child inherits it"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PUSHSVC_WEBHOOK_SECRET", "quite-secret"), ("PUSHSVC_WEBHOOK_HOSTS", "https://hooks.example")],
)
def test_errors_in_the_environment_name_the_variable(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises((InvalidSetting, click.UsageError)) as raised:
        given.main([], standalone_mode=False)
    error = raised.value
    shown = error.format_message() if isinstance(error, click.UsageError) else str(error)
    assert name in shown or "--webhook-hosts" in shown
    assert "quite-secret" not in shown
    with pytest.raises(InvalidSetting, match=r"PUSHSVC_WEBHOOK_|--webhook-hosts"):
        settings_of({})
