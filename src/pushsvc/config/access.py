"""Makes the access rules of requests from the settings."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from jwt.warnings import InsecureKeyLengthWarning

from pushsvc.auth.access import Access
from pushsvc.auth.api_keys import ApiKeys, read_api_key
from pushsvc.auth.grants import Grant, Grants, TopicGrants
from pushsvc.auth.tokens import Issuer, Key, Verifier, is_short, read_key
from pushsvc.config.credentials import IssuerSettings
from pushsvc.config.settings import Settings
from pushsvc.errors import InvalidSetting, StartupError

KEY_VARIABLE = "PUSHSVC_JWT_KEY"

_LARGEST_FILE = 100_000
_DEFAULT_ALGORITHM = "HS256"


Fetched = tuple[Sequence[Key], Callable[[], bool]]
"""The keys of a JWK set, and the function that fetches them again; see ``Issuer.refresh``."""


def take_key_variable() -> str | None:
    """Return the key in the environment, and remove it there: no child needs it.

    The value is a secret, the text of a PEM document, or the path of a file that exists and holds one of them.
    """
    value = os.environ.pop(KEY_VARIABLE, None)
    if not value:
        return None
    try:
        is_file = Path(value).is_file()
    except (OSError, ValueError):  # too long for a path, or with a character that no path has
        is_file = False
    return _read_file(Path(value)) if is_file else value


def access_of(settings: Settings, fetched: Callable[[str, Sequence[str]], Fetched]) -> Access | None:
    """Return what finds the grants of requests; None if the settings ask for no credentials.

    ``fetched`` makes the keys of the JWK set at a URL, limited to some algorithms. Raise InvalidSetting or
    StartupError.
    """
    if not settings.authorizes:
        return None
    issuers = [_issuer(one, fetched) for one in issuers_of(settings)]
    warnings.simplefilter("ignore", InsecureKeyLengthWarning)  # check_access says it, once and how to mend it
    keys = ApiKeys(tuple(read_api_key(name, entry) for name, entry in settings.keys.items()))
    anonymous = Grants(_topics(settings.anonymous_publish), _topics(settings.anonymous_subscribe))
    return Access(
        Verifier(issuers),
        keys,
        anonymous,
        accepts_parameter=settings.token_parameter,
        lifetime=settings.token_lifetime,
        asks_application=settings.authorize_url is not None,
    )


def signing_key(settings: Settings) -> str:
    """Return the key that signs the tokens of ``jwt_key``. Raise InvalidSetting without one, or StartupError."""
    if settings.jwt_key_file is not None:
        return _read_file(settings.jwt_key_file)
    if settings.jwt_key is None:
        raise InvalidSetting("no key: set PUSHSVC_JWT_KEY, or name a file with --jwt-key-file")
    return settings.jwt_key


def check_access(settings: Settings, warn: Callable[[str], None]) -> None:
    """Check the keys at the start, without fetching any. Raise as ``access_of``; ``warn`` of weak ones."""
    access_of(settings, lambda _url, _algorithms: ((), lambda: False))
    for one in issuers_of(settings):
        if any(map(is_short, _keys(one))):
            warn(
                f"WARNING: the secret {_named(one)} is shorter than 32 bytes: whoever has one token can guess it. "
                "Make one with: openssl rand -hex 32"
            )
        if one.jwks_url is not None and one.jwks_url.startswith("http:"):
            warn(f"WARNING: the keys {_named(one)} are fetched without TLS: whoever is on the way can replace them")
    if settings.authorize_url is not None and _crosses_network(settings.authorize_url):
        warn("WARNING: authorize_url is asked without TLS: whoever is on the way reads the cookies of all clients")


def _crosses_network(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


def issuers_of(settings: Settings) -> list[IssuerSettings]:
    """Return the issuers: those with a name first, because one without a name takes every token."""
    issuers = list(settings.issuers)
    if settings.jwt_key or settings.jwt_key_file or settings.jwt_jwks_url:
        of_options = IssuerSettings(
            settings.jwt_issuer, settings.jwt_key, settings.jwt_key_file, settings.jwt_jwks_url,
            () if settings.jwt_alg is None else (settings.jwt_alg,),
            settings.jwt_audience, settings.jwt_leeway, settings.jwt_needs_expiry,
        )  # fmt: skip
        issuers.append(of_options)
    return sorted(issuers, key=lambda issuer: issuer.name is None)


def _issuer(one: IssuerSettings, fetched: Callable[[str, Sequence[str]], Fetched]) -> Issuer:
    if one.jwks_url is None:
        return Issuer(_keys(one), one.name, one.audience, one.leeway, one.needs_expiry)
    keys, refresh = fetched(one.jwks_url, one.algorithms)
    return Issuer(keys, one.name, one.audience, one.leeway, one.needs_expiry, refresh)


def _keys(one: IssuerSettings) -> list[Key]:
    """Return the keys that the settings of an issuer hold or name a file of: one for each algorithm."""
    text = one.key if one.key_file is None else _read_file(one.key_file)
    if text is None:
        return []
    try:
        return [read_key(text, algorithm) for algorithm in one.algorithms or (_DEFAULT_ALGORITHM,)]
    except InvalidSetting as error:
        raise InvalidSetting(f"the key {_named(one)}: {error.detail}") from None


def _read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise StartupError(f"cannot read the key in {path}: {error.strerror}") from None
    if len(data) > _LARGEST_FILE:
        raise StartupError(f"{path} is too large for a key")
    try:
        return data.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise StartupError(f"the key in {path} is no text") from None


def _named(one: IssuerSettings) -> str:
    return "of jwt_key" if one.name is None else f"of the issuer {one.name!r}"


def _topics(patterns: Sequence[str]) -> TopicGrants:
    return TopicGrants(map(Grant, patterns))
