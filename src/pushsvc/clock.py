"""Times as text. A time is an integer of milliseconds since 1970-01-01T00:00Z; ``system_clock`` reads the present."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def format_time(milliseconds: int) -> str:
    """Return a time in milliseconds as text such as ``2026-01-31T12:00:00.000Z``."""
    second, rest = divmod(milliseconds, 1_000)
    return f"{_format_second(second)}.{rest:03d}Z"


@lru_cache(4_096)
def _format_second(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).isoformat(timespec="seconds").removesuffix("+00:00")


def parse_time(text: str) -> int:
    """Return the milliseconds of an RFC 3339 date-time with offset; raise ValueError with the reason."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("not an RFC 3339 time such as 2026-01-31T12:00:00Z") from None
    if instant.tzinfo is None:
        raise ValueError("the time has no offset: add Z or +hh:mm")
    if "T" not in text and "t" not in text and " " not in text:
        raise ValueError("not an RFC 3339 time such as 2026-01-31T12:00:00Z")
    return (instant - _EPOCH) // _MILLISECOND
