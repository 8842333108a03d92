"""Topic names, patterns of them, and the partition of a topic."""

import re
from zlib import crc32

from pushsvc.errors import InvalidTopic

PARTITIONS = 64  # stored in Redis; never changes for a data set
MAX_LENGTH = 200
_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\Z")
_PATTERN = re.compile(r"(?:[A-Za-z0-9_-]+|\*)(?:\.(?:[A-Za-z0-9_-]+|\*))*(?:\.>)?\Z|>\Z")


def check_topic(name: str) -> str:
    """Return ``name`` if it has 1–200 of ``A-Z a-z 0-9 _ -`` in segments separated by dots; raise InvalidTopic."""
    if len(name) > MAX_LENGTH:
        raise InvalidTopic(f"a topic has at most {MAX_LENGTH} characters, this one has {len(name)}")
    if not _NAME.match(name):
        raise InvalidTopic(f"{name!r} is not a topic: use A-Z a-z 0-9 _ - in segments separated by single dots")
    return name


def check_pattern(pattern: str) -> str:
    """Return ``pattern`` if it is a topic or has ``*`` for single segments or a final ``>``; raise InvalidTopic."""
    if len(pattern) > MAX_LENGTH or not _PATTERN.match(pattern):
        raise InvalidTopic(
            f"{pattern!r} is not a topic or pattern: '*' stands for one segment, a final '>' for the rest"
        )
    return pattern


def matches(pattern: str, topic: str) -> bool:
    """Return whether a pattern matches: ``a.*`` matches ``a.b``; ``a.>`` matches ``a.b`` and ``a.b.c``."""
    wanted, given = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted = wanted[:-1]
        if len(given) <= len(wanted):
            return False
        given = given[: len(wanted)]
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


def partition_of(topic: str) -> int:
    """Return the partition (0–63) of a topic: the CRC-32 of its name modulo their number."""
    return crc32(topic.encode()) % PARTITIONS


def is_pattern(name: str) -> bool:
    """Return whether a name is a pattern and not a topic."""
    return "*" in name or ">" in name
