from base64 import b64decode

import pytest

from pushsvc.cursor import MAX_LENGTH, Position, UnreadableCursor, decode, decode_with_digest, encode
from pushsvc.topic import PARTITIONS


def test_cursors_round_trip():
    for positions in [
        {},
        {0: Position(0, 0)},
        {5: Position(1, 127), 9: Position(1, 128), 63: Position(2**32 - 1, 2**63 - 1), 6: Position(2, 1)},
    ]:
        assert decode(encode(positions)) == positions


def test_all_partitions_of_one_redis_fit_in_600_bytes():
    all_partitions = {p: Position(2**32 - 1, 2**35 - 1) for p in range(PARTITIONS)}
    assert len(encode(all_partitions)) <= MAX_LENGTH


def test_a_cursor_of_one_topic_is_short():
    assert len(encode({7: Position(2**32 - 1, 2**28)})) <= 20


def test_digest_is_read_back_and_an_older_process_cannot_read_the_cursor():
    """The first byte is the version, which processes of version 1 compare before anything else."""
    positions = {5: Position(1, 127), 9: Position(7, 128)}
    assert decode_with_digest(encode(positions, b"abcdefgh")) == (positions, b"abcdefgh")
    assert decode_with_digest(encode(positions)) == (positions, b"")
    assert [b64decode(encode(positions, digest) + "==", "-_")[0] for digest in (b"", b"abcdefgh")] == [1, 2]
    assert encode({5: Position(1, 300)}) == "AQAAAAEBBawC"  # as ever: cursors are kept by clients


def test_all_partitions_with_a_digest_fit_in_600_bytes():
    all_partitions = {p: Position(2**32 - 1, 2**35 - 1) for p in range(PARTITIONS)}
    assert len(encode(all_partitions, b"abcdefgh")) <= MAX_LENGTH


def test_any_other_text_is_unreadable():
    for text in [
        "",
        "1234",
        "é",
        "AQ==x",
        "AQAAAAACAA",
        "A" * 601,
        "AQAAAAABgAE",
        "%%%",
        "AQAAAAABAICAgICAgICAgIAB",
        "Ag",
        "AmFiY2RlZg",
    ]:
        with pytest.raises(UnreadableCursor):
            raise AssertionError(f"{text!r} is {decode(text)}")
