"""Events: their form, their rules, and the formats they arrive in. Only this room knows the attributes.

An event is a flat JSON object. ``id``, ``type``, ``time`` and ``key`` are attributes; all other members are data. These
rules settle what the formats leave open:

- An attribute that is ``null`` is absent; empty text is refused.
- A number as ``key`` or ``id`` becomes its text (``7`` is ``"7"``, ``7.0`` is ``"7.0"``).
- An integer of 64 bits (-2**63 to 2**64-1) is kept exactly; a longer one is refused, never rounded.
- If a JSON object repeats a name, the last value counts.
- A number too small for a double (``1e-999``) is zero; one too large (``1e999``) is refused.
- CSV: a column is data unless the query names it (``?time=when``). A column of data must not have the name of an
  attribute. Spaces belong to the cell. Empty lines are skipped.
- CloudEvents: ``id``, ``type`` and ``time`` are attributes, ``subject`` is the key, the members of ``data`` are data.
  ``source`` and extensions are data too. A member of ``data`` whose name is taken is kept as ``data.<name>``. In
  binary mode the attributes are headers, so an extension is always text.
"""

from pushsvc.event.batch import Batch
from pushsvc.event.formats import ParsedEvents, guess_media_type, parse
from pushsvc.event.model import FUTURE_ALLOWANCE, OVERFLOW_KEY, Event, Limits
from pushsvc.event.reader import EventReader, ParsedBatch

__all__ = [
    "FUTURE_ALLOWANCE", "OVERFLOW_KEY", "Batch", "Event", "EventReader", "Limits", "ParsedBatch", "ParsedEvents",
    "guess_media_type", "parse",
]  # fmt: skip
