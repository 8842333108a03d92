import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pushsvc import sse
from pushsvc.hub import messages
from pushsvc.sse import Decoder, Message

TEXT = st.text().map(lambda text: text.encode("utf-8", "replace"))
PIECES = st.one_of(
    st.just(messages.OPENING),
    TEXT.map(sse.encode),
    TEXT.map(lambda data: sse.with_id(sse.encode(data, event="update"), "c")),
    st.builds(messages.heartbeat, st.booleans(), st.sampled_from([None, "c"])),
    st.text().map(messages.farewell),
    st.text().map(sse.comment),
    st.just(messages.reset("t", "deleted")),
)


@given(st.lists(PIECES))
def test_blank_line_stands_only_after_data(pieces):
    """Many clients take every blank line for the end of a message, and show one without data."""
    lines = re.split(r"\r\n|\r|\n", b"".join(pieces).decode())
    assert all(before.startswith("data: ") for before, line in pairwise(lines[:-1]) if not line)


@given(st.text(), st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1))
def test_messages_round_trip(data, name):
    message = next(iter(Decoder().feed(sse.encode(data.encode("utf-8", "replace"), event=name, id=name))))
    text = data.encode("utf-8", "replace").decode()
    assert message == Message(name, text.replace("\r\n", "\n").replace("\r", "\n"), name)
