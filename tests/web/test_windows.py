"""Reading the windows of one answer."""

from pushsvc.broker.keys import Log
from pushsvc.web.windows import read_windows


def test_window_that_was_never_written_does_not_exist(broker):
    (window,) = read_windows(broker, [Log("topic", "1m")])
    assert not window.state.exists
    assert window.stale
    assert window.state.snapshot()["data"] == []
