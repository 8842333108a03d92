from hypothesis import given
from hypothesis import strategies as st

from pushsvc.broker.checkpoints import pieces_of


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_parts_of_any_size_are_cut_into_pieces_of_one_size(parts):
    pieces = list(pieces_of(parts, 10))
    assert b"".join(pieces) == b"".join(parts)
    assert {len(piece) for piece in pieces[:-1]} <= {10}
    assert all(0 < len(piece) <= 10 for piece in pieces[-1:])
