"""The server defends itself: it stays visible to its operator, and pages of other sites cannot use it."""

from __future__ import annotations

import pytest

from hostile.attacks import idle_connections, other_sites
from support.stack import Stack


def test_health_checks_are_answered_while_idle_connections_fill_every_room(stack: Stack) -> None:
    stack.start_web("--max-connections", "5")
    assert idle_connections.attack(stack.url, connections=300) == {"200": 3}
    assert stack.metric("pushsvc_connections_refused_total") >= 295


@pytest.mark.parametrize("options", [[], ["--insecure"]])
def test_pages_of_other_sites_write_nothing(stack: Stack, options: list[str]) -> None:
    stack.start_web(*options)
    assert other_sites.attack(stack.url) == {"403": len(other_sites.HEADERS)}
    assert stack.metric("pushsvc_events_accepted_total") == 0
