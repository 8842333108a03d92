"""Tokens of a URL: what a request may subscribe to where cookies do not reach. The application signs them."""

from __future__ import annotations

import time
from math import isfinite
from typing import Any

from flask import Flask
from itsdangerous import BadSignature, URLSafeSerializer

from pushsvc.auth.grants import Action, Grant, Grants, TopicGrants
from pushsvc.errors import InvalidToken, NotGranted
from pushsvc.extension.question import Asked, Question

PARAMETER = "token"

_SALT = "pushsvc.stream"
_LONGEST = 2_000  # characters of a token
_MOST_SECONDS = 30 * 86_400


def sign(app: Flask, asked: Asked, lifetime: float) -> str:
    """Return a token to subscribe to a topic or pattern, and one key of it or all, for ``lifetime`` seconds."""
    if not (isfinite(lifetime) and 0 < lifetime <= _MOST_SECONDS):
        raise ValueError(f"lifetime={lifetime!r}: a number of seconds up to 30 days is expected")
    if not app.secret_key:
        raise RuntimeError("tokens are signed with the secret key of the application: set app.secret_key")
    expires = int(time.time() + lifetime) + 1
    return _text(URLSafeSerializer(app.secret_key, salt=_SALT).dumps([*asked, expires]))


def grants_of(app: Flask, token: str, question: Question) -> Grants:
    """Return the grants of a token for a request. Raise InvalidToken, or NotGranted if it is for something else."""
    if not app.secret_key or len(token) > _LONGEST:
        raise InvalidToken("the token in the URL is not valid")
    try:
        found: Any = URLSafeSerializer(app.secret_key, salt=_SALT).loads(token)
    except BadSignature:
        raise InvalidToken("the token in the URL is not valid") from None
    topic, key, expires = found
    if expires <= time.time():
        raise InvalidToken("the token in the URL has expired")
    keys = None if key is None else frozenset([key])
    if question.action is not Action.SUBSCRIBE or any(one.topic != topic for one in question.asked):
        raise NotGranted("the token in the URL is for another topic")
    return Grants(subscribe=TopicGrants([Grant(topic, keys)]), expires=expires)


def _text(signed: str | bytes) -> str:
    return signed.decode() if isinstance(signed, bytes) else signed
