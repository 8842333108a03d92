"""The dashboard in a real browser over real processes."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, Route, expect

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
_PIZZA = [{"key": "pizza", "rating": 4.5}, {"key": "pizza", "rating": 2}, {"key": "soup", "rating": 1}]


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


def _open(page: Page, server: Stack, fragment: str = "") -> None:
    page.goto(f"{server.url}/{fragment}")
    expect(page.locator("#connection")).to_have_attribute("data-state", "open")


def _post(server: Stack, topic: str, events: Any) -> int:
    answer = server.post(topic, events)
    assert answer.status == 202, answer
    return int(answer.json()["last_offset"])


def test_an_empty_page_shows_how_to_publish_and_then_the_first_topic(page: Page, own_server: Stack) -> None:
    _open(page, own_server)
    expect(page.locator("#command")).to_contain_text(f"curl {own_server.url}/v1/topics/hello/events -d ")
    expect(page.locator("#live")).to_be_hidden()

    _post(own_server, "feedback", _PIZZA)

    expect(page.locator("#welcome")).to_be_hidden()
    expect(page.locator("#topic")).to_have_value("feedback")
    expect(page.locator("#offset")).to_have_text("3")
    expect(page.locator('[data-tile="count"] dd')).to_have_attribute("data-value", "3")
    assert _shown(page) == _served(own_server, "feedback", "rating", "1m")


def test_the_page_waits_for_the_topic_in_its_address(page: Page, shared_server: Stack, topic: str) -> None:
    _open(page, shared_server, f"#topic={topic}")
    expect(page.locator("#command")).to_contain_text(f"/v1/topics/{topic}/events")
    _post(shared_server, topic, _PIZZA)
    expect(page.locator("#offset")).to_have_text("3")


def test_a_count_window_can_be_chosen(page: Page, stack: Stack) -> None:
    stack.configure('[topics.">"]\nwindows = ["1m", "last 3"]\n')
    stack.start_aggregator()
    stack.start_web()
    _post(stack, "feedback", _PIZZA + _PIZZA)
    _open(page, stack, "#topic=feedback&field=rating")
    expect(page.locator('[data-tile="count"] dd')).to_have_attribute("data-value", "6")
    expect(page.locator("#window option")).to_have_text(["1 min", "3 events"])
    page.locator("#window").select_option("last 3")
    expect(page.locator('[data-tile="count"] dd')).to_have_attribute("data-value", "3")
    expect(page.locator('[data-tile="count"] dt')).to_have_text("Events")
    assert _shown(page) == _served(stack, "feedback", "rating", "last3")


def test_numbers_continue_after_a_killed_server_without_a_reload(page: Page, own_server: Stack) -> None:
    _post(own_server, "feedback", _PIZZA)
    _open(page, own_server, "#topic=feedback&window=15m&key=pizza&field=rating&statistic=mean")
    pizza = page.locator('tr[data-scope="key"][data-key="pizza"] td[data-column="mean"]')
    expect(pizza).to_have_text("3.25")
    page.evaluate("window.loadedOnce = true")

    _post(own_server, "feedback", {"key": "pizza", "rating": 5.5})
    expect(pizza).to_have_text("4.00")

    own_server.restart_web()
    last = _post(own_server, "feedback", {"key": "pie", "rating": 8})
    expect(page.locator("#offset")).to_have_text(str(last))
    expect(page.locator("#connection")).to_have_attribute("data-state", "open")
    expect(page.locator('tr[data-key="pie"]')).to_be_visible()
    assert page.evaluate("window.loadedOnce") is True
    assert _shown(page) == _served(own_server, "feedback", "rating", "15m")


def test_the_chart_ends_at_the_value_in_the_table(page: Page, shared_server: Stack, topic: str) -> None:
    _post(shared_server, topic, _PIZZA)
    _open(page, shared_server, f"#topic={topic}&window=15m")
    for key, statistic in ((None, "mean"), ("pizza", "sum"), ("soup", "max")):
        page.locator("#key").select_option(label=key or "All keys")
        page.locator("#statistic").select_option(statistic)
        for rating in (3, 7.25):
            last = _post(shared_server, topic, [{"key": "pizza", "rating": rating}, {"key": "soup", "rating": rating}])
            expect(page.locator("#offset")).to_have_text(str(last))
            seen = page.evaluate(_TABLE)
            cells = next(cells for row_key, _, cells in seen["rows"] if row_key == key)
            assert seen["last"] == cells[statistic]
            served = _served(shared_server, topic, "rating", "15m")[key][statistic]
            assert _number(seen["last"]) == served


def test_a_choice_is_kept_in_the_address(page: Page, shared_server: Stack, topic: str) -> None:
    _post(shared_server, topic, [{"key": "pizza", "rating": 4.5, "price": 9}, {"key": "soup", "rating": 1, "price": 3}])
    _open(page, shared_server, f"#topic={topic}")
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
    _post(own_server, "feedback", [{"key": hostile, hostile: 1}, {"key": "null", hostile: 2}])
    _open(page, own_server, "#topic=feedback&window=15m")
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
    last = _post(shared_server, topic, [{"key": f"s{i:04}", "t": i} for i in range(3_000)])
    _open(page, shared_server, f"#topic={topic}&window=15m&field=t&statistic=mean&sort=-max")
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
    _post(shared_server, topic, _PIZZA)
    refused: list[str] = []

    def refuse_once(route: Route) -> None:
        if refused:
            route.continue_()
        else:
            refused.append(route.request.url)
            route.fulfill(status=503)

    page.route("**/stats*", refuse_once)
    _open(page, shared_server, f"#topic={topic}&window=15m")
    expect(page.locator("#offset")).to_have_text("3")
    assert len(refused) == 1


def test_a_hidden_tab_closes_its_connections(page: Page, shared_server: Stack, topic: str) -> None:
    look = "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});" \
        " document.dispatchEvent(new Event('visibilitychange')); }"  # fmt: skip
    _post(shared_server, topic, _PIZZA)
    page.clock.install()
    _open(page, shared_server, f"#topic={topic}&window=15m")
    expect(page.locator("#offset")).to_have_text("3")

    page.evaluate(look, True)
    page.clock.fast_forward(31_000)
    expect(page.locator("#connection")).to_have_text("Paused")
    last = _post(shared_server, topic, {"key": "pie", "rating": 7})
    page.evaluate(look, False)

    expect(page.locator("#connection")).to_have_text("Live")
    expect(page.locator("#offset")).to_have_text(str(last))


def test_the_page_waits_for_a_deleted_topic(page: Page, shared_server: Stack, topic: str) -> None:
    _post(shared_server, topic, _PIZZA)
    _open(page, shared_server, f"#topic={topic}&window=15m")
    expect(page.locator("#offset")).to_have_text("3")
    assert shared_server.request("DELETE", f"/v1/topics/{topic}").status == 204
    expect(page.locator("#welcome")).to_be_visible()
    _post(shared_server, topic, {"key": "pie", "rating": 7})
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

    _post(shared_server, topic, [{"key": "UA", "delay": 4.5}, {"key": "AA", "delay": -2}])
    until(same)
    _post(shared_server, topic, [{"key": "UA", "delay": 1}, {"key": "DL", "air_time": 100}])
    until(same)
    shared_server.request("DELETE", f"/v1/topics/{topic}")
    _post(shared_server, topic, [{"key": "B6", "delay": 3}])
    until(same)
    assert page.evaluate("[...rows.keys()]").count('["UA","delay"]') == 0


def test_values_of_any_kind_are_shown_beside_the_numbers(page: Page, stack: Stack) -> None:
    stack.configure('[topics."orders"]\nvalues = ["user"]\nstatistics = ["distinct", "top", "last", "p50"]\n')
    stack.start_aggregator()
    stack.start_web()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    _post(stack, "orders", [{"key": "pizza", "user": user} for user in ("ann", "<b>bob</b>", "ann", True)])
    _open(page, stack, "#topic=orders&field=user&statistic=distinct")
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
