"""URLs of Redis: one server, a primary that Sentinels know, or a cluster; and asking the servers that a URL names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from redis import exceptions

from pushsvc.broker.connection_pool import ServerKind
from pushsvc.broker.redis_connection import ask, connection_settings
from pushsvc.broker.replies import Host, reason
from pushsvc.broker.script import Argument
from pushsvc.errors import BrokerUnavailable, StartupError

_PARAMETERS = frozenset({
    "client_name", "db", "health_check_interval", "lib_name", "lib_version", "password", "password_file", "protocol",
    "retry_on_timeout", "socket_connect_timeout", "socket_keepalive", "socket_read_size", "socket_timeout", "username",
})  # fmt: skip
_POOL_PARAMETERS = frozenset({"max_connections", "timeout"})  # of one server
_TLS_PARAMETERS = frozenset({
    "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers",
    "ssl_keyfile", "ssl_ocsp_expected_cert", "ssl_password", "ssl_validate_ocsp", "ssl_validate_ocsp_stapled",
})  # fmt: skip
_SENTINEL_PARAMETERS = frozenset({"sentinel_username", "sentinel_password", "sentinel_password_file"})
"""Parameters of redis-py that can be given as text, and files with passwords. Another one would be an error of its own
when it connects."""

_NO_PORT = "a host is written host or host:port, and a port is a number (a password goes before an @)"
_DEFAULT_PORTS: dict[ServerKind, int] = {"sentinel": 26_379, "cluster": 6_379}


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a URL of Redis; for one server only ``url``.

    ``hosts`` are the Sentinels, or some nodes of a cluster. ``master`` is the name by which Sentinels know the primary.
    """

    kind: ServerKind
    url: str = field(repr=False)
    hosts: tuple[Host, ...] = ()
    master: str = ""
    secure: bool = False
    credentials: str = field(default="", repr=False)
    database: str = ""
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Parse ``redis[s]+sentinel://[user:password@]host[:port],…/master[/database]``,
        ``redis[s]+cluster://[user:password@]host[:port],…``, or the URL of one server.

        Raise ValueError. Its message has no part of the URL: with a character that is not escaped, any part may belong
        to the password.
        """
        scheme, _, rest = url.partition("://")
        base, _, kind = scheme.lower().partition("+")
        if not _SCHEME.fullmatch(scheme):
            raise ValueError(
                "the schemes are redis://, rediss://, unix://, redis+sentinel:// and redis+cluster:// (rediss+… "
                "with TLS)"
            )
        _check_at_sign(base, rest)
        _check_parameters(base, kind, rest.partition("?")[2])
        server_kind: ServerKind = "sentinel" if kind == "sentinel" else "cluster"
        if not kind:
            if "," in rest.partition("?")[0].partition("/")[0].rpartition("@")[2]:
                raise ValueError("several hosts need redis+cluster:// (a cluster) or redis+sentinel:// (Sentinels)")
            if base != "unix":
                if (number := _PORT.search(_host_part(rest))) and not number[1].isdecimal():
                    raise ValueError(_NO_PORT)
                _check_database(_PLACE.match(rest)[2].strip("/"))  # type: ignore[index]
            _check_parsing(url)
            return cls("standalone", url)
        rest, _, query = rest.partition("?")
        place, _, path = rest.partition("/")
        credentials, at, listed = place.rpartition("@")
        hosts = tuple(_host(host, _DEFAULT_PORTS[server_kind]) for host in listed.split(","))
        master, _, database = path.strip("/").partition("/")
        if kind == "sentinel" and not master:
            raise ValueError("a Sentinel URL ends with the name of the master: redis+sentinel://host:port/name")
        if kind == "cluster" and path.strip("/") not in ("", "0"):
            raise ValueError("a cluster has only the database 0")
        _check_database(database)
        options = tuple(parse_qsl(query.partition("#")[0]))
        address = cls(server_kind, url, hosts, master, base == "rediss", credentials + at, database, options)
        _check_parsing(address.server(hosts[0]))
        return address

    def server(self, host: Host) -> str:
        """Return the URL of one of the servers."""
        options = [(name, value) for name, value in self.options if not name.startswith("sentinel_")]
        return self._url(host, self.credentials, self.database, options)

    def sentinel(self, host: Host) -> str:
        """Return the URL of one of the Sentinels, with their user and password, which are among the options."""
        own = [(name.removeprefix("sentinel_"), value) for name, value in self.options if name.startswith("sentinel_")]
        return self._url(host, "", "", own + [(name, value) for name, value in self.options if name.startswith("ssl_")])

    def _url(self, host: Host, credentials: str, database: str, options: list[tuple[str, str]]) -> str:
        scheme = "rediss" if self.secure else "redis"
        query = f"?{urlencode(options)}" if options else ""
        return f"{scheme}://{credentials}{_host_text(host)}/{database}{query}"


def ask_in_turn(
    servers: Mapping[Host, str], command: Sequence[Argument], *, failure: str, wrong_kind: str, no_answer: str
) -> tuple[Host, Any]:
    """Ask servers, by their URLs, until one has an answer; return its host and the answer.

    Raise StartupError if a server is of the wrong kind, and BrokerUnavailable if none has an answer.
    """
    failures = []
    for host, url in servers.items():
        try:
            if answer := ask(url, *command):
                return host, answer
            failures.append(f"{_host_text(host)}: {no_answer}")
        except BrokerUnavailable as error:
            failures.append(f"{_host_text(host)}: {error.detail}")
        except exceptions.ResponseError as error:
            if "cluster support disabled" in str(error) or "unknown command" in str(error).lower():
                raise StartupError(f"{_host_text(host)} {wrong_kind}") from error
            failures.append(f"{_host_text(host)}: {reason(error)}")
    raise BrokerUnavailable(f"{failure}: {', '.join(failures)}")


def _host_text(host: Host) -> str:
    """Return ``host:port``."""
    name, port = host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


_PORT = re.compile(r":([^]:]*)\Z")
_PLACE = re.compile("([^/?#]*)([^?#]*)")  # hosts with credentials, and path; matches any text
_SCHEME = re.compile("unix|rediss?([+](sentinel|cluster))?", re.IGNORECASE)


def _host_part(rest: str) -> str:
    """Return the hosts and ports of a URL without its scheme."""
    return re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]


def _host(text: str, port: int) -> Host:
    name, colon, number = text.rpartition(":")
    if not colon or text.endswith("]"):
        name, number = text, str(port)
    if not name or not number.isdecimal():
        raise ValueError(_NO_PORT)
    return name.strip("[]"), int(number)


def _check_database(text: str) -> None:
    if text and not text.isdecimal():
        raise ValueError("the database, which follows the hosts or the master, is not a number")


def _check_parsing(url: str) -> None:
    """Refuse the URL of a server that redis-py or urllib cannot parse; their messages show parts of it."""
    try:
        connection_settings(url)
    except ValueError:
        raise ValueError("it has characters that must be escaped, or a parameter of the wrong type") from None


def _check_at_sign(base: str, rest: str) -> None:
    """Refuse what is most likely a password with an unescaped character; the message must not show a part of it."""
    hosts = re.split("[/?#]", rest, maxsplit=1)
    if base != "unix" and len(hosts) == 2 and "@" in hosts[1]:
        raise ValueError(
            "there is an @ after the first /, ? or #: in a password write these as %2F, %3F and %23, and an @ in a "
            "parameter as %40"
        )


def _check_parameters(base: str, kind: str, query: str) -> None:
    """Refuse parameters that nothing reads."""
    known = _PARAMETERS | (_SENTINEL_PARAMETERS if kind == "sentinel" else frozenset())
    known |= frozenset() if kind else _POOL_PARAMETERS
    known |= _TLS_PARAMETERS if base == "rediss" else frozenset()
    pairs = parse_qsl(query.partition("#")[0], keep_blank_values=True)
    for number, (name, _) in enumerate(pairs, 1):
        if name in _TLS_PARAMETERS and name not in known:
            raise ValueError(f"the parameter {name} needs TLS: use rediss")
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"the parameters are {', '.join(sorted(known))}"
            raise ValueError(f"there is no such parameter as number {number} of the URL; {hint}")
    given = {name for name, _ in pairs}
    for name in ("password", "sentinel_password"):
        if {name, f"{name}_file"} <= given:
            raise ValueError(f"{name} and {name}_file exclude each other")


def with_files(
    url: str, *, username: str | None = None, password_file: Path | None = None, ca_file: Path | None = None,
    cert_file: Path | None = None, key_file: Path | None = None,
) -> str:  # fmt: skip
    """Return a URL with a user and the names of files as its parameters; raise ValueError.

    The files are read at each connect, so passwords and certificates can be exchanged while the program runs.
    """
    given = {
        "username": username, "password_file": password_file, "ssl_ca_certs": ca_file, "ssl_certfile": cert_file,
        "ssl_keyfile": key_file,
    }  # fmt: skip
    added = {name: str(value) for name, value in given.items() if value is not None}
    if not added:
        return url
    Address.parse(url)
    if key_file is not None and cert_file is None:
        raise ValueError("redis_key_file needs redis_cert_file")
    user, _, password = re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0].rpartition("@")[0].partition(":")
    before, _, query = url.partition("#")[0].partition("?")
    present = {name for name, _ in parse_qsl(query)}
    if present & added.keys() or (user and username) or ((password or "password" in present) and password_file):
        raise ValueError("the URL has a user, password or file that a setting has too: leave one of them out")
    return f"{before}?{query}{'&' if query else ''}{urlencode(added)}"


def has_password(url: str) -> bool:
    """Return whether a URL seems to have a password."""
    before, _, query = url.partition("://")[2].partition("?")
    return ":" in before.rpartition("@")[0] or "password=" in query


def without_password(url: str) -> str:
    """Return a URL for messages: its scheme, hosts and ports, database or master; of an invalid one only the scheme.

    What is neither may be a password in the wrong place, or a part of one with a character that is not escaped.
    """
    scheme, _, rest = url.partition("://")
    try:
        Address.parse(url)
    except ValueError:
        return "…" if not rest or not _SCHEME.fullmatch(scheme) else f"{scheme}://…"
    place, path = _PLACE.match(rest).groups()  # type: ignore[union-attr]
    credentials, _, hosts = place.rpartition("@")
    return f"{scheme}://{'…@' if credentials else ''}{hosts}{path}"
