"""The page's modules that need no server data, called in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from support.stack import Stack


@pytest.fixture(scope="module")
def modules(browser: Browser, shared_server: Stack) -> Iterator[Page]:
    page = browser.new_page()
    page.goto(f"{shared_server.url}/")
    yield page
    page.close()


def _call(page: Page, module: str, body: str, argument: Any = None) -> Any:
    return page.evaluate(f"async (given) => {{ const m = await import('/static/{module}.js'); {body} }}", argument)


def test_rows_follow_snapshot_update_gone_and_reset(modules: Page) -> None:
    snapshot = {"data": [[None, None, 3], ["a", None, 2], ["null", None, 1], ["a", "x", 2]]}
    update = {"data": [[None, None, 2], ["a", "x", 1]], "gone": [["null", None]]}
    revived = {"data": [["null", None, 4]]}
    body = """
      const rows = new Map([["old", []]]);
      const seen = [];
      for (const [apply, frame] of given) { m[apply](rows, frame); seen.push([...rows.values()]); }
      return seen;
    """
    frames = [["snapshot", snapshot], ["update", update], ["update", revived], ["reset", None]]
    assert _call(modules, "state", body, frames) == [
        snapshot["data"],
        [[None, None, 2], ["a", None, 2], ["a", "x", 1]],
        [[None, None, 2], ["a", None, 2], ["a", "x", 1], ["null", None, 4]],
        [],
    ]


@pytest.mark.parametrize(
    "fragment",
    [
        "#topic=a.b&window=1m&key=&field=x%26y&statistic=mean&sort=max",
        "#topic=a&key=null&statistic=count",
        "#topic=a",
    ],
)
def test_a_selection_survives_a_round_trip_through_the_address(modules: Page, fragment: str) -> None:
    body = "return m.formatSelection(m.parseSelection(given))"
    assert _call(modules, "selection", body, fragment) == fragment


@pytest.mark.parametrize("topic", ["a b", "a';ls;'", "..", "a" * 201, "$sys", "a\n"])
def test_an_invalid_topic_in_the_address_is_ignored(modules: Page, topic: str) -> None:
    body = "return m.parseSelection('#' + new URLSearchParams({topic: given})).topic"
    assert _call(modules, "selection", body, topic) is None


@pytest.mark.parametrize(
    ("name", "shown"), [("15m", "15 min"), ("last 1000", "1,000 events"), ("all", "all time"), ("other", "other")]
)
def test_a_window_is_named_by_its_length_or_its_events(modules: Page, name: str, shown: str) -> None:
    assert _call(modules, "format", "return m.windowName(given)", name) == shown


def test_a_value_holds_until_the_next_one_and_a_lost_connection_is_a_gap(modules: Page) -> None:
    body = """
      const history = new m.History();
      history.record(10_000, "r", ["k", "f", 1], true);
      history.record(10_100, "r", ["k", "f", 2], true);
      history.record(14_000, "r", ["k", "f", 3], true);
      history.disconnect(20_000);
      history.reconnect(30_000);
      history.record(30_000, "r", ["k", "f", 4], true);
      return [history.lines("r", 2, 31_000), history.last("r", 2), history.last("other", 2)];
    """
    lines, last, other = _call(modules, "history", body)
    assert lines == [[[10_100, 2], [13_500, 2], [14_000, 3], [20_000, 3]], [[30_000, 4], [31_000, 4]]]
    assert (last, other) == (4, None)


def test_a_history_is_bounded(modules: Page) -> None:
    body = """
      const history = new m.History();
      for (let i = 0; i < 1_000; i += 1) history.record(1_000 * i, "r", ["k", "f", i], false);
      for (let i = 0; i < 1_000; i += 1) history.record(1_000_000, String(i), ["k", "f", i], false);
      return [history.lines("r", 2, 1_000_000)[0][0][0], history.last("999", 2), m.SPAN];
    """
    first, untracked, span = _call(modules, "history", body)
    assert first >= 999_000 - span - 1_000
    assert untracked is None


_SCALE = "return m.valueScale(given[0].map((v) => [0, v]), given[1])"


@pytest.mark.parametrize(
    ("values", "zero"),
    [([], False), ([0], False), ([5], True), ([-3, 4], False), ([-5], True), ([1e-9, 2e-9], False),
     ([1e15, 1e15 + 1], False), ([-4.03, -4.02], False)],
)  # fmt: skip
def test_a_scale_contains_its_values(modules: Page, values: list[float], zero: bool) -> None:
    scale = _call(modules, "chart", _SCALE, [values, zero])
    assert scale["low"] < scale["high"]
    assert 2 <= len(scale["ticks"]) <= 8
    assert all(scale["low"] <= value <= scale["high"] for value in values)
    assert not zero or scale["low"] <= 0 <= scale["high"]


@pytest.mark.parametrize("values", [[4.02, 4.03], [1e15, 1e15 + 1], [-300.5, -300], [1e-7, 1.0001e-7]])
def test_noise_does_not_fill_the_height_of_a_chart(modules: Page, values: list[float]) -> None:
    scale = _call(modules, "chart", _SCALE, [values, False])
    assert (max(values) - min(values)) * 4 < scale["high"] - scale["low"]


@pytest.mark.parametrize(
    ("values", "begins_at_zero"), [([2, 5], True), ([0.1, 300], True), ([80, 100], False), ([-5, -1], False)]
)
def test_a_scale_begins_at_zero_if_that_at_most_doubles_it(
    modules: Page, values: list[float], begins_at_zero: bool
) -> None:
    assert (_call(modules, "chart", _SCALE, [values, False])["low"] == 0) is begins_at_zero


@pytest.mark.parametrize(
    ("value", "shown", "full"),
    [
        (0, "0", "0"),
        (-0.0, "0", "0"),
        (123_456, "123,456", "123,456"),
        (999_999, "999,999", "999,999"),
        (123_456_789, "123.5M", "123,456,789"),
        (-1_000_000_000, "-1.000B", "-1,000,000,000"),
        (999_999_999_999_999, "1000T", "999,999,999,999,999"),
        (1e15, "1.00×10¹⁵", "1,000,000,000,000,000"),
        (1e300, "1.00×10³⁰⁰", "1e+300"),
        (4 / 3, "1.33", "1.33333333333333"),
        (0.0123456, "0.0123", "0.0123456"),
        (1.5e-9, "1.50×10⁻⁹", "0.0000000015"),
        (None, "–", "–"),
    ],
)
def test_a_number_has_a_short_and_a_full_form(modules: Page, value: float | None, shown: str, full: str) -> None:
    body = "return [m.formatValue(given, 'sum'), m.formatFull(given)]"
    assert _call(modules, "format", body, value) == [shown, full]


@pytest.mark.parametrize(
    ("passed", "length", "shown"),
    [(10_400, 60_000, "filling, 10 of 60 s"), (125_000, 900_000, "filling, 2 of 15 min"),
     (0, 86_400_000, "filling, 0 of 24 h")],
)  # fmt: skip
def test_a_window_that_is_not_full_says_so(modules: Page, passed: int, length: int, shown: str) -> None:
    assert _call(modules, "format", "return m.formatFilling(...given)", [passed, length]) == shown


def test_times_have_one_format(modules: Page) -> None:
    body = """
      const midnight = new Date(2026, 10, 22).toISOString();
      return [m.formatClock(Date.parse(midnight)), m.formatMoment(midnight), m.formatTime(midnight)];
    """
    clock, moment, before = _call(modules, "format", body)
    assert clock == "00:00:00"
    assert moment.endswith("2026, 00:00:00")
    assert before in (clock, moment)


def test_the_tail_of_events_keeps_a_bounded_number(modules: Page) -> None:
    body = """
      const tail = new m.Tail();
      const made = (from, count) => Array.from({ length: count }, (_, i) => ({ $offset: from + i, time: "" }));
      for (let round = 0; round < 20; round += 1) {
        for (const event of made(1000 * round + 1, 1000)) tail.push(event);
        tail.merge(made(1000 * round + 900, 100));
      }
      const live = tail.read().length;
      tail.merge(made(18000, 500), true);
      return [live, tail.read().length, tail.newest, m.KEPT];
    """
    assert _call(modules, "tail", body) == [1_000, 1_500, 20_000, 1_000]
