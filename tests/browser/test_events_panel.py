"""The panel of events of the dashboard: live tail, pause, filters, JSON, timeline, older events."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.sync_api import Locator, Page, expect

from support.dashboard import keep_stream_in_tab, open_page, post
from support.stack import Stack
from support.waiting import until


def open_events(page: Page, server: Stack, topic: str, more: str = "") -> None:
    """Open the dashboard of a topic and scroll to its events."""
    open_page(page, server, f"#topic={topic}{more}")
    events = page.locator("#events")
    expect(events).to_be_visible()

    def live() -> bool:
        # What appears above may move it out of sight again.
        events.scroll_into_view_if_needed()
        return "newest first · live" in (page.locator("#events-state").text_content() or "")

    until(live)


def is_there(page: Page, count: int) -> bool:
    """Scroll to the events; return whether so many are shown. What appears above may move them out of sight again."""
    page.locator("#events").scroll_into_view_if_needed()
    return rows(page).count() == count


def rows(page: Page) -> Locator:
    return page.locator("#tail tbody tr:not(.detail)")


def offsets(page: Page) -> list[int]:
    return [int(found) for found in rows(page).evaluate_all("rows => rows.map((row) => row.dataset.offset)")]


def numbered(count: int, first: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [{"n": number, **more} for number in range(first, first + count)]


def test_events_of_before_and_of_now_are_shown_newest_first(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, numbered(3, key="a", type="order"))
    open_events(page, shared_server, topic)
    expect(rows(page)).to_have_count(3)
    post(shared_server, topic, {"key": "b", "type": "refund", "n": 9, "note": {"why": "cold"}})
    expect(rows(page)).to_have_count(4)
    assert offsets(page) == [4, 3, 2, 1]
    first = rows(page).first
    expect(first.locator(".type")).to_have_text("refund")
    expect(first.locator(".key")).to_have_text("b")
    expect(first.locator(".data")).to_contain_text("n 9")
    expect(first.locator(".data")).to_contain_text("why")


def test_a_paused_panel_keeps_its_events_and_counts_new_ones(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, numbered(2))
    open_events(page, shared_server, topic)
    expect(rows(page)).to_have_count(2)
    page.locator("#events-pause").click()
    expect(page.locator("#events-state")).to_contain_text("paused")
    post(shared_server, topic, numbered(3, 2))
    expect(page.locator("#events-pause")).to_have_text("Resume · 3 new")
    assert offsets(page) == [2, 1]
    page.locator("#events-pause").click()
    expect(rows(page)).to_have_count(5)
    expect(page.locator("#events-pause")).to_have_text("Pause")
    assert offsets(page) == [5, 4, 3, 2, 1]


HELD_SIGHTS = """
const Observer = IntersectionObserver;
window.IntersectionObserver = class extends Observer {
  constructor(report, options) {
    const seen = [];
    let reported = 0;
    super((entries) => seen.push(...entries), options);
    window.isSeen = () => seen.at(-1)?.isIntersecting ?? null;
    window.reportSights = () => {
      const entries = seen.slice(reported);
      reported = seen.length;
      report(entries, this);
      return entries.map((entry) => entry.isIntersecting);
    };
  }
};
"""


def test_of_several_moves_that_the_panel_hears_at_once_the_last_counts(
    page: Page, shared_server: Stack, topic: str
) -> None:
    """As on a busy page."""
    post(shared_server, topic, numbered(2))
    page.add_init_script(HELD_SIGHTS)
    open_page(page, shared_server, f"#topic={topic}")
    page.evaluate("document.querySelector('#events').style.marginTop = '3000px'")

    def scroll(place: str, seen: bool) -> None:
        def arrived() -> bool:
            page.evaluate(f"document.querySelector('{place}').scrollIntoView()")
            return page.evaluate("isSeen()") is seen

        until(arrived)

    scroll("header", False)
    page.evaluate("reportSights()")
    scroll("#events", True)
    assert page.evaluate("reportSights()") == [True]
    expect(page.locator("#events-state")).to_contain_text("live")
    scroll("header", False)
    scroll("#events", True)
    assert page.evaluate("reportSights()") == [False, True]
    post(shared_server, topic, numbered(1, 2))
    expect(rows(page)).to_have_count(3)


def test_filters_select_what_was_and_what_comes_and_are_in_the_address(
    page: Page, shared_server: Stack, topic: str
) -> None:
    made = [{"type": "order", "key": "a", "note": "One"}, {"type": "refund", "key": "a", "note": "two"},
            {"type": "order", "key": "b", "note": "three"}]  # fmt: skip
    post(shared_server, topic, made)
    open_events(page, shared_server, topic)
    page.locator("#events-type").fill("order")
    expect(rows(page)).to_have_count(2)
    page.locator("#events-text").fill("ONE")  # whatever the case
    expect(rows(page)).to_have_count(1)
    post(shared_server, topic, [*made, {"type": "order", "key": "z", "note": "one more"}])
    expect(rows(page)).to_have_count(3)
    assert offsets(page) == [7, 4, 1]
    assert "events-type=order&events-text=ONE" in page.evaluate("location.hash")

    page.reload()
    until(lambda: is_there(page, 3))
    expect(page.locator("#events-type")).to_have_value("order")
    page.locator("#events-clear").click()
    expect(rows(page)).to_have_count(7)
    expect(page.locator("#events-clear")).to_be_hidden()
    page.go_back()
    expect(rows(page)).to_have_count(3)
    page.locator("#events-key").fill("nobody")
    expect(page.locator("#events-none")).to_have_text("No event matches.")


def test_a_row_opens_to_its_json_and_a_key_to_its_timeline(page: Page, shared_server: Stack, topic: str) -> None:
    times = ["2026-01-01T10:00:00Z", "2026-01-01T10:00:02.500Z", "2026-01-01T10:05:00Z"]
    post(shared_server, topic, [{"key": "a", "time": time, "n": 1} for time in times] + [{"key": "b"}])
    open_events(page, shared_server, topic)
    rows(page).nth(1).locator(".open").click()
    shown = json.loads(page.locator("#tail .detail pre").inner_text())
    assert {name: shown[name] for name in ("$offset", "key", "n", "time")} == {
        "$offset": 3, "key": "a", "n": 1, "time": "2026-01-01T10:05:00.000Z",
    }  # fmt: skip
    expect(page.locator("#events-state")).to_contain_text("paused")  # it must not move while it is read
    rows(page).nth(1).locator(".open").click()
    expect(page.locator("#tail .detail")).to_have_count(0)

    rows(page).nth(1).locator(".key").click()
    expect(page.locator("#events-title")).to_have_text("Timeline of a")
    expect(rows(page)).to_have_count(3)
    expect(page.locator("#tail td.elapsed")).to_have_text(["+5.0 min", "+2.5 s", ""])
    expect(page.locator("#events-strip line")).to_have_count(3)
    assert page.evaluate("location.hash").endswith("events-key=a")


def test_an_open_row_tells_the_life_of_its_event(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, [{"n": 1}, {"n": 2}])
    patch = {"Content_Type": "application/merge-patch+json"}
    assert shared_server.request("PATCH", f"/v1/topics/{topic}/events/$1", b'{"n":10}', **patch).status == 200
    open_events(page, shared_server, topic)
    rows(page).last.locator(".open").click()
    life = page.locator("#tail .life")
    expect(life.locator("li")).to_have_count(3)
    expect(life.locator("li").nth(0)).to_have_text(re.compile(r"Stored \S+ at offset 1"))
    expect(life.locator("li").nth(1)).to_have_text(re.compile(r"Counted in \w+(, \w+)*"))
    expect(life.locator("li").nth(2)).to_have_text(re.compile(r"Corrected \S+ at offset \d+"))
    rows(page).last.locator(".open").click()
    expect(life).to_have_count(0)

    refusal = {"title": "Forbidden", "detail": "reading <b>this</b> is not granted"}
    page.route("**/events/$*", lambda route: route.fulfill(status=403, json=refusal))
    rows(page).last.locator(".open").click()
    expect(life).to_have_text("What was done to it cannot be read: reading <b>this</b> is not granted")


def test_older_events_are_read_page_by_page_up_to_the_first(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, numbered(230))
    open_events(page, shared_server, topic)
    expect(rows(page)).to_have_count(100)
    for count in (200, 230):
        page.locator("#events-older").click()
        expect(rows(page)).to_have_count(count)
    expect(page.locator("#events-older")).to_be_hidden()
    assert offsets(page) == list(range(230, 0, -1))


def test_corrected_and_deleted_events_change_where_they_are(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, [{"key": "a", "n": 1}, {"key": "a", "n": 2}, {"key": "b", "n": 3}])
    open_events(page, shared_server, topic, "&events-key=a")
    expect(rows(page)).to_have_count(2)
    events = f"/v1/topics/{topic}/events"
    patch = {"Content_Type": "application/merge-patch+json"}
    assert shared_server.request("PATCH", f"{events}/$2", b'{"n":20}', **patch).status == 200
    expect(rows(page).first.locator(".data")).to_contain_text("n 20")
    assert shared_server.request("DELETE", f"{events}/$1").status == 200
    expect(rows(page)).to_have_count(1)
    assert shared_server.request("PATCH", f"{events}/$3", b'{"key":"a"}', **patch).status == 200
    expect(rows(page)).to_have_count(2)
    assert offsets(page) == [3, 2]


def test_a_paused_panel_applies_corrections(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, numbered(3))
    open_events(page, shared_server, topic)
    expect(rows(page)).to_have_count(3)
    rows(page).last.locator(".open").click()
    expect(page.locator("#events-state")).to_contain_text("paused")
    assert shared_server.request("DELETE", f"/v1/topics/{topic}/events/$2").status == 200
    expect(rows(page)).to_have_count(2)
    assert offsets(page) == [3, 1]


def test_what_came_while_the_page_was_hidden_leaves_no_hole(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, numbered(5))
    open_events(page, shared_server, topic)
    expect(rows(page)).to_have_count(5)
    page.evaluate("dispatchEvent(new Event('pagehide'))")
    post(shared_server, topic, numbered(300, 5))
    page.evaluate("dispatchEvent(new Event('pageshow'))")
    expect(rows(page).first).to_have_attribute("data-offset", "305")
    for count in (200, 300, 305):
        page.locator("#events-older").click()
        expect(rows(page)).to_have_count(count)
    assert offsets(page) == list(range(305, 0, -1))


def test_hostile_events_are_text(page: Page, shared_server: Stack, topic: str) -> None:
    hostile = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    turned = "\u202eevil\u202c \u001b[31m"
    post(
        shared_server,
        topic,
        {"key": hostile[:100], "type": "x", "html": hostile, turned[:8]: turned, "long": "x" * 60_000},
    )
    open_events(page, shared_server, topic)
    expect(rows(page)).to_have_count(1)
    expect(rows(page).first.locator(".key")).to_have_text(hostile[:100])
    rows(page).first.locator(".open").click()
    expect(page.locator("#tail .detail pre")).to_contain_text("onerror")
    expect(page.locator("#tail .life")).to_contain_text("Stored")
    assert page.locator("#tail img, #tail script").count() == 0
    assert page.title() != "owned"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_the_panel_is_subscribed_only_while_it_is_seen(page: Page, own_server: Stack) -> None:
    post(own_server, "t", numbered(1))
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if "/v1/stream?" in request.url else None)
    keep_stream_in_tab(page)

    def is_subscribed() -> bool:
        page.evaluate("() => document.title")  # lets the requests of the page be seen
        return "events%2Ft" in streams[-1]

    page.set_viewport_size({"width": 1280, "height": 300})
    open_page(page, own_server, "#topic=t")
    expect(page.locator("#offset")).to_have_text("1")
    assert until(lambda: not is_subscribed())
    assert until(lambda: is_there(page, 1) and is_subscribed())
    page.evaluate("scrollTo(0, 0)")
    assert until(lambda: not is_subscribed())
    assert until(lambda: own_server.metric("pushsvc_streams") == 1)


def test_a_fast_stream_keeps_a_bounded_number_of_rows_and_the_newest(
    page: Page, shared_server: Stack, topic: str
) -> None:
    open_page(page, shared_server, f"#topic={topic}")
    post(shared_server, topic, numbered(1))
    open_events(page, shared_server, topic)
    for first in range(1, 6_000, 1_000):
        post(shared_server, topic, numbered(1_000, first))
    expect(rows(page).first).to_have_attribute("data-offset", "6001")
    assert rows(page).count() == 100
    assert page.evaluate("document.querySelectorAll('#tail *').length") < 3_000
