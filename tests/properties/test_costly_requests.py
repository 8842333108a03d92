"""The search for costly requests: all that its grammar makes are taken, or refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from hostile.grammar import Call, publishes, reads
from hostile.search import filled, search
from pushsvc.broker.broker import Broker
from support.effort import EXAMPLES

TAKEN = {"GET": (200,), "POST": (202, 413)}


@pytest.mark.parametrize("calls", [reads(), publishes(most_bytes=300_000)], ids=["reads", "publishes"])
def test_requests_within_all_limits_are_answered(broker: Broker, calls: st.SearchStrategy[Call]) -> None:
    found = search(filled(broker, 2_000), calls, EXAMPLES)
    assert found
    for cost in found:
        assert cost.status in TAKEN[cost.call.method], cost.call.told
