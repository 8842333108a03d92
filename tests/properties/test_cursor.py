from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pushsvc.cursor import MAX_LENGTH, Position, UnreadableCursor, decode, encode, sequence_encoder
from pushsvc.topic import PARTITIONS

positions = st.builds(Position, st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1), st.booleans())


@given(st.dictionaries(st.integers(0, PARTITIONS - 1), positions))
def test_cursors_round_trip(given_positions):
    text = encode(given_positions)
    if len(text) <= MAX_LENGTH:
        found = decode(text)
        assert found == given_positions
        assert all(found[partition].partial == one.partial for partition, one in given_positions.items())


@given(st.dictionaries(st.integers(0, PARTITIONS - 1), positions), st.integers(0, PARTITIONS - 1), positions)
def test_sequence_encoder_returns_the_same_cursor_as_encode(given_positions, partition, position):
    cursors = sequence_encoder(given_positions, partition, position.epoch, partial=position.partial)
    for sequence in (0, 127, 128, position.sequence):
        at = replace(position, sequence=sequence)
        assert cursors(sequence) == encode({**given_positions, partition: at})


@given(st.text(max_size=40))
def test_any_text_is_decoded_or_unreadable(text):
    try:
        decode(text)
    except UnreadableCursor:
        return
