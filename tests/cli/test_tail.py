"""The table of statistics on a terminal."""

from io import StringIO

from rich.console import Console

from pushsvc.cli.tail import StatisticsView

COLUMNS = ["key", "field", "count", "top", "last", "approximate"]


def test_the_table_shows_values_of_every_type() -> None:
    view = StatisticsView()
    rows = [
        [None, "v", 3, [["[/b]", 2], [True, 1]], "[red]", False],
        ["a", "v", 1, [], 2.5, True],
        ["a", None, 1, None, None, False],
    ]
    view.apply("snapshot", {"topic": "t", "window": "1m", "to": "now", "columns": COLUMNS, "data": rows})
    console = Console(width=120, record=True, file=StringIO())
    console.print(view.table())
    lines = [line.split("│")[1:-1] for line in console.export_text().splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["all", "v", "3", "[/b] (2), true (1)", "[red]", "false"],
        ["a", "events", "1", "", "", "false"],
        ["a", "v", "1", "", "2.5", "true"],
    ]
