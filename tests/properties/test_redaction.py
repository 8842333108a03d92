"""No token of a URL gets into a log, however its name is escaped."""

from __future__ import annotations

import json
import logging
from urllib.parse import parse_qsl, unquote

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.cli.terminal import JsonFormatter, VisibleFormatter
from pushsvc.web.redaction import redacted, redacted_query

NAME = st.tuples(*(st.sampled_from([letter, f"%{ord(letter):x}", f"%{ord(letter):X}"]) for letter in "token")).map(
    "".join
)
SECRET = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.", min_size=12, max_size=40)
PAIR = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="&#"), max_size=12)
PLAIN = st.text("abcxyz019=%.", max_size=12)


@given(NAME, SECRET, st.lists(PAIR, max_size=3), st.lists(PAIR, max_size=3))
def test_a_query_keeps_no_token(name: str, secret: str, before: list[str], after: list[str]) -> None:
    query = "&".join([*before, f"{name}={secret}", *after])
    shown = redacted_query(query)
    assert ("token", "***") in parse_qsl(shown)
    assert [value for key, value in parse_qsl(shown) if key == "token"] == ["***"] * shown.count("***")


@given(st.lists(PLAIN, max_size=4))
def test_a_query_without_a_token_is_kept(pairs: list[str]) -> None:
    query = "&".join(pairs)
    assert "token" in unquote(query) or redacted_query(query) == query


@given(NAME, SECRET)
def test_no_line_of_a_log_has_a_token(name: str, secret: str) -> None:
    text = f'203.0.113.7 "GET /v1/stream?events=a&{name}={secret}&stats=b" failed'
    record = logging.LogRecord("pushsvc", logging.INFO, "", 0, "%s", (text,), None)
    for formatter in (VisibleFormatter("%(message)s"), JsonFormatter("pushsvc")):
        line = formatter.format(record)
        assert secret not in line
        assert "***&stats=b" in line
    assert redacted(redacted(text)) == redacted(text)


@given(st.text(max_size=50))
def test_a_line_as_json_is_one_line_of_ascii_with_the_whole_message(text: str) -> None:
    record = logging.LogRecord("pushsvc", logging.ERROR, "", 0, "%s", (text,), None)
    line = JsonFormatter("pushsvc[1]").format(record)
    assert line.isascii()
    assert line.isprintable()
    found = json.loads(line)
    assert (found["level"], found["process"], found["message"]) == ("error", "pushsvc[1]", redacted(text))
