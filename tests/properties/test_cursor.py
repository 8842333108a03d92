from base64 import urlsafe_b64encode

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from pushsvc.cursor import (
    DIGEST_LENGTH,
    MAX_LENGTH,
    Position,
    UnreadableCursor,
    combine,
    decode,
    decode_with_digest,
    encode,
    name_of,
    sequence_encoder,
    split,
)
from pushsvc.topic import PARTITIONS

positions = st.builds(Position, st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1), st.booleans())


digests = st.sampled_from([b"", b"abcdefgh", bytes(8)])


@given(st.dictionaries(st.integers(0, PARTITIONS - 1), positions), digests)
def test_cursors_round_trip(given_positions, digest):
    text = encode(given_positions, digest)
    if len(text) <= MAX_LENGTH:
        found = decode(text)
        assert found == given_positions
        assert decode_with_digest(text)[1] == digest
        assert all(found[partition].partial == one.partial for partition, one in given_positions.items())


@given(st.dictionaries(st.integers(0, PARTITIONS - 1), positions), st.integers(0, PARTITIONS - 1), positions, digests)
def test_sequence_encoder_returns_the_same_cursor_as_encode(given_positions, partition, position, digest):
    cursors = sequence_encoder(given_positions, partition, position.epoch, partial=position.partial, digest=digest)
    for sequence in (0, 127, 128, position.sequence):
        at = replace(position, sequence=sequence)
        assert cursors(sequence) == encode({**given_positions, partition: at}, digest)


encoded = st.builds(
    lambda version, raw: urlsafe_b64encode(version + raw).decode().rstrip("="),
    st.sampled_from([b"", b"\1", b"\2abcdefgh"]),
    st.lists(st.binary(max_size=12) | st.sampled_from([b"\0\0\0\1\1\0", b"\xff" * 9, b"\x7f", b"\1"])).map(b"".join),
)


@given(st.text(max_size=40) | encoded)
def test_any_text_is_decoded_or_unreadable(text):
    try:
        found, digest = decode_with_digest(text)
    except UnreadableCursor:
        return
    assert len(digest) in (0, DIGEST_LENGTH)
    assert all(0 <= partition < PARTITIONS for partition in found)
    assert all(0 <= one.epoch < 2**32 and 0 <= one.sequence < 2**63 for one in found.values())
    again = encode(found, digest)
    assert decode(again) == found


@given(st.dictionaries(st.text(), st.dictionaries(st.integers(0, PARTITIONS - 1), positions, max_size=8), max_size=32))
def test_cursors_of_subscriptions_are_found_by_their_texts(given_positions):
    cursors = {name_of(text): encode(one) if one else "" for text, one in given_positions.items()}
    text = combine(name + cursor for name, cursor in cursors.items())
    if cursors:
        assert split(text) == cursors
    try:
        decode(text)
    except UnreadableCursor:
        return
    raise AssertionError("it is no cursor of one subscription")


@given(st.text(st.sampled_from("s.abcdeZ09-_=\n ~"), max_size=40) | st.text())
def test_any_text_splits_into_parts_of_the_same_text_or_is_unreadable(text):
    try:
        found = split(text)
    except UnreadableCursor:
        return
    assert {part[:6] for part in text.split(".")[1:]} == found.keys()
