"""The dashboard in a real browser over real processes."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from playwright.sync_api import Page, Route, expect

from support.dashboard import PIZZA, keep_stream_in_tab, open_page, post
from support.stack import Stack
from support.waiting import until

_TABLE = """() => ({
  offset: document.querySelector("#offset").textContent,
  last: document.querySelector("#chart").dataset.last,
  rows: [...document.querySelectorAll("#rows tbody tr")].map((row) => [
    row.dataset.scope === "all" ? null : row.dataset.key, row.dataset.field,
    Object.fromEntries([...row.querySelectorAll("td")].map((cell) => [cell.dataset.column, cell.dataset.value])),
  ]),
})"""


def _number(text: str) -> float | None:
    return float(text) if text else None


def _shown(page: Page) -> dict[str | None, dict[str, float | None]]:
    """Return the table as {key: {column: value}}."""
    rows = page.evaluate(_TABLE)["rows"]
    return {key: {name: _number(text) for name, text in cells.items()} for key, _, cells in rows}


def _served(server: Stack, topic: str, field: str, window: str) -> dict[str | None, dict[str, float | None]]:
    frame = server.stats(topic, f"?window={window}")
    names = frame["columns"][2:]
    return {row[0]: dict(zip(names, row[2:], strict=True)) for row in frame["data"] if row[1] == field}


def test_an_empty_page_shows_how_to_publish_and_then_the_first_topic(page: Page, own_server: Stack) -> None:
    open_page(page, own_server)
    expect(page.locator("#command")).to_contain_text(f"curl {own_server.url}/v1/topics/hello/events -d ")
    expect(page.locator("#live")).to_be_hidden()

    post(own_server, "feedback", PIZZA)

    expect(page.locator("#welcome")).to_be_hidden()
    expect(page.locator("#topic")).to_have_value("feedback")
    expect(page.locator("#offset")).to_have_text("3")
    expect(page.locator('[data-tile="count"] dd')).to_have_attribute("data-value", "3")
    assert _shown(page) == _served(own_server, "feedback", "rating", "1m")


def test_the_page_waits_for_the_topic_in_its_address(page: Page, shared_server: Stack, topic: str) -> None:
    open_page(page, shared_server, f"#topic={topic}")
    expect(page.locator("#command")).to_contain_text(f"/v1/topics/{topic}/events")
    post(shared_server, topic, PIZZA)
    expect(page.locator("#offset")).to_have_text("3")


def test_a_count_window_can_be_chosen(page: Page, stack: Stack) -> None:
    stack.configure('[topics.">"]\nwindows = ["1m", "last 3"]\n')
    stack.start_aggregator()
    stack.start_web()
    post(stack, "feedback", PIZZA + PIZZA)
    open_page(page, stack, "#topic=feedback&field=rating")
    expect(page.locator('[data-tile="count"] dd')).to_have_attribute("data-value", "6")
    expect(page.locator("#window option")).to_have_text(["1 min", "3 events"])
    page.locator("#window").select_option("last 3")
    expect(page.locator('[data-tile="count"] dd')).to_have_attribute("data-value", "3")
    expect(page.locator('[data-tile="count"] dt')).to_have_text("Events in the window")
    assert _shown(page) == _served(stack, "feedback", "rating", "last3")


def test_numbers_continue_after_a_killed_server_without_a_reload(page: Page, own_server: Stack) -> None:
    post(own_server, "feedback", PIZZA)
    open_page(page, own_server, "#topic=feedback&window=15m&key=pizza&field=rating&statistic=mean")
    pizza = page.locator('tr[data-scope="key"][data-key="pizza"] td[data-column="mean"]')
    expect(pizza).to_have_text("3.25")
    page.evaluate("window.loadedOnce = true")

    post(own_server, "feedback", {"key": "pizza", "rating": 5.5})
    expect(pizza).to_have_text("4.00")

    own_server.restart_web()
    last = post(own_server, "feedback", {"key": "pie", "rating": 8})
    expect(page.locator("#offset")).to_have_text(str(last))
    expect(page.locator("#connection")).to_have_attribute("data-state", "open")
    expect(page.locator('tr[data-key="pie"]')).to_be_visible()
    assert page.evaluate("window.loadedOnce") is True
    assert _shown(page) == _served(own_server, "feedback", "rating", "15m")


def test_the_chart_ends_at_the_value_in_the_table(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, PIZZA)
    open_page(page, shared_server, f"#topic={topic}&window=15m")
    for key, statistic in ((None, "mean"), ("pizza", "sum"), ("soup", "max")):
        page.locator("#key").select_option(label=key or "All keys")
        page.locator("#statistic").select_option(statistic)
        for rating in (3, 7.25):
            last = post(shared_server, topic, [{"key": "pizza", "rating": rating}, {"key": "soup", "rating": rating}])
            expect(page.locator("#offset")).to_have_text(str(last))
            seen = page.evaluate(_TABLE)
            cells = next(cells for row_key, _, cells in seen["rows"] if row_key == key)
            assert seen["last"] == cells[statistic]
            served = _served(shared_server, topic, "rating", "15m")[key][statistic]
            assert _number(seen["last"]) == served


def test_a_choice_is_kept_in_the_address(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, [{"key": "pizza", "rating": 4.5, "price": 9}, {"key": "soup", "rating": 1, "price": 3}])
    open_page(page, shared_server, f"#topic={topic}")
    page.locator("#window").select_option("5m")
    page.locator('#rows th[data-column="max"] button').click()
    page.locator("#field").select_option(label="price")
    page.locator('tr[data-key="soup"] td[data-column="min"]').click()
    expect(page.locator("#chart")).to_have_attribute("data-last", "3")

    page.reload()

    for select, value in (("window", "5m"), ("key", '"soup"'), ("field", '"price"'), ("statistic", "min")):
        expect(page.locator(f"#{select}")).to_have_value(value)
    expect(page.locator('#rows th[data-column="max"]')).to_have_attribute("aria-sort", "descending")
    expect(page.locator("#chart")).to_have_attribute("data-last", "3")

    page.locator("#field").select_option(label="Events")
    expect(page.locator("#statistic")).to_have_value("count")
    page.go_back()
    expect(page.locator("#statistic")).to_have_value("min")


def test_names_from_events_are_shown_as_text_only(page: Page, own_server: Stack) -> None:
    hostile = "<img src=x onerror=\"document.body.id='taken'\">"
    post(own_server, "feedback", [{"key": hostile, hostile: 1}, {"key": "null", hostile: 2}])
    open_page(page, own_server, "#topic=feedback&window=15m")
    expect(page.locator("#rows tbody tr")).to_have_count(3)
    row = page.locator("#rows tbody tr").filter(has_text=hostile)
    row.get_by_role("button").click()
    expect(page.locator("#chart")).to_have_attribute("data-last", "1")
    expect(page.locator("#chart-title")).to_contain_text(hostile)
    assert page.locator("main img").count() == 0
    assert page.evaluate("document.body.id") == ""

    page.goto("about:blank")
    page.goto(f"{own_server.url}/#topic=x'; rm -rf .;'")
    expect(page.locator("#topic")).to_have_value("feedback")


def test_the_first_hundred_of_thousands_of_keys_are_drawn_and_any_can_be_found(
    page: Page, shared_server: Stack, topic: str
) -> None:
    last = post(shared_server, topic, [{"key": f"s{i:04}", "t": i} for i in range(3_000)])
    open_page(page, shared_server, f"#topic={topic}&window=15m&field=t&statistic=mean&sort=-max")
    expect(page.locator("#offset")).to_have_text(str(last))
    expect(page.locator("#rows tbody tr")).to_have_count(101)
    expect(page.locator("#rows tbody tr").nth(1)).to_have_attribute("data-key", "s2999")
    expect(page.locator("#more")).to_contain_text("2,900 more")
    expect(page.locator('[data-tile="keys"] dd')).to_have_text("3,000")

    page.locator("#filter").fill("S0042")
    expect(page.locator("#rows tbody tr")).to_have_count(2)
    page.locator('tr[data-key="s0042"]').get_by_role("button").press("Enter")
    page.locator("#filter").fill("")
    expect(page.locator("#rows tbody tr")).to_have_count(102)
    expect(page.locator("#chart")).to_have_attribute("data-last", "42")


def test_a_refused_stream_is_opened_again(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, PIZZA)
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        if refused:
            route.continue_()
        else:
            refused.append(route.request.url)
            route.fulfill(status=503)

    keep_stream_in_tab(page)
    page.route("**/v1/stream?*", refuse_once)
    open_page(page, shared_server, f"#topic={topic}&window=15m")
    expect(page.locator("#offset")).to_have_text("3")
    assert len(refused) == 1


def test_a_hidden_tab_closes_its_connections(page: Page, shared_server: Stack, topic: str) -> None:
    look = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});" \
        " document.dispatchEvent(new Event('visibilitychange')); }"  # fmt: skip
    post(shared_server, topic, PIZZA)
    page.clock.install()
    open_page(page, shared_server, f"#topic={topic}&window=15m")
    expect(page.locator("#offset")).to_have_text("3")

    page.evaluate(look, True)
    page.clock.fast_forward(31_000)
    expect(page.locator("#connection")).to_have_text("Paused")
    last = post(shared_server, topic, {"key": "pie", "rating": 7})
    page.evaluate(look, False)

    expect(page.locator("#connection")).to_have_text("Live")
    expect(page.locator("#offset")).to_have_text(str(last))


def test_the_page_waits_for_a_deleted_topic(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, PIZZA)
    open_page(page, shared_server, f"#topic={topic}&window=15m")
    expect(page.locator("#offset")).to_have_text("3")
    assert shared_server.request("DELETE", f"/v1/topics/{topic}").status == 204
    expect(page.locator("#welcome")).to_be_visible()
    post(shared_server, topic, {"key": "pie", "rating": 7})
    expect(page.locator('tr[data-key="pie"]')).to_be_visible()
    expect(page.locator('tr[data-key="pizza"]')).to_have_count(0)


def test_the_example_keeps_the_rows_of_the_server(page: Page, shared_server: Stack, topic: str, example: str) -> None:
    """The Map of the example that the README quotes equals the server's snapshot, after updates and after a reset."""
    example = example.replace("topics/flights/", f"topics/{topic}/")
    page.route(f"{shared_server.url}/browser.html", lambda route: route.fulfill(body=example, content_type="text/html"))
    page.goto(f"{shared_server.url}/browser.html")

    def same() -> bool:
        expected = shared_server.stats(topic)["data"]
        held = page.evaluate("[...rows.values()]")
        return bool(expected) and {tuple(row[:2]): row for row in held} == {tuple(row[:2]): row for row in expected}

    post(shared_server, topic, [{"key": "UA", "delay": 4.5}, {"key": "AA", "delay": -2}])
    until(same)
    post(shared_server, topic, [{"key": "UA", "delay": 1}, {"key": "DL", "air_time": 100}])
    until(same)
    shared_server.request("DELETE", f"/v1/topics/{topic}")
    post(shared_server, topic, [{"key": "B6", "delay": 3}])
    until(same)
    assert page.evaluate("[...rows.keys()]").count('["UA","delay"]') == 0


def test_values_of_any_kind_are_shown_beside_the_numbers(page: Page, stack: Stack) -> None:
    stack.configure('[topics."orders"]\nvalues = ["user"]\nstatistics = ["distinct", "top", "last", "p50"]\n')
    stack.start_aggregator()
    stack.start_web()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    post(stack, "orders", [{"key": "pizza", "user": user} for user in ("ann", "<b>bob</b>", "ann", True)])
    open_page(page, stack, "#topic=orders&field=user&statistic=distinct")
    row = page.locator('#rows tbody tr[data-key="pizza"]')
    expect(row.locator('[data-column="distinct"]')).to_have_text("3")
    expect(row.locator('[data-column="top"]')).to_have_text("ann (2), <b>bob</b> (1), true (1)")
    expect(row.locator('[data-column="last"]')).to_have_text("true")
    expect(row.locator('[data-column="mean"]')).to_have_text("–")
    expect(page.locator("#chart")).to_have_attribute("data-last", "3")
    assert page.locator("#statistic option").evaluate_all("all => all.map((one) => one.value)") == [
        "count", "rate", "sum", "mean", "min", "max", "std", "distinct", "p50",
    ]  # fmt: skip
    row.locator('[data-column="top"]').click()
    page.get_by_role("button", name="Distinct").click()
    expect(page.locator('#rows th[data-column="distinct"]')).to_have_attribute("aria-sort", "descending")
    assert page.locator('#rows th[data-column="approximate"]').count() == 0
    assert errors == []


def test_a_large_number_is_short_on_the_page_and_complete_on_hover_and_when_read_aloud(
    page: Page, shared_server: Stack, topic: str
) -> None:
    post(shared_server, topic, [{"key": "a", "bytes": 1_234_567_890_123}, {"key": "b", "bytes": 2.5e17}])
    open_page(page, shared_server, f"#topic={topic}&window=15m&field=bytes&statistic=max&key=a")
    cell = page.locator('tr[data-key="a"] td[data-column="max"]')
    for place in (cell, page.locator("#current")):
        expect(place.locator("[aria-hidden]")).to_have_text("1.235T")
        expect(place).to_have_attribute("title", "1,234,567,890,123")
    # Chromium's accessibility tree is what a screen reader gets.
    assert "1,234,567,890,123" in page.locator("#rows").aria_snapshot()
    assert "1.235T" not in page.locator("#rows").aria_snapshot()
    largest = page.locator('[data-tile="max"] dd')
    expect(largest.locator("[aria-hidden]")).to_have_text("2.50×10¹⁷")
    expect(largest).to_have_attribute("title", "250,000,000,000,000,000")
    for tile in page.locator(".tile").all():
        assert tile.evaluate("tile => tile.scrollWidth <= tile.clientWidth"), tile.inner_text()


def test_a_rate_says_how_much_of_its_window_has_passed(page: Page, stack: Stack) -> None:
    stack.configure('[topics.">"]\nwindows = ["10s", "15m"]\n')
    stack.start_aggregator()
    stack.start_web()
    post(stack, "feedback", PIZZA)
    open_page(page, stack, "#topic=feedback&window=15m&field=rating&statistic=rate")
    rate = page.locator('[data-tile="rate"] dt')
    expect(rate).to_have_text(re.compile(r"^Events per second\s*filling, 0 of 15 min$"))
    expect(page.locator("#chart-subtitle")).to_contain_text("(filling, 0 of 15 min)")
    page.locator("#window").select_option("10s")
    expect(rate).to_have_text("Events per second")


def test_tiles_say_what_they_count(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, [*PIZZA, {"key": "pizza", "minutes": 12}])
    open_page(page, shared_server, f"#topic={topic}&window=15m&field=rating&statistic=mean")
    expect(page.locator("#tiles dt span")).to_have_text(
        ["Events in 15 min", "Events per second", "Keys in 15 min", "Events with rating", "Mean rating", "Min rating",
         "Max rating"]
    )  # fmt: skip
    expect(page.locator('[data-tile="count"] dd')).to_have_text("4")
    expect(page.locator('[data-tile="field-count"] dd')).to_have_text("3")
    expect(page.locator("#rows caption")).to_have_text("Events with rating in the window of 15 min, by key")


def test_the_table_is_sorted_and_charted_with_the_keyboard_alone(page: Page, shared_server: Stack, topic: str) -> None:
    post(shared_server, topic, PIZZA)
    open_page(page, shared_server, f"#topic={topic}&window=15m&field=rating&statistic=count")
    expect(page.locator("#rows tbody tr")).to_have_count(3)
    page.locator("#filter").focus()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Key", exact=True)).to_be_focused()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator('#rows th[data-column="mean"]')).to_have_attribute("aria-sort", "descending")
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#chart-title")).to_have_text("Mean of rating")
    expect(page.locator("#chart-subtitle")).to_contain_text("soup")
    soup = page.locator('tr[data-key="soup"] td[data-column="mean"]')
    expect(soup).to_be_focused()
    expect(soup).to_have_attribute("aria-selected", "true")

    post(shared_server, topic, {"key": "soup", "rating": 100})
    expect(page.locator("#rows tbody tr").nth(1)).to_have_attribute("data-key", "soup")
    expect(soup).to_be_focused()
    page.keyboard.press("Control+Home")
    page.keyboard.press("End")
    expect(page.locator("#rows thead button").last).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#events-pause")).to_be_focused()


def test_a_heartbeat_moves_the_position_of_a_stream_that_connects_again(
    page: Page, shared_server: Stack, topic: str
) -> None:
    """A server of the test's own ends each stream after a heartbeat."""
    positions: list[str | None] = []

    class Heartbeats(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            positions.append(self.headers["Last-Event-ID"])
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(b'retry: 10\nid: moved\nevent: heartbeat\ndata: {"at":1795240837252}\n\n')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Heartbeats) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # Intercepted requests do not show this header, so the server reads it.
        keep_stream_in_tab(page)
        page.route("**/v1/stream?*", lambda route: route.continue_(url=f"http://127.0.0.1:{server.server_port}/"))
        page.goto(f"{shared_server.url}/#topic={topic}&window=15m")

        def connected_again() -> bool:
            page.evaluate("() => document.title")  # lets the routes of the page run
            return len(positions) >= 2

        until(connected_again)
        page.unroute("**/v1/stream?*")
        server.shutdown()
    assert positions[:2] == [None, "moved"]


def test_the_page_works_below_a_prefix(page: Page, shared_server: Stack, topic: str) -> None:
    """A proxy serves the application below a path of its own."""
    post(shared_server, topic, PIZZA)
    outside: list[str] = []

    def forward(route: Route) -> None:
        path = urlsplit(route.request.url).path
        if not path.startswith("/below/"):
            outside.append(path)
        route.continue_(url=route.request.url.replace("/below/", "/", 1))

    keep_stream_in_tab(page)
    page.route("**/*", forward)
    open_page(page, shared_server, f"below/#topic={topic}&window=15m")
    expect(page.locator("#offset")).to_have_text("3")
    page.locator("#topic").fill(topic)
    expect(page.locator("#topic-list li")).to_have_count(1)
    assert outside == []


def test_a_topic_without_windows_says_so_and_another_topic_is_shown_after_it(page: Page, stack: Stack) -> None:
    stack.configure('[topics."user.*"]\nwindows = []\n')
    stack.start_aggregator()
    stack.start_web()
    for _ in range(3):
        post(stack, "user.1", PIZZA)
    post(stack, "feedback", PIZZA)
    open_page(page, stack)
    expect(page.locator("#topic")).to_have_value("feedback")
    expect(page.locator("#live")).to_be_visible()

    page.goto(f"{stack.url}/#topic=user.1")
    expect(page.locator("#events-only")).to_contain_text("it has events only")
    expect(page.locator("#live")).to_be_hidden()

    page.go_back()
    expect(page.locator("#live")).to_be_visible()
    expect(page.locator("#events-only")).to_be_hidden()
