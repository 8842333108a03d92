"""Events: their form, their rules, and the formats they arrive in. Only this package knows the attribute names.

An event is a flat JSON object. ``id``, ``type``, ``time`` and ``key`` are attributes, the rest is data. What the
formats leave open is settled here:

- ``null`` for an attribute is the same as leaving it out; empty text is refused.
- A number for ``key`` or ``id`` is taken as its text (``7`` is ``"7"``, ``7.0`` is ``"7.0"``).
- An integer must fit 64 bits (-2**63 to 2**64-1) and is then kept exactly; a longer one is refused, never rounded.
- Where a JSON object repeats a name, the last one counts.
- A number too small for a double (``1e-999``) is zero; one too large (``1e999``) is refused.
- CSV: without a name in the query (``?time=when``) a column is data, so no column may bear the name of an attribute
  it does not serve. Spaces belong to a cell. Empty lines are skipped.
- CloudEvents: ``id``, ``type`` and ``time`` are the attributes, ``subject`` is the key, ``data``'s members become data.
  ``source`` and extensions are data too; a member of ``data`` whose name is already taken is kept as ``data.<name>``.
"""

from pushsvc.event.batch import Batch
from pushsvc.event.formats import ParsedEvents, guess_media_type, parse
from pushsvc.event.model import ATTRIBUTES, FUTURE_ALLOWANCE, OVERFLOW_KEY, Event, Limits
from pushsvc.event.reader import EventReader, ParsedBatch

__all__ = [
    "ATTRIBUTES",
    "FUTURE_ALLOWANCE",
    "OVERFLOW_KEY",
    "Batch",
    "Event",
    "EventReader",
    "Limits",
    "ParsedBatch",
    "ParsedEvents",
    "guess_media_type",
    "parse",
]
