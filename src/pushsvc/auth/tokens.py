"""Verifies JSON Web Tokens (RFC 7519) and reads their grants.

The algorithm belongs to the key, and the token's own word on it only chooses among the keys that may verify it: a
token cannot have its signature checked in another way than the operator meant (RFC 8725, 3.1).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import jwt

from pushsvc.auth.grants import Grants, InvalidGrants, read_grants
from pushsvc.errors import InvalidSetting, InvalidToken

CLAIM = "pushsvc"
LONGEST_TOKEN = 8_192
"""Most characters of a token."""

ALGORITHMS = ("HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "EdDSA")
_SHORT_SECRET = 32
LONGEST_SUBJECT = 200
_LATEST = 1e12
"""The greatest time that a claim may hold, in epoch seconds: beyond the year 30,000."""

_ONLY_THE_SIGNATURE: Any = {f"verify_{name}": False for name in ("aud", "exp", "iat", "iss", "jti", "nbf", "sub")}
# Beside the errors of PyJWT: characters that are no text (UnicodeError), and values that nest too deep.
_UNREADABLE = (jwt.PyJWTError, ValueError, RecursionError)


@dataclass(frozen=True, slots=True)
class Key:
    """A key and the one algorithm that it verifies. ``id`` is its ``kid``, if it has one."""

    material: Any
    algorithm: str
    id: str | None = None


def read_key(text: str, algorithm: str, id: str | None = None) -> Key:
    """Return the key of a secret (HS…) or of a PEM document (the others). Raise InvalidSetting."""
    if algorithm not in ALGORITHMS:
        raise InvalidSetting(f"{algorithm!r} is not an algorithm of tokens: choose one of {', '.join(ALGORITHMS)}")
    if not text:
        raise InvalidSetting(f"the key for {algorithm} is empty")
    try:
        return Key(jwt.get_algorithm_by_name(algorithm).prepare_key(text), algorithm, id)
    except NotImplementedError:
        raise InvalidSetting(f"{algorithm} needs the package cryptography: pip install 'pushsvc[crypto]'") from None
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        wanted = "a secret" if algorithm.startswith("HS") else "a public key in PEM"
        raise InvalidSetting(f"this is not a key for {algorithm}, {wanted} is expected: {error}") from None


def is_short(key: Key) -> bool:
    """Return whether a secret is shorter than its algorithm asks for (RFC 7518, 3.2)."""
    return isinstance(key.material, bytes) and len(key.material) < _SHORT_SECRET


def read_jwks(document: Any) -> list[Key]:
    """Return the keys of a JWK set (RFC 7517) that verify signatures with an algorithm of ours. Raise InvalidSetting.

    Keys of other uses and kinds are left out, as the RFC asks. So are secrets: a set is published.
    """
    if not isinstance(document, Mapping) or not isinstance(document.get("keys"), list):
        raise InvalidSetting('a JWK set is expected: {"keys": [...]}')
    found = []
    for one in document["keys"]:
        if not isinstance(one, Mapping) or one.get("use", "sig") != "sig" or one.get("kty") == "oct":
            continue
        try:
            key = jwt.PyJWK.from_dict(dict(one))
        except (jwt.PyJWTError, ValueError, TypeError):
            continue
        if key.algorithm_name in ALGORITHMS:
            found.append(Key(key.key, key.algorithm_name, key.key_id))
    return found


@dataclass(frozen=True, slots=True)
class Issuer:
    """A signer of tokens: its keys, and the claims that its tokens must have.

    ``name`` is compared with ``iss`` and ``audience`` with ``aud``; None and () accept any. ``leeway`` is how many
    seconds the clocks may differ. With ``needs_expiry`` a token without ``exp`` is refused. ``refresh`` is called for a
    ``kid`` that no key has; it returns whether the keys may be newer now, and may raise Unavailable.
    """

    keys: Sequence[Key]
    name: str | None = None
    audience: tuple[str, ...] = ()
    leeway: float = 10.0
    needs_expiry: bool = True
    refresh: Callable[[], bool] = lambda: False


class Verifier:
    """Returns the grants of tokens."""

    def __init__(self, issuers: Iterable[Issuer]) -> None:
        self._issuers = tuple(issuers)

    @property
    def has_issuers(self) -> bool:
        return bool(self._issuers)

    def grants(self, token: str, now: float) -> Grants:
        """Return the grants of a token at ``now`` (epoch seconds). Raise InvalidToken."""
        if len(token) > LONGEST_TOKEN:
            raise InvalidToken(f"the token is longer than {LONGEST_TOKEN} characters")
        try:
            said = jwt.decode_complete(token, options={"verify_signature": False})  # only to choose the key
        except _UNREADABLE as error:
            raise InvalidToken(f"this token cannot be read: {_shown(str(error))}") from None
        for issuer in self._issuers:
            if issuer.name in (None, said["payload"].get("iss")):
                return self._verify_by(issuer, said["header"], token, now)
        raise InvalidToken(f"the issuer {_shown(said['payload'].get('iss'))} is not known here")

    def _verify_by(self, issuer: Issuer, header: Mapping[str, Any], token: str, now: float) -> Grants:
        claims = _signed_by(issuer, header, token)
        if claims is None and not any(key.id == header.get("kid") for key in issuer.keys) and issuer.refresh():
            claims = _signed_by(issuer, header, token)
        if claims is None:
            raise InvalidToken("no key that is known here has signed the token")
        return _read_claims(claims, issuer, now)


def _signed_by(issuer: Issuer, header: Mapping[str, Any], token: str) -> Mapping[str, Any] | None:
    """Return the claims of a token that a key of the issuer has signed, else None."""
    keys = [key for key in issuer.keys if key.algorithm == header.get("alg")]
    named = [key for key in keys if key.id is not None and key.id == header.get("kid")]
    for key in named or [key for key in keys if key.id is None or "kid" not in header]:
        with suppress(*_UNREADABLE):
            claims: Mapping[str, Any] = jwt.decode(token, key.material, [key.algorithm], options=_ONLY_THE_SIGNATURE)
            return claims
    return None


def _read_claims(claims: Mapping[str, Any], issuer: Issuer, now: float) -> Grants:
    """Return the grants of verified claims. Times are compared here: with the same clock as in all later checks."""
    expires, begins, issued = (_read_time(claims, name) for name in ("exp", "nbf", "iat"))
    if expires is None and issuer.needs_expiry:
        raise InvalidToken("the token has no exp: a token must say when it expires")
    expires = inf if expires is None else expires + issuer.leeway
    if now >= expires:
        raise InvalidToken("the token has expired")
    if begins is not None and now < begins - issuer.leeway:
        raise InvalidToken("the token is not valid yet")
    if issued is not None and now < issued - issuer.leeway - 1:  # our clock counts whole milliseconds
        raise InvalidToken("the token was issued in the future")  # a revocation would not refuse it
    if issuer.audience and not any(name in issuer.audience for name in _audience_of(claims)):
        raise InvalidToken(f"the token is for another audience than {', '.join(issuer.audience)}")
    subject = claims.get("sub", "")
    if not isinstance(subject, str) or len(subject) > LONGEST_SUBJECT or not subject.isprintable():
        raise InvalidToken(f"sub: a text of at most {LONGEST_SUBJECT} printable characters is expected")
    try:
        grants = read_grants(claims.get(CLAIM, {}))
    except InvalidGrants as error:
        raise InvalidToken(f"the claim {CLAIM} of the token: {error}") from None
    return replace(grants, subject=subject, expires=expires, issued=issued)


def _audience_of(claims: Mapping[str, Any]) -> list[Any]:
    audience = claims.get("aud")
    return audience if isinstance(audience, list) else [audience]


def _read_time(claims: Mapping[str, Any], name: str) -> float | None:
    time = claims.get(name)
    if time is None:
        return None
    if type(time) not in (int, float) or not -_LATEST <= time <= _LATEST:
        raise InvalidToken(f"{name}: a number of seconds is expected")
    return float(time)


def _shown(value: Any) -> str:
    """Return a short text without characters that a log or a terminal would obey, or that JSON cannot hold."""
    return ascii(value)[:100]
