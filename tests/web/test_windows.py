"""Reading the windows of one answer."""

from pushsvc.broker.keys import Log
from pushsvc.pause import no_pause
from pushsvc.web.windows import read_stored_windows, wait_current


def test_window_that_was_never_written_does_not_exist(broker):
    logs = [Log("topic", "1m")]
    (window,) = read_stored_windows(broker, logs, wait_current(broker, logs), no_pause)
    assert not window.stored.exists
    assert window.stale
    assert window.stored.snapshot()["data"] == []
