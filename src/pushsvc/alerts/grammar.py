"""Reads conditions such as ``mean(rating, 5m) < 3 and count(5m) >= 5``.

::

    condition   one or several, joined by: not, and, or, ( )
    comparison  number (< <= > >= = !=) number
    number      3, -0.5, 2e6, statistic, or several joined by: + - * / ( )
    statistic   name(window), name(field, window), and at the end of both: key="pizza" or key=*
    window      5m, last 100
    event rule  event.field (< <= > >= = != ~) value;  value: a number, "text", true, false
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from pushsvc.alerts.condition import (
    Arithmetic,
    Comparison,
    EventTest,
    Junction,
    Negative,
    Node,
    Not,
    Number,
    Statistic,
    leaves,
)
from pushsvc.errors import InvalidParameter
from pushsvc.event.conditions import parse_condition
from pushsvc.stats.statistic_names import percent_of

LONGEST = 1_000
"""Most characters of a condition."""

MOST_TERMS = 100
"""Most statistics, numbers and event tests of a condition."""

DEEPEST = 20
"""Most parentheses, ``not`` and signs that a term may stand within."""

STATISTICS = ("count", "rate", "sum", "mean", "min", "max", "std", "p1 to p99", "distinct")
_WITHOUT_FIELD = ("count", "rate")
_TOKEN = re.compile(
    r"\s*+(?:(?P<window>\d{1,9}[smhd]\b)|(?P<number>\d++(?:\.\d++)?+(?:[eE][+-]?\d{1,3})?+)(?![\w.])"
    r'|(?P<text>"(?:[^"\\]|\\.)*+")|(?P<event>event\.(?:[^\W\d][\w.]*+|"(?:[^"\\]|\\.)*+"))'
    r"|(?P<name>[^\W\d][\w.]*+)|(?P<sign><=|>=|!=|==|[-<>=~+*/(),])|(?P<end>\Z))"
)
_SIGNS = ("<", "<=", ">", ">=", "=", "!=")
_PLAIN = re.compile(r"[^=!<>~]+")


class InvalidCondition(ValueError):
    """A condition is invalid. ``fault`` is the name of the error, ``position`` its place from 1."""

    def __init__(self, fault: str, position: int, detail: str) -> None:
        super().__init__(f"at character {position}: {detail}")
        self.fault = fault
        self.position = position


class Token(NamedTuple):
    kind: str
    text: str
    position: int  # from 1


def parse(text: str) -> Node:
    """Return the tree of a condition; raise InvalidCondition."""
    if len(text) > LONGEST:
        raise InvalidCondition("too-long", LONGEST + 1, f"a condition has at most {LONGEST} characters")
    tree = _Parser(_tokens(text)).whole()
    kinds = {type(leaf) for leaf in leaves(tree)}
    if not kinds:
        raise InvalidCondition("constant", 1, "a condition has a statistic such as count(5m), or an event.field")
    if len(kinds) > 1:
        second = next(leaf for leaf in leaves(tree) if type(leaf) is not type(next(leaves(tree))))
        raise InvalidCondition(
            "mixed", second.position, "a condition is about statistics or about single events, not about both"
        )
    return tree


def _tokens(text: str) -> list[Token]:
    found: list[Token] = []
    place = 0
    while not found or found[-1].kind != "end":
        match = _TOKEN.match(text, place)
        if not match or match.lastgroup is None:
            place += len(text[place:]) - len(text[place:].lstrip())
            raise InvalidCondition("unreadable", place + 1, f"{text[place : place + 20]!r} cannot be read")
        found.append(Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup) + 1))
        place = match.end()
    return found


_Rule = Callable[[], tuple[Node, Token]]


class _Parser:
    """A recursive descent over tokens. ``depth`` bounds the recursion."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._terms = 0

    def whole(self) -> Node:
        tree = self._condition(self._any())
        if self._now.kind != "end":
            raise self._unexpected("and, or, or the end of the condition")
        return tree

    @property
    def _now(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
        token = self._now
        self._at += token.kind != "end"
        return token

    def _accept(self, *texts: str) -> str | None:
        """Return the next token if it is one of these signs or words."""
        if self._now.kind in ("sign", "name") and self._now.text in texts:
            return self._take().text
        return None

    def _expect(self, sign: str) -> None:
        if not self._accept(sign):
            raise self._unexpected(sign)

    def _unexpected(self, expected: str) -> InvalidCondition:
        token = self._now
        given = "the condition ends" if token.kind == "end" else f"{token.text[:50]!r} stands"
        return InvalidCondition("unexpected", token.position, f"{given} where {expected} is expected")

    def _condition(self, node: tuple[Node, Token]) -> Node:
        """Return a node that must be a condition, not a number."""
        tree, first = node
        if isinstance(tree, Number | Statistic | Negative | Arithmetic):
            raise InvalidCondition(
                "not-a-condition", first.position, f"{first.text[:50]!r} begins a number; compare it, as in … > 3"
            )
        return tree

    def _number(self, node: tuple[Node, Token]) -> Node:
        """Return a node that must be a number, not a condition."""
        tree, first = node
        if not isinstance(tree, Number | Statistic | Negative | Arithmetic):
            raise InvalidCondition(
                "not-a-number", first.position, f"{first.text[:50]!r} begins a condition, not a number"
            )
        return tree

    def _any(self) -> tuple[Node, Token]:
        return self._joined("or", self._all)

    def _all(self) -> tuple[Node, Token]:
        return self._joined("and", self._negation)

    def _joined(self, word: str, operand: _Rule) -> tuple[Node, Token]:
        first = self._now
        found = operand()
        if self._now.text != word or self._now.kind != "name":
            return found
        operands = [self._condition(found)]
        while self._accept(word):
            operands.append(self._condition(operand()))
        return Junction(word == "and", tuple(operands)), first

    def _negation(self) -> tuple[Node, Token]:
        first = self._now
        if self._accept("not"):
            self._enter(first)
            operand = self._condition(self._negation())
            self._depth -= 1
            return Not(operand), first
        return self._comparison()

    def _enter(self, token: Token) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise InvalidCondition("too-deep", token.position, f"terms stand within at most {DEEPEST} others")

    def _comparison(self) -> tuple[Node, Token]:
        if self._now.kind == "event":
            return self._event_test()
        first = self._now
        found = self._sum()
        if sign := self._accept(*_SIGNS, "=="):
            left = self._number(found)
            right = self._number(self._sum())
            found = Comparison("=" if sign == "==" else sign, left, right), first
            if self._now.kind == "sign" and self._now.text in _SIGNS:
                raise InvalidCondition(
                    "chained", self._now.position, "a comparison has two sides; join two of them by and"
                )
        return found

    def _event_test(self) -> tuple[Node, Token]:
        token = self._take()
        name = token.text.removeprefix("event.")
        name = _unquoted(Token("text", name, token.position)) if name.startswith('"') else name
        if not _PLAIN.fullmatch(name) or name.startswith("$"):
            raise InvalidCondition("unknown-field", token.position, f"{name[:50]!r} cannot be the name of a field")
        sign = self._accept(*_SIGNS, "==", "~")
        if not sign:
            raise self._unexpected("one of < <= > >= = != ~")
        literal = self._literal()
        self._count(token)
        try:
            test = parse_condition(f"{name}{'=' if sign == '==' else sign}{literal}")
        except InvalidParameter as error:
            raise InvalidCondition("invalid-test", token.position, error.detail.removeprefix("where: ")) from None
        return EventTest(name, test, token.position), token

    def _literal(self) -> str:
        """Return a value of an event test as JSON."""
        minus = "-" if self._accept("-") else ""
        token = self._now
        if token.kind == "number":
            return minus + self._take().text
        if not minus and token.kind == "text":
            return json.dumps(_unquoted(self._take()), ensure_ascii=False)
        if not minus and token.kind == "name" and token.text in ("true", "false"):
            return self._take().text
        raise self._unexpected('a number, "text", true or false')

    def _sum(self) -> tuple[Node, Token]:
        return self._operations(("+", "-"), lambda: self._operations(("*", "/"), self._signed))

    def _operations(self, signs: tuple[str, str], operand: _Rule) -> tuple[Node, Token]:
        found, first = operand()
        while sign := self._accept(*signs):
            found = Arithmetic(sign, self._number((found, first)), self._number(operand()))
        return found, first

    def _signed(self) -> tuple[Node, Token]:
        first = self._now
        if self._accept("-"):
            self._enter(first)
            operand = self._number(self._signed())
            self._depth -= 1
            return Negative(operand), first
        return self._term()

    def _term(self) -> tuple[Node, Token]:
        token = self._now
        self._count(token)
        if token.kind == "number":
            value = float(self._take().text)
            if value == float("inf"):
                raise InvalidCondition("too-large", token.position, "this number is too large")
            return Number(value), token
        if self._accept("("):
            self._enter(token)
            found, _ = self._any()
            self._expect(")")
            self._depth -= 1
            return found, token
        if token.kind == "event":
            raise InvalidCondition(
                "mixed", token.position, "an event.field is compared with a value, as in event.x > 3"
            )
        if token.kind == "name" and token.text not in ("and", "or", "not"):
            return self._statistic(), token
        raise self._unexpected("a statistic, a number or (")

    def _count(self, token: Token) -> None:
        self._terms += 1
        if self._terms > MOST_TERMS:
            raise InvalidCondition("too-many-terms", token.position, f"a condition has at most {MOST_TERMS} terms")

    def _statistic(self) -> Node:
        token = self._take()
        name = token.text
        known = name in STATISTICS or percent_of(name)
        if not known or self._now.text != "(":
            raise InvalidCondition(
                "unknown-statistic", token.position,
                f"{name[:50]!r} is no statistic; they are {', '.join(STATISTICS)}, each of a window: mean(x, 5m)",
            )  # fmt: skip
        self._take()
        places, window = [self._place()], ""
        key: str | None = None
        all_keys = False
        while self._accept(","):
            if self._now.text == "key" and self._tokens[self._at + 1].text == "=":
                self._at += 2
                all_keys = bool(self._accept("*"))
                if not all_keys:
                    if self._now.kind != "text":
                        raise self._unexpected("a key in quotes or *")
                    key = _unquoted(self._take())
                break
            if len(places) == 2:
                raise self._unexpected("key= or )")
            places.append(self._place())
        self._expect(")")
        window = places[-1].text
        field = places[0].text if len(places) == 2 else None
        if field is None and name not in _WITHOUT_FIELD:
            raise InvalidCondition(
                "missing-field", token.position, f"{name} needs a field and a window, as in {name}(rating, 5m)"
            )
        return Statistic(name, field, window, key, all_keys, token.position)

    def _place(self) -> Token:
        """Return a field or a window."""
        token = self._now
        if token.kind == "text":
            return self._take()._replace(text=_unquoted(token))
        if token.kind not in ("name", "window"):
            raise self._unexpected("a field or a window such as 5m")
        self._take()
        if token.text == "last" and self._now.kind == "number":
            return token._replace(text=f"last {self._take().text}")
        return token


def _unquoted(token: Token) -> str:
    """Return the text between double quotes."""
    try:
        return str(json.loads(token.text))
    except ValueError:
        raise InvalidCondition("unreadable", token.position, f"{token.text[:50]} is no text as in JSON") from None
