from pushsvc.frame import apply_frame, row_id_getter

COLUMNS = ["key", "field", "count"]


def test_rows_follow_snapshots_updates_and_resets():
    rows = {("old", None): ["old", None, 9]}
    apply_frame(rows, "snapshot", {"columns": COLUMNS, "data": [[None, None, 2], ["a", None, 2]]})
    apply_frame(rows, "update", {"columns": COLUMNS, "data": [["b", None, 1]], "gone": [["a", None], ["x", None]]})
    assert rows == {(None, None): [None, None, 2], ("b", None): ["b", None, 1]}
    apply_frame(rows, "heartbeat", {"at": 1})
    assert len(rows) == 2
    apply_frame(rows, "reset", {"topic": "t", "reason": "trimmed"})
    assert rows == {}


def test_a_row_id_includes_the_grouping_if_there_are_several():
    assert row_id_getter(COLUMNS)(["a", "x", 1]) == ("a", "x")
    assert row_id_getter([*COLUMNS, "by"])(["a", "x", 1, "carrier"]) == ("a", "x", "carrier")
