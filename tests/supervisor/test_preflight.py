"""Checks before the start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pushsvc.config import Settings
from pushsvc.errors import PushError, StartupError
from pushsvc.supervisor.preflight import check_bind, check_transport, is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_binding_to_loopback_is_allowed(host: str) -> None:
    assert is_loopback(host)
    check_bind(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1"])
def test_binding_to_other_addresses_needs_insecure(host: str) -> None:
    with pytest.raises(StartupError, match="--insecure"):
        check_bind(Settings(host=host))
    check_bind(Settings(host=host, insecure=True))


@pytest.mark.parametrize("web", [False, True])
def test_metrics_on_other_addresses_need_insecure(web: bool) -> None:
    """They ask for no credentials, also beside a server that does."""
    public = Settings(jwt_key="a secret of more than thirty-two bytes", metrics_host="0.0.0.0", metrics_port=9464)
    with pytest.raises(StartupError, match="could read them"):
        check_bind(public, web=web, metrics=True)
    check_bind(public, web=web)
    check_bind(replace(public, insecure=True), web=web, metrics=True)
    check_bind(replace(public, metrics_port=None), web=web, metrics=True)


def test_an_unknown_host_raises_with_its_name() -> None:
    with pytest.raises(PushError, match=r"no\.such\.host\.invalid"):
        check_bind(Settings(host="no.such.host.invalid"))


def test_tokens_in_clear_are_warned_of() -> None:
    warnings: list[str] = []
    guarded = Settings(host="0.0.0.0", jwt_key="a secret of more than thirty-two bytes")
    for quiet in (
        Settings(host="0.0.0.0", insecure=True), replace(guarded, host="127.0.0.1"),
        replace(guarded, certfile=Path("a.pem")), replace(guarded, trusted_proxy=("10.0.0.0/8",)),
    ):  # fmt: skip
        check_transport(quiet, warnings.append)
    assert warnings == []
    check_transport(guarded, warnings.append)
    assert "0.0.0.0 is served without TLS" in warnings[0]
    check_bind(guarded)  # but it is allowed
