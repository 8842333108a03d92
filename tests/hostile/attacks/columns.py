"""A CSV body with 1.2 million columns, or with one row of as many cells."""

from __future__ import annotations

import string
from itertools import islice, product

from hostile.calls import Answer, post

NAME = "1.2 million CSV columns"
TOPIC = "hostile-columns"


def names(count: int) -> str:
    """Return different names of five characters."""
    letters = string.ascii_letters + string.digits
    return ",".join(map("".join, islice(product(letters, repeat=5), count)))


def attack(url: str, count: int = 1_200_000) -> list[Answer]:
    bodies = [names(count), "a,b\n" + "," * count, "a,b\n" + '"",' * count + "\n", names(5_000) + "\n1\n"]
    return [post(url, TOPIC, body.encode(), "text/csv") for body in bodies]
