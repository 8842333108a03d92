from pushsvc.stats.window import Window


def accepted(texts):
    """Return the texts that are parsed as windows."""
    return [text for text in texts if "window" not in error_of(text)]


def error_of(text):
    try:
        Window.parse(text)
    except ValueError as error:
        return str(error)
    return "accepted"


def test_a_window_is_sixty_panes_of_at_least_250_ms():
    for text, length, pane, panes in [
        ("10s", 10_000, 250, 40),
        ("1m", 60_000, 1_000, 60),
        ("90s", 90_000, 1_500, 60),
        ("24h", 86_400_000, 1_440_000, 60),
    ]:
        window = Window.parse(text)
        assert (window.name, window.length, window.pane, window.panes) == (text, length, pane, panes)


def test_invalid_windows_are_refused():
    assert accepted(["", "1", "m", "0m", "-1m", "1.5m", "1m ", "1M", "9s", "25h", "2d", "1m\n", "11111111s"]) == []


def test_count_windows_are_parsed():
    for text, events in [
        ("last 2", 2),
        ("last 1000", 1_000),
        ("last1000", 1_000),
        ("last   0050", 50),
        ("last 100000", 100_000),
    ]:
        window = Window.parse(text)
        assert (window.name, window.length, window.events) == (f"last {events}", 0, events)
        assert window.exact() == window


def test_invalid_count_windows_are_refused():
    assert accepted(["last", "last 0", "last 1", "last 100001", "last -5", "last 1.5", "last 5m", "Last 5"]) == []


def test_an_exact_window_has_panes_of_a_millisecond():
    window = Window.parse("90s").exact()
    assert (window.name, window.length, window.pane, window.panes) == ("90s", 90_000, 1, 90_000)
