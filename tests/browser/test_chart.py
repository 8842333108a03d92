"""The chart of the dashboard: its past, several keys, the crosshair, another window; and the alerts of a topic."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, Route, expect

from support.dashboard import keep_stream_in_tab, open_page, post
from support.stack import Stack
from support.waiting import until

_STEPS = 51  # that the crosshair takes from the end of the chart to its begin


def _read_out(page: Page) -> list[str]:
    """Return what the chart says of each place of its crosshair, the present first."""
    chart = page.locator("#chart")
    chart.focus()
    page.keyboard.press("End")
    texts = []
    for _ in range(_STEPS):
        texts.append(chart.get_attribute("aria-valuetext") or "")
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Escape")
    return texts


def _values(texts: list[str], place: int = 1) -> list[str]:
    """Return the different values of a series, the newest first."""
    found: list[str] = []
    for text in texts:
        value = text.split(", ")[place]
        if not found or found[-1] != value:
            found.append(value)
    return found


def _counted(server: Stack, topic: str, query: str) -> list[int | None]:
    counts: list[int | None] = server.get(f"/v1/topics/{topic}/stats/series?{query}").json()["stats"]["count"]
    return counts


def test_a_chart_has_what_was_before_the_page_was_opened(page: Page, shared_server: Stack, topic: str) -> None:
    for key, n in (("soup", 3), ("cake", 2), ("soup", 4)):
        before = len(_counted(shared_server, topic, "window=1m&step=1s"))
        post(shared_server, topic, [{"key": key, "rating": 1}] * n)
        until(lambda before=before: len(_counted(shared_server, topic, "window=1m&step=1s")) > before + 1)
    open_page(page, shared_server, f"#topic={topic}&window=1m&field=rating&statistic=count")
    for key, values in (("soup", {"3", "7"}), (None, {"3", "5", "9"})):
        page.locator("#key").select_option(label=key or "All keys")
        # A page that stays open for longer shows more of the past; what was is there as long as the test lasts.
        until(lambda values=values: values <= set(_values(_read_out(page))))


def test_two_to_six_keys_are_charted_over_each_other(page: Page, shared_server: Stack, topic: str) -> None:
    keys = ["a", "b", "c", "d", "e", "f", "<i>g"]
    post(shared_server, topic, [{"key": key, "x": n} for n, key in enumerate(keys)])
    open_page(page, shared_server, f"#topic={topic}&window=15m&key=a&field=x&statistic=max")
    chips = page.locator("#legend li span")
    expect(page.locator("#compare option:checked")).to_have_text("Compare with…")
    for shown, key in enumerate(["b", "<i>g", "c", "d", "e"], 2):
        page.locator("#compare").select_option(label=key)
        expect(chips).to_have_count(shown)
    expect(page.locator("#compare")).to_be_hidden()  # there are six
    page.reload()
    expect(chips).to_have_text(["a", "b", "<i>g", "c", "d", "e"])
    expect(page.locator("#legend b")).to_have_text(["0", "1", "6", "2", "3", "4"])
    post(shared_server, topic, {"key": "<i>g", "x": 60})
    expect(page.locator("#legend b")).to_have_text(["0", "1", "60", "2", "3", "4"])
    assert _read_out(page)[0].split(", ")[1:] == ["a 0", "b 1", "<i>g 60", "c 2", "d 3", "e 4"]

    page.get_by_role("button", name="Remove a from the chart").click()
    expect(chips).to_have_text(["b", "<i>g", "c", "d", "e"])
    expect(page.locator("#key")).to_have_value('"b"')
    page.locator('tr[data-key="c"] td[data-column="max"]').click()  # charted already: it is the first now
    expect(chips).to_have_text(["c", "<i>g", "d", "e"])
    page.go_back()
    expect(chips).to_have_text(["b", "<i>g", "c", "d", "e"])


def test_the_crosshair_reads_out_the_values_under_the_pointer(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, [{"key": "soup", "x": 2.5}, {"key": "cake", "x": 4}])
    open_page(page, shared_server, f"#topic={topic}&window=15m&key=soup&compare=cake&field=x&statistic=mean")
    expect(page.locator("#legend li")).to_have_count(2)
    readout = page.locator("#chart .readout")
    expect(readout).to_be_hidden()
    area = page.locator("#chart .u-over").bounding_box()
    assert area is not None
    page.mouse.move(area["x"] + area["width"] - 1, area["y"] + 100)
    expect(readout.locator("div:nth-child(2)")).to_have_text("soup 2.50")
    expect(readout.locator("div:nth-child(3)")).to_have_text("cake 4.00")
    page.mouse.move(area["x"] + 20, area["y"] - 300)
    expect(readout).to_be_hidden()


_WATCH = """() => {
  window.blanks = [];
  window.busy = 0;
  const live = document.querySelector("#live");
  const look = () => {
    const told = document.querySelector("#chart").ariaValueText;
    const rows = document.querySelectorAll("#rows tbody tr").length;
    const shown = [live.hidden, live.className, rows, told.split(", ")[1]];
    if (live.ariaBusy === "true") window.busy += 1;
    if (JSON.stringify(shown) !== '[false,"",3,"3"]') window.blanks.push(shown);
    window.watching = requestAnimationFrame(look);
  };
  look();
}"""


def test_another_window_replaces_the_first_without_a_blank(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, [{"key": "soup", "x": 1}, {"key": "cake", "x": 4}, {"key": "soup", "x": 1}])
    open_page(page, shared_server, f"#topic={topic}&window=15m&field=x&statistic=count")
    expect(page.locator("#chart")).to_have_attribute("data-last", "3")
    held: list[Route] = []
    page.route("**/stats/series?*", lambda route: held.append(route))  # the slowest part comes last
    page.evaluate(_WATCH)
    for window in ("5m", "15m"):
        page.locator("#window").select_option(window)
        while not held:
            page.wait_for_timeout(10)  # playwright calls the handler only here
        held.pop().continue_()
        expect(page.locator("#live")).to_have_attribute("data-window", window)
        expect(page.locator("#live")).to_have_attribute("aria-busy", "false")
    assert page.evaluate("() => { cancelAnimationFrame(window.watching); return window.blanks; }") == []
    assert page.evaluate("window.busy") > 0


def test_a_window_is_shown_even_if_its_past_cannot_be_read(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, {"key": "soup", "x": 1})
    page.route("**/stats/series?*", lambda route: route.abort())
    open_page(page, shared_server, f"#topic={topic}&window=15m&field=x&statistic=count")
    expect(page.locator("#chart")).to_have_attribute("data-last", "1")
    page.locator("#window").select_option("5m")
    expect(page.locator("#live")).to_have_attribute("data-window", "5m")


@pytest.fixture
def alert(shared_server: Stack, topic: str) -> str:
    """An alert of a topic, by key."""
    name = f"low-{topic}"
    rule = json.dumps({"topic": topic, "when": "mean(rating, 15m) < 3", "by": "key"}).encode()
    made = shared_server.request("PUT", f"/v1/alerts/{name}", rule, **{"Content-Type": "application/json"})
    assert made.status == 201, made
    return name


def test_alerts_are_a_list_and_marks_on_the_chart(page: Page, shared_server: Stack, topic: str, alert: str) -> None:
    post(shared_server, topic, [{"key": "soup", "rating": 1}, {"key": "cake", "rating": 5}])
    wanted = quote(f'topic="{topic}"')
    until(lambda: shared_server.get(f"/v1/topics/alerts/events?where={wanted}").json()["events"])
    open_page(page, shared_server, f"#topic={topic}&window=15m&field=rating&statistic=mean&key=soup")
    states = page.locator("#alerts-list li")
    expect(states).to_have_count(1)
    expect(states).to_contain_text(f"Raised{alert}soupmean(rating, 15m) < 3")

    post(
        shared_server, topic, [{"key": "cake", "rating": -9}, {"key": "soup", "rating": 9}]
    )  # the page sees both happen
    expect(states).to_contain_text(f"Raised{alert}cake")
    page.locator("#alerts-past summary").click()
    past = page.locator("#alerts-events li")
    expect(past).to_have_count(3)
    expect(past.filter(has_text="soup").filter(has_text="Resolved")).to_have_count(1)

    def told() -> set[str]:
        return {part for text in _read_out(page) for part in text.split(", ")[2:]}

    until(lambda: told() == {f"{alert} (soup) raised", f"{alert} (soup) resolved"})
    states.get_by_role("button", name="cake").click()
    expect(page.locator("#key")).to_have_value('"cake"')
    until(lambda: told() == {f"{alert} (cake) raised"})


def test_an_alert_is_there_without_a_reload(page: Page, shared_server: Stack, topic: str) -> None:
    """The rule is found when the page looks again; from then on its events come on the stream."""
    post(shared_server, topic, {"key": "soup", "rating": 5})
    keep_stream_in_tab(page)
    open_page(page, shared_server, f"#topic={topic}&window=15m")
    expect(page.locator("#chart")).to_have_attribute("data-last", "5")
    expect(page.locator("#alerts")).to_be_hidden()
    rule = json.dumps({"topic": topic, "when": "mean(rating, 15m) < 3"}).encode()
    shared_server.request("PUT", f"/v1/alerts/late-{topic}", rule, **{"Content-Type": "application/json"})
    with page.expect_request(lambda request: "/v1/stream?" in request.url and "alerts" in request.url):
        expect(page.locator("#alerts-list li")).to_contain_text("OK")
    post(shared_server, topic, {"key": "soup", "rating": -9})
    expect(page.locator("#alerts-list li")).to_contain_text("Raised")
    expect(page.locator("#chart")).to_have_attribute("data-last", "-2")
