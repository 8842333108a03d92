"""Tokens of revoked subjects."""

from pushsvc.auth.grants import Grants
from pushsvc.auth.revocations import Revocations


def test_tokens_issued_until_the_revocation_are_refused() -> None:
    revoked = Revocations()
    assert revoked.add("u42", 1_000.5)
    assert not revoked.add("u42", 1_000)
    for issued, expected in ((999.0, True), (1_000.0, True), (1_001.0, False), (None, True)):
        assert revoked.refuses(Grants(subject="u42", issued=issued)) is expected
    assert not revoked.refuses(Grants(subject="u43"))


def test_old_revocations_are_forgotten_when_the_list_is_complete() -> None:
    revoked = Revocations()
    revoked.known = False
    for subject, time in (("old", 1.0), ("a", 5.0), ("b", 6.0)):
        assert revoked.add(subject, time)
    before = revoked.generation
    assert not revoked.add("b", 6.0)
    assert revoked.generation == before
    revoked.complete(oldest=5.0)
    assert [one for one in ("old", "a", "b", "c") if revoked.refuses(Grants(subject=one))] == ["a", "b"]
    assert revoked.known
