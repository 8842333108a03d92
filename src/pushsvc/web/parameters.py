"""Query parameters and formats. Unknown names are refused, so that no misspelled one is silently ignored."""

import re
from collections.abc import Iterable

from flask import Request
from werkzeug.datastructures import MultiDict

from pushsvc.clock import parse_time
from pushsvc.errors import InvalidParameter, NotAcceptable
from pushsvc.sse import MEDIA_TYPE as EVENT_STREAM

FORMATS = {"sse": EVENT_STREAM, "json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv"}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Parameters:
    """The query ``args`` of one request. Raise InvalidParameter for names outside ``allowed`` and for bad values."""

    def __init__(self, args: MultiDict[str, str], allowed: Iterable[str]) -> None:
        self._args = args
        known = frozenset(allowed)
        for name in self._args:
            if name not in known:
                raise InvalidParameter(name, f"not supported here; supported are {', '.join(sorted(known)) or 'none'}")

    def text(self, name: str) -> str | None:
        values = self._args.getlist(name)
        if len(values) > 1:
            raise InvalidParameter(name, "given more than once")
        return values[0] if values else None

    def texts(self, name: str) -> list[str]:
        return self._args.getlist(name)

    def choice(self, name: str, choices: Iterable[str], default: str) -> str:
        value = self.text(name)
        if value is None:
            return default
        if value not in choices:
            raise InvalidParameter(name, f"{value!r} is none of {', '.join(choices)}")
        return value

    def integer(self, name: str, default: int | None, least: int, most: int) -> int | None:
        value = self.text(name)
        if value is None:
            return default
        if not re.fullmatch(r"[0-9]{1,18}", value) or not least <= int(value) <= most:
            raise InvalidParameter(name, f"{value!r} is not a whole number from {least} to {most}")
        return int(value)

    def duration(self, name: str, least: float, most: float) -> float:
        """Return a duration such as 500ms, 1s, 1m or 1h in seconds; 0 without one."""
        value = self.text(name)
        if value is None:
            return 0.0
        found = re.fullmatch(r"([0-9]{1,9})(ms|s|m|h)", value)
        seconds = int(found[1]) * _SECONDS[found[2]] if found else 0.0
        if not least <= seconds <= most:
            raise InvalidParameter(
                name, f"{value!r} is not a duration such as 500ms, 1s or 1m, from {least:g} to {most:g} seconds"
            )
        return seconds

    def time(self, name: str) -> int | None:
        """Return an RFC 3339 time or epoch milliseconds in ms; None without one."""
        value = self.text(name)
        if value is None:
            return None
        if re.fullmatch(r"[0-9]{1,15}", value):
            if int(value) < 100_000_000_000:
                raise InvalidParameter(name, "seconds? milliseconds are expected")
            return int(value)
        try:
            return parse_time(value.replace(" ", "+"))
        except ValueError as error:
            raise InvalidParameter(name, str(error)) from None

    def refuse(self, names: Iterable[str], reason: str) -> None:
        """Refuse parameters that have no meaning here."""
        for name in names:
            if name in self._args:
                raise InvalidParameter(name, reason)


def is_spreadsheet_safe(request: Request, parameters: Parameters) -> bool:
    """Return whether a CSV table must not contain formulas: ``?formulas=escape``, and by default what browsers load.

    Browsers send ``Sec-Fetch-Mode``, but over plain HTTP only to the own machine.
    """
    asked = parameters.choice("formulas", ("escape", "keep"), "")
    if asked:
        return asked == "escape"
    return "Sec-Fetch-Mode" in request.headers or request.headers.get("User-Agent", "").startswith("Mozilla/")


def cursor_of(last_event_id: str | None, parameters: Parameters) -> str | None:
    """Return the cursor to resume from. The header ``Last-Event-ID`` wins over the parameter."""
    return last_event_id or parameters.text("last_event_id") or None


def choose_format(request: Request, parameters: Parameters, offered: tuple[str, ...], suffix: str | None = None) -> str:
    """Return the format. The suffix of the URL or ``?format=`` wins over ``Accept``; without all three it is JSON."""
    asked = parameters.text("format")
    if suffix is not None:
        if asked not in (None, suffix):
            raise InvalidParameter("format", f"{asked!r} contradicts the suffix .{suffix} of the URL")
        return suffix
    if asked is not None:
        if asked not in offered:
            raise InvalidParameter("format", f"{asked!r} is none of {', '.join(offered)}")
        return asked
    types = {FORMATS[name]: name for name in ("json", *offered)}
    if not request.accept_mimetypes:
        return "json"
    best = request.accept_mimetypes.best_match(list(types))
    if best is None:
        raise NotAcceptable(f"available formats: {', '.join(FORMATS[name] for name in offered)}")
    return types[best]
