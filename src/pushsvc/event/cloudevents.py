"""CloudEvents 1.0 as flat events: in the JSON format, and in the binary mode of HTTP, with attributes as headers."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_to_bytes

from pushsvc.event.model import ATTRIBUTES
from pushsvc.event.validator import InvalidEvent

HEADER_PREFIX = "ce-"
_NAMED = 60  # characters of a name that a fault repeats
_STRUCTURED = "application/cloudevents"
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
_BROKEN_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")


def is_structured(content_type: str) -> bool:
    """Return whether the body has the whole event or a batch of events. Headers ce-* are only copies then."""
    return content_type.lstrip().lower().startswith(_STRUCTURED)


def flatten(item: Any) -> Any:
    """Return a CloudEvent in JSON format as a flat event, or an InvalidEvent; other values stay as they are."""
    if type(item) is not dict:
        return item
    try:
        if "data_base64" in item:
            raise InvalidEvent("data_base64", "binary data is not supported: send `data` as a JSON object")
        data = item.pop("data", None)
        return join(_context_of(item), data)
    except InvalidEvent as refused:
        return refused


def read_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    """Return the attributes in the headers ce-* as members of a flat event. Their names are in lower case.

    Raise InvalidEvent, which names the header.
    """
    attributes = {name.removeprefix(HEADER_PREFIX): _decode(name[:_NAMED], value) for name, value in headers.items()}
    if "data" in attributes:
        raise InvalidEvent("ce-data", "no attribute has this name: the body is the data")
    try:
        return _context_of(attributes)
    except InvalidEvent as refused:
        raise InvalidEvent(f"{HEADER_PREFIX}{refused.field}", refused.detail) from None


def join(context: dict[str, Any], data: Any) -> dict[str, Any]:
    """Return a flat event; a member of ``data`` whose name is taken is kept as ``data.<name>``."""
    if type(data) is dict:
        inside = {f"data.{name}" if name in context or name in ATTRIBUTES else name: data[name] for name in data}
        return context | inside
    return context if data is None else context | {"data": data}


def header_of(field: str | None, context: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    """Return the header that a field of a flat event came from, or the field itself if it came from the body."""
    if field is None or field not in (name[:_NAMED] for name in context):
        return field
    return "ce-subject" if field == "key" and "ce-subject" in headers else f"{HEADER_PREFIX}{field}"


def _context_of(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a CloudEvent, which it takes over, as members of a flat event; raise InvalidEvent."""
    version = attributes.pop("specversion", None)
    if version != "1.0":
        missing = "CloudEvents require it: " if version is None else ""
        raise InvalidEvent("specversion", f'{missing}only version "1.0" of CloudEvents is supported')
    for name in ("id", "source", "type"):
        if type(attributes.get(name)) is not str or not attributes[name]:
            raise InvalidEvent(name, "CloudEvents require it, as text")
    subject = attributes.pop("subject", None)
    if subject is not None:
        if "key" in attributes:
            raise InvalidEvent("key", "the event has a subject too, and both would be the key")
        attributes["key"] = subject
    # These describe the format of the data, which is always JSON here.
    attributes.pop("datacontenttype", None)
    attributes.pop("dataschema", None)
    return attributes


def _decode(name: str, value: str) -> str:
    """Return the value of a header: without quotes, percent-decoded; raise InvalidEvent."""
    if not value.isascii():
        raise InvalidEvent(name, "not ASCII: encode the UTF-8 bytes of other characters as %XX")
    if value.startswith('"'):
        quoted = _QUOTED.fullmatch(value)
        if quoted is None:
            raise InvalidEvent(name, "a quotation mark without its end")
        value = _ESCAPED.sub(r"\1", quoted[1])
    if "%" not in value:
        return value
    if _BROKEN_ESCAPE.search(value):
        raise InvalidEvent(name, "a % without two hexadecimal digits: encode a percent sign as %25")
    try:
        return unquote_to_bytes(value).decode()
    except UnicodeDecodeError:
        raise InvalidEvent(name, "the percent-encoded bytes are not UTF-8") from None
