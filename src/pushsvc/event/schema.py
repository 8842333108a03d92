"""Learned schemas: the names that a topic's events had, as a msgspec Struct type that decodes such events.

Topics do not declare their fields, so both fast readers learn them: ``shapes`` reads request bodies, ``columns`` reads
stored events. Events that fit a schema are decoded into objects three times faster than into dictionaries. Any other
event makes msgspec raise; the reader then takes its slow path and extends the schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from pushsvc.event.model import ATTRIBUTES

NUMBER, NULL, OTHER, TEXT, NESTED, DEEP = 1, 2, 4, 8, 16, 32  # kinds of values, as bits
_DECODABLE_NAME = re.compile(r'[^"\\\x00-\x1f\x7f]*')  # names that msgspec accepts for a field

FieldType = tuple[Any, Any]  # the type of an attribute of the Struct and its default
TypeOf = Callable[[str], FieldType]


class Schema:
    """The ``attributes`` that occurred, and the ``kinds`` of values of each field, in the order of appearance.

    ``names`` has all names, ``identity`` also their kinds. ``slots`` maps a field to its attribute of the Struct: not
    every name is an identifier.
    """

    __slots__ = ("attributes", "identity", "kinds", "names", "slots")

    def __init__(self, attributes: Iterable[str] = (), kinds: Iterable[tuple[str, int]] = ()) -> None:
        self.attributes = tuple(sorted(attributes))
        self.kinds = dict(kinds)
        self.names = (*self.attributes, *self.kinds)
        self.identity = self.names, tuple(self.kinds.values())
        self.slots = {name: f"f{number}" for number, name in enumerate(self.kinds)}

    def extend(self, values: Iterable[tuple[str, int]], max_fields: int) -> Schema:
        """Return the schema with more names and kinds of values. Return this schema if none is new, if there are too
        many fields, or if msgspec cannot decode a name."""
        attributes, kinds = set(self.attributes), dict(self.kinds)
        for name, kind in values:
            if name in ATTRIBUTES:
                attributes.add(name)
            else:
                kinds[name] = kinds.get(name, 0) | kind
        is_new = kinds != self.kinds or len(attributes) > len(self.attributes)
        if not is_new or len(kinds) > max_fields or not all(map(_DECODABLE_NAME.fullmatch, kinds)):
            return self
        return Schema(attributes, kinds.items())

    def struct(self, attribute_type: TypeOf, field_type: TypeOf, *, omit_defaults: bool = False) -> type[Any]:
        """Return a Struct type that decodes events with these names and refuses all others."""
        members = [(name, *attribute_type(name)) for name in self.attributes]
        members += [(slot, *field_type(name)) for name, slot in self.slots.items()]
        names = {slot: name for name, slot in self.slots.items()}
        return msgspec.defstruct(
            "Event", members, rename=names, forbid_unknown_fields=True, omit_defaults=omit_defaults, gc=False
        )
