from hypothesis import given
from hypothesis import strategies as st

from pushsvc import sse
from pushsvc.sse import Decoder, Message


@given(st.text(), st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1))
def test_messages_round_trip(data, name):
    message = next(iter(Decoder().feed(sse.encode(data.encode("utf-8", "replace"), event=name, id=name))))
    text = data.encode("utf-8", "replace").decode()
    assert message == Message(name, text.replace("\r\n", "\n").replace("\r", "\n"), name)
