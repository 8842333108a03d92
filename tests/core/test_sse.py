import pytest

from pushsvc import sse
from pushsvc.sse import Decoder, Message

STREAMS = [
    (b"data: a\n\n", [Message("message", "a", "")]),
    (b"data:a\r\rdata: b\r\n\r\n", [Message("message", "a", ""), Message("message", "b", "")]),
    (b"id: 1\nevent: update\ndata: x\ndata:  y\n\n", [Message("update", "x\n y", "1")]),
    (b": comment\n\ndata\n\n", [Message("message", "", "")]),
    (b"id: 7\n\ndata: a\n\n", [Message("message", "a", "7")]),
    (b"event: lost\n\ndata: a\n\n", [Message("message", "a", "")]),
    (b"id: bad\0id\ndata: a\n\n", [Message("message", "a", "")]),
    (b"\xef\xbb\xbfdata: bom\n\n", [Message("message", "bom", "")]),
    ("data: a\u2028b\u0085c\n\n".encode(), [Message("message", "a\u2028b\u0085c", "")]),
    (b"data: unfinished\n", []),
]


def test_pieces_of_any_size_decode_to_the_same_messages():
    for stream, messages in STREAMS:
        for size in (1, 2, 3, 1_000):
            decoder = Decoder()
            got = [m for at in range(0, len(stream), size) for m in decoder.feed(stream[at : at + size])]
            assert got == messages, size


def test_messages_round_trip():
    for data, read in [
        ("", ""),
        ("a\nb", "a\nb"),
        ("a\r\nb\rc\n", "a\nb\nc\n"),
        ("\n", "\n"),
        (" x: y", " x: y"),
        ("\u2028\0é", "\u2028\0é"),
    ]:
        (message,) = Decoder().feed(sse.encode(data.encode(), event="Größe", id=" 7"))
        assert message == Message("Größe", read, " 7")


def test_an_id_or_name_cannot_inject_lines():
    for hostile in ["a\nb", "a\rb", "a\0b"]:
        with pytest.raises(ValueError, match="line end"):
            sse.encode(b"", event=hostile)
        with pytest.raises(ValueError, match="line end"):
            sse.with_id(b"data: a\n\n", hostile)


def test_comments_and_retry_dispatch_nothing_and_leave_the_next_message_alone():
    decoder = Decoder()
    lines = sse.retry(2000) + sse.comment("two\nlines")
    assert list(decoder.feed(lines)) == []
    assert (decoder.retry, decoder.comments) == (2000, 1)
    assert list(decoder.feed(lines + sse.encode(b"a", event="b", id="9"))) == [Message("b", "a", "9")]


@pytest.mark.parametrize("searched", [1, 2, 3, 7, 64, 65_536])
def test_label_is_the_first_member_of_each_message_but_heartbeats(monkeypatch, searched):
    """However many bytes are searched at once: lines end anywhere in them."""
    monkeypatch.setattr(sse, "_SEARCHED", searched)
    label = sse.Label(b'"events/a?key=\\n"', of_events=True)
    stream = b"".join([
        sse.retry(5), sse.comment("data: {"),
        sse.encode(b'{"$topic":"a","sub":"other"}', event="data: {", id="1"),
        sse.encode(b'{"$topic":"a","text":"id: 7"}', event="update"),
        sse.encode(b'{"$topic":"a"}', event="corrected", id="2"),
        sse.encode(b'{"topic":"a"}', event="reset"),
        sse.encode(b'{"at":1}', event="heartbeat", id="3"),
        sse.comment("end"),
    ])  # fmt: skip
    assert b"".join(label.apply(stream, lambda id: f"<{id}>")) == b"".join([
        sse.retry(5), sse.comment("data: {"),
        sse.encode(b'{"$sub":"events/a?key=\\n","$topic":"a","sub":"other"}', event="data: {", id="<1>"),
        sse.encode(b'{"$sub":"events/a?key=\\n","$topic":"a","text":"id: 7"}'),
        sse.encode(b'{"$sub":"events/a?key=\\n","$topic":"a"}', event="corrected", id="<2>"),
        sse.encode(b'{"sub":"events/a?key=\\n","topic":"a"}', event="reset"),
        sse.encode(b'{"at":1}', event="heartbeat", id="<3>"),
        sse.comment("end"),
    ])  # fmt: skip


def test_label_of_statistics_keeps_their_names():
    label = sse.Label(b'"stats/a"', of_events=False)
    assert b"".join(label.apply(sse.encode(b'{"topic":"a"}', event="update", id="1"), str)) == sse.encode(
        b'{"sub":"stats/a","topic":"a"}', event="update", id="1"
    )


def test_label_of_a_large_message_does_not_copy_its_data():
    data = b'{"topic":"a","data":"%b"}' % (b"x" * 1_000_000)
    message = sse.encode(data, event="snapshot", id="1")
    pieces = sse.Label(b'"stats/a"', of_events=False).apply(memoryview(message), str)
    assert b"".join(pieces) == sse.encode(b'{"sub":"stats/a",' + data[1:], event="snapshot", id="1")
    assert [piece.obj is message for piece in pieces if len(piece) > 1_000] == [True]
