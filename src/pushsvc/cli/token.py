"""``pushsvc token``: makes, shows and checks tokens, and makes API keys.

No secret is an argument: other users of a machine see those. Keys come from the environment or from files, tokens from
the standard input.
"""

from __future__ import annotations

import json
import re
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pushsvc.cli.options import server_options
from pushsvc.cli.terminal import visible, visible_lines
from pushsvc.errors import InvalidSetting, InvalidToken

if TYPE_CHECKING:
    from pushsvc.auth.grants import Grants
    from pushsvc.cli.options import F
    from pushsvc.config import Settings

_LONGEST = 10_000  # characters that are read of a token: more than a token may have
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class _Lifetime(click.ParamType[float]):
    """A number of seconds, or text such as 1h or 30d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"([0-9]{1,9})([smhd]?)", str(value))
        if found is None or int(found[1]) == 0:
            self.fail(f"{value!r} is not a duration such as 30m, 1h or 30d", param, ctx)
        return float(int(found[1]) * _SECONDS[found[2] or "s"])


def _granting(command: F) -> F:
    """Add the options that name grants."""
    for name, help in (
        ("--key", "Limit --publish and --subscribe to events and rows of this key (repeatable)."),
        ("--manage", "Topics that may be deleted; '>' also opens /metrics and revokes (repeatable)."),
        ("--subscribe", "Topics that may be read (repeatable)."),
        ("--publish", "Topics that may be published to, such as 'shop.>' (repeatable)."),
    ):
        command = click.option(name, multiple=True, metavar="KEY" if name == "--key" else "PATTERN", help=help)(command)
    return command


@click.group(short_help="Make, show and check tokens and API keys.")
def token() -> None:
    """Make, show and check tokens, and make API keys.

    \b
    PUSHSVC_JWT_KEY=… pushsvc token mint --sub u42 --subscribe 'shop.>'
    pushsvc token check < token.txt
    pushsvc token key producer --publish 'shop.>'
    """


@token.command()
@click.option("--sub", metavar="NAME", default="", help="Whose token it is; can be revoked by this name.")
@_granting
@click.option("--connections", type=click.IntRange(0), metavar="N", help="Most streams at a time.")
@click.option("--expires", type=_Lifetime(), default="1h", show_default=True, help="How long it is valid.")
@server_options("jwt_key_file", "jwt_alg", "jwt_issuer", "jwt_audience")
def mint(settings: Settings, sub: str, connections: int | None, expires: float, **granted: tuple[str, ...]) -> None:
    """Print a new token with the given grants.

    For HS256 the key is the server's secret; for the others the private key in PEM, of which the server has the
    public half.
    """
    import jwt

    from pushsvc.auth.tokens import CLAIM, LONGEST_SUBJECT
    from pushsvc.config.access import signing_key
    from pushsvc.system_clock import now_ms

    if len(sub) > LONGEST_SUBJECT or not sub.isprintable():
        raise click.UsageError(f"--sub: at most {LONGEST_SUBJECT} printable characters are accepted")
    algorithm, text = settings.jwt_alg or "HS256", signing_key(settings)
    claim = _claim(granted, connections)
    now = now_ms() // 1_000
    names = {"iss": settings.jwt_issuer, "aud": next(iter(settings.jwt_audience), None), "sub": sub}
    claims: dict[str, Any] = {name: value for name, value in names.items() if value}
    claims |= {"iat": now, "exp": now + int(expires), CLAIM: claim}
    if algorithm.startswith("HS") and len(text.encode()) < 32:
        click.echo("warning: the secret has less than 32 bytes, so that it can be guessed", err=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyJWT about a short secret: this has its own words
            made = jwt.encode(claims, text, algorithm)
    except NotImplementedError:
        raise InvalidSetting(f"{algorithm} needs the package cryptography: pip install 'pushsvc[crypto]'") from None
    except (jwt.PyJWTError, ValueError, TypeError) as error:
        raise InvalidSetting(f"this key cannot sign with {algorithm}: {error}") from None
    click.echo(made)


@token.command()
@click.argument("file", type=click.File(), default="-")
def show(file: Any) -> None:
    """Print what the token in FILE, or of the standard input, says. Checks nothing."""
    import jwt

    text = _token_text(file)
    try:
        header = jwt.get_unverified_header(text)
        claims = jwt.decode(text, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise InvalidToken(f"this is not a token: {visible(ascii(str(error)))[:200]}") from None
    click.echo("NOT CHECKED: anybody could have written this. `pushsvc token check` verifies it.", err=True)
    click.echo(visible_lines(json.dumps({"header": header, "claims": claims}, indent=2, ensure_ascii=False)))
    for name in ("iat", "nbf", "exp"):
        if type(claims.get(name)) in (int, float) and abs(claims[name]) < 1e11:
            click.echo(f"{name}: {_moment(claims[name])}", err=True)


@token.command()
@click.argument("file", type=click.File(), default="-")
@server_options("jwt_key_file", "jwt_jwks_url", "jwt_alg", "jwt_issuer", "jwt_audience", "jwt_leeway")
def check(settings: Settings, file: Any) -> None:
    """Verify the token or API key in FILE, or of the standard input, as a server with these settings does.

    Prints its grants, with those of everybody. Exits with 1 if it is refused. Does not ask whether it was revoked.
    """
    from pushsvc.auth.access import Presented
    from pushsvc.config.access import access_of
    from pushsvc.system_clock import now_ms
    from pushsvc.web.jwks import fetched_keys

    access = access_of(settings, fetched_keys)
    if access is None:
        raise InvalidSetting("no key: set PUSHSVC_JWT_KEY, or name a file with --jwt-key-file")
    grants = access.grants(Presented(f"Bearer {_token_text(file)}"), now_ms() / 1_000)
    click.echo(visible_lines(json.dumps(_described(grants), indent=2, ensure_ascii=False)))


@token.command()
@click.argument("name")
@_granting
def key(name: str, **granted: tuple[str, ...]) -> None:
    """Make an API key for a producer.

    The key goes to the standard output and is shown only now. The lines for pushsvc.toml, which have its hash, go to
    the standard error.
    """
    from secrets import token_urlsafe

    from pushsvc.auth.api_keys import PREFIX, hash_of

    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise InvalidSetting("the name of a key has 1 to 64 letters, digits, - and _")
    claim = _claim(granted, None)
    made = PREFIX + token_urlsafe(32)
    click.echo(f'[keys.{name}]\nhash = "{hash_of(made)}"', err=True)
    for action, grants in claim.items():
        click.echo(f"{action} = [{', '.join(map(_toml, grants))}]", err=True)
    click.echo(made)


def _toml(grant: Any) -> str:
    if isinstance(grant, str):
        return json.dumps(grant)
    return "{ " + ", ".join(f"{name} = {json.dumps(value)}" for name, value in grant.items()) + " }"


def _claim(granted: dict[str, tuple[str, ...]], connections: int | None) -> dict[str, Any]:
    """Return the claim of the options; raise UsageError if it is not a valid one, or grants nothing."""
    from pushsvc.auth.grants import InvalidGrants, read_grants

    keys = list(granted["key"])
    claim: dict[str, Any] = {}
    for action in ("publish", "subscribe", "manage"):
        if patterns := granted[action]:
            limited = keys and action != "manage"
            claim[action] = [{"topics": topics, "keys": keys} if limited else topics for topics in patterns]
    if not claim:
        raise click.UsageError("name what is granted with --publish, --subscribe or --manage PATTERN")
    if connections is not None:
        claim["connections"] = connections
    try:
        read_grants(claim)
    except InvalidGrants as error:
        raise click.UsageError(visible(str(error))) from None
    return claim


def _token_text(file: Any) -> str:
    """Return the token of a file or the standard input; a terminal is asked without showing what is typed."""
    if file.isatty():
        return str(click.prompt("Token", hide_input=True, err=True)).strip()
    try:
        text = str(file.read(_LONGEST)).strip()
    except UnicodeDecodeError:
        raise InvalidToken("this is not a token: it is not text") from None
    if not text:
        raise InvalidToken("there is no token on the standard input")
    return text


def _described(grants: Grants) -> dict[str, Any]:
    from pushsvc.auth.grants import claim_of

    found: dict[str, Any] = {"sub": grants.subject or None, "expires": _moment(grants.expires)}
    found["issued"] = None if grants.issued is None else _moment(grants.issued)
    return found | claim_of(grants)


def _moment(seconds: float) -> str | None:
    return None if seconds == float("inf") else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
