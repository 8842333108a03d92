"""The token that a client presents."""

import re
from collections.abc import Awaitable, Callable

Token = str | Callable[[], str]
AsyncToken = Token | Callable[[], Awaitable[str]]

_WORD = re.compile(r"[A-Za-z0-9._~+/=-]{1,8192}")


class Credentials:
    """A token or API key (None: none), or a function that returns one: the first request calls it, and again one that
    the server refuses. Many threads or tasks may share them; each that begins without a token calls the function."""

    def __init__(self, token: AsyncToken | None) -> None:
        self._ask = token if callable(token) else None
        self._token = check_token(token) if isinstance(token, str) else None

    async def current(self) -> str | None:
        """Return the token to present."""
        if self._token is None and self._ask is not None:
            self._token = await _asked(self._ask)
        return self._token

    async def renew(self, refused: str | None) -> bool:
        """Replace a token that was refused; return whether there is another one now."""
        if self._ask is not None and self._token == refused:
            self._token = await _asked(self._ask)
        return self._token != refused


async def _asked(ask: Callable[[], str | Awaitable[str]]) -> str:
    given = ask()
    return check_token(given if isinstance(given, str) else await given)


def check_token(token: str) -> str:
    """Return a token that a header can hold; raise ValueError for another text."""
    if not _WORD.fullmatch(token):
        raise ValueError("a token has 1 to 8192 characters of A-Z, a-z, 0-9 and ._~+/=-")  # without the secret itself
    return token
