import pytest

from pushsvc.stats.window import Window


@pytest.mark.parametrize(
    ("text", "length", "pane", "panes"),
    [
        ("10s", 10_000, 250, 40),
        ("1m", 60_000, 1_000, 60),
        ("90s", 90_000, 1_500, 60),
        ("24h", 86_400_000, 1_440_000, 60),
    ],
)
def test_a_window_is_sixty_panes_of_at_least_250_ms(text, length, pane, panes):
    window = Window.parse(text)
    assert (window.name, window.length, window.pane, window.panes) == (text, length, pane, panes)


@pytest.mark.parametrize(
    "text", ["", "1", "m", "0m", "-1m", "1.5m", "1m ", "1M", "9s", "25h", "2d", "1m\n", "11111111s"]
)
def test_what_is_no_window_is_refused(text):
    with pytest.raises(ValueError, match="window"):
        Window.parse(text)
