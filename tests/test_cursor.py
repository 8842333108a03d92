import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushsvc.cursor import MAX_LENGTH, Position, UnreadableCursor, decode, encode
from pushsvc.topic import PARTITIONS

positions = st.builds(Position, st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1))


@given(st.dictionaries(st.integers(0, PARTITIONS - 1), positions))
def test_what_is_encoded_is_decoded(given_positions):
    text = encode(given_positions)
    if len(text) <= MAX_LENGTH:
        assert decode(text) == given_positions


def test_all_partitions_of_one_redis_fit_in_600_bytes():
    all_partitions = {p: Position(2**32 - 1, 2**35 - 1) for p in range(PARTITIONS)}
    assert len(encode(all_partitions)) <= MAX_LENGTH


def test_one_topic_takes_a_few_bytes():
    assert len(encode({7: Position(2**32 - 1, 2**28)})) <= 20


@pytest.mark.parametrize("text", ["", "1234", "é", "AQ==x", "AQAAAAACAA", "A" * 601, "AQAAAAABQAE", "%%%"])
def test_what_is_not_a_cursor_is_refused(text):
    with pytest.raises(UnreadableCursor):
        decode(text)


@given(st.text(max_size=40))
def test_no_text_does_anything_but_decode_or_refuse(text):
    try:
        decode(text)
    except UnreadableCursor:
        return
