"""Finds out what a request may do from the credentials that it presents."""

from collections import OrderedDict
from dataclasses import dataclass, replace
from hashlib import blake2b
from math import inf

from pushsvc.auth.api_keys import PREFIX, ApiKeys
from pushsvc.auth.grants import NOTHING, Grants
from pushsvc.auth.revocations import Revocations
from pushsvc.auth.tokens import LONGEST_TOKEN, Verifier
from pushsvc.errors import InvalidToken

LIFETIME = 30 * 86_400.0

REMEMBERED = 5_000_000
"""Characters of the credentials that a process remembers: they take about ten times their length of memory."""

RECHECK = 300.0
"""Seconds after which a token is verified again: its key may have been withdrawn."""


@dataclass(frozen=True, slots=True)
class Presented:
    """The credentials of a request: the header ``Authorization``, our cookie, and the query parameter ``token``."""

    authorization: str | None = None
    cookie: str | None = None
    parameter: str | None = None


NO_CREDENTIALS = Presented()


class Access:
    """Returns the grants of requests.

    The first of header, cookie and parameter that is there counts, whether it is valid or not. The parameter is refused
    unless ``accepts_parameter``: URLs get into logs. Every request may also do what ``anonymous`` may. Verified
    credentials of ``remembered`` characters together are remembered, each for ``recheck`` seconds.

    ``revocations`` are remembered for ``lifetime`` seconds, so no token holds for longer after its ``iat``.
    """

    def __init__(
        self,
        verifier: Verifier,
        keys: ApiKeys | None = None,
        anonymous: Grants = NOTHING,
        *,
        accepts_parameter: bool = False,
        remembered: int = REMEMBERED,
        recheck: float = RECHECK,
        lifetime: float = LIFETIME,
        asks_application: bool = False,
    ) -> None:
        self._verifier = verifier
        self._keys = keys or ApiKeys()
        self.anonymous = anonymous
        self._accepts_parameter = accepts_parameter
        self._remembered = remembered
        self._recheck = recheck
        self.lifetime = lifetime
        self._asks_application = asks_application
        self.revocations = Revocations()
        self._known: OrderedDict[bytes, tuple[Grants, int]] = OrderedDict()  # with their lengths
        self._size = 0

    def grants(self, presented: Presented, now: float) -> Grants:
        """Return the grants of a request at ``now`` (epoch seconds). Raise InvalidToken."""
        text = self._chosen(presented)
        if text is None:
            return self.anonymous
        if len(text) > LONGEST_TOKEN:
            raise InvalidToken(f"the token is longer than {LONGEST_TOKEN} characters")
        if not self.revocations.known:
            self.revocations.load()
        digest = blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()
        known = self._known.get(digest)
        if known is None or now >= known[0].recheck:
            self._forget(digest)
            grants = replace(self._find(text, now).plus(self.anonymous), recheck=now + self._recheck)
            self._remember(digest, grants, len(text))
        else:
            grants = known[0]
            self._known.move_to_end(digest)
        try:
            self.check_current(grants, now)
        except InvalidToken:
            self._forget(digest)
            raise
        return grants

    def _remember(self, digest: bytes, grants: Grants, length: int) -> None:
        self._forget(digest)  # another request may have verified it meanwhile
        self._known[digest] = grants, length
        self._size += length
        while self._size > self._remembered:
            self._forget(next(iter(self._known)))

    def _forget(self, digest: bytes) -> None:
        _, length = self._known.pop(digest, (None, 0))
        self._size -= length

    def is_current(self, grants: Grants, now: float) -> bool:
        """Return whether grants that were returned earlier may be used without a look at the token."""
        return now < grants.recheck and now < grants.expires and not self.revocations.refuses(grants)

    def check_current(self, grants: Grants, now: float) -> None:
        """Raise InvalidToken if grants do not hold any more."""
        if now >= grants.expires:
            raise InvalidToken("the token has expired")
        if self.revocations.refuses(grants):
            raise InvalidToken("the access of this subject was revoked after the token was issued")

    def decides(self, presented: Presented) -> bool:
        """Return whether the credentials of a request are looked at here, and not by the operator's application.

        If it is asked at all, it decides about requests without credentials and, without issuers, about all but those
        with an API key.
        """
        if not self._asks_application:
            return True
        if presented == NO_CREDENTIALS or self._verifier.has_issuers:
            return presented != NO_CREDENTIALS
        try:
            text = self._chosen(presented)
        except InvalidToken:
            return False
        return text is not None and text.startswith(PREFIX)

    def _chosen(self, presented: Presented) -> str | None:
        """Return the token or key that counts; None without any."""
        if presented.authorization is not None:
            scheme, _, text = presented.authorization.partition(" ")
            if scheme.lower() != "bearer" or not (text := text.strip()):
                raise InvalidToken("Authorization: Bearer and a token or key are expected")
            return text
        if presented.cookie is not None:
            return presented.cookie
        if presented.parameter is not None and not self._accepts_parameter:
            raise InvalidToken("token: this server takes no token in the URL")
        return presented.parameter

    def _find(self, text: str, now: float) -> Grants:
        if text.startswith(PREFIX):
            return self._keys.grants(text)
        grants = self._verifier.grants(text, now)
        if grants.issued is not None:
            return replace(grants, expires=min(grants.expires, grants.issued + self.lifetime))
        if now + self.lifetime < grants.expires < inf:
            raise InvalidToken(f"the token has no iat, and is valid for more than {self.lifetime:.0f} s from now")
        return grants
