"""URLs of Redis: one server, a primary that Sentinels know, or a cluster; and asking the servers that a URL names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from redis import exceptions

from pushsvc.broker.connection_pool import ServerKind
from pushsvc.broker.redis_connection import ask
from pushsvc.broker.replies import Host
from pushsvc.broker.script import Argument
from pushsvc.errors import BrokerUnavailable, StartupError

_PARAMETERS = frozenset({
    "client_name", "db", "health_check_interval", "lib_name", "lib_version", "password", "protocol", "retry_on_timeout",
    "socket_connect_timeout", "socket_keepalive", "socket_read_size", "socket_timeout", "username",
})  # fmt: skip
_POOL_PARAMETERS = frozenset({"max_connections", "timeout"})  # of one server
_TLS_PARAMETERS = frozenset({
    "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers",
    "ssl_keyfile", "ssl_ocsp_expected_cert", "ssl_password", "ssl_validate_ocsp", "ssl_validate_ocsp_stapled",
})  # fmt: skip
_SENTINEL_PARAMETERS = frozenset({"sentinel_username", "sentinel_password"})
"""Parameters of redis-py that can be given as text. Another one would be an error of its own when it connects."""

_NO_PORT = "a host is written host or host:port, and a port is a number (a password goes before an @)"
_DEFAULT_PORTS: dict[ServerKind, int] = {"sentinel": 26_379, "cluster": 6_379}


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of a URL of Redis; for one server only ``url``.

    ``hosts`` are the Sentinels, or some nodes of a cluster. ``master`` is the name by which Sentinels know the primary.
    """

    kind: ServerKind
    url: str
    hosts: tuple[Host, ...] = ()
    master: str = ""
    secure: bool = False
    credentials: str = ""
    database: str = ""
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> Address:
        """Parse ``redis[s]+sentinel://[user:password@]host[:port],…/master[/database]``,
        ``redis[s]+cluster://[user:password@]host[:port],…``, or the URL of one server; raise ValueError."""
        scheme, _, rest = url.partition("://")
        base, _, kind = scheme.lower().partition("+")
        _check_at_sign(base, rest)
        _check_parameters(base, kind, rest.partition("?")[2])
        if not kind:
            if "," in rest.partition("?")[0].partition("/")[0].rpartition("@")[2]:
                raise ValueError("several hosts need redis+cluster:// (a cluster) or redis+sentinel:// (Sentinels)")
            if base != "unix" and (number := _PORT.search(_host_part(rest))) and not number[1].isdecimal():
                raise ValueError(_NO_PORT)
            return cls("standalone", url)
        if base not in ("redis", "rediss") or kind not in _DEFAULT_PORTS:
            raise ValueError(
                "the schemes are redis://, rediss://, unix://, redis+sentinel:// and redis+cluster:// (rediss+… "
                "with TLS)"
            )
        rest, _, query = rest.partition("?")
        place, _, path = rest.partition("/")
        credentials, at, listed = place.rpartition("@")
        hosts = tuple(_host(host, _DEFAULT_PORTS[kind]) for host in listed.split(","))
        master, _, database = path.strip("/").partition("/")
        if kind == "sentinel" and not master:
            raise ValueError("a Sentinel URL ends with the name of the master: redis+sentinel://host:port/name")
        if kind == "cluster" and path.strip("/") not in ("", "0"):
            raise ValueError(f"a cluster has no database {path!r}, only 0")
        if database and not database.isdecimal():
            raise ValueError(f"the database {database!r} is not a number")
        return cls(kind, url, hosts, master, base == "rediss", credentials + at, database, tuple(parse_qsl(query)))

    def server(self, host: Host) -> str:
        """Return the URL of one of the servers."""
        options = [(name, value) for name, value in self.options if not name.startswith("sentinel_")]
        return self._url(host, self.credentials, self.database, options)

    def sentinel(self, host: Host) -> str:
        """Return the URL of one of the Sentinels, with their user and password, which are among the options."""
        given = dict(self.options)
        user, password = (quote(given.get(f"sentinel_{name}", ""), safe="") for name in ("username", "password"))
        credentials = f"{user}:{password}@" if user or password else ""
        return self._url(host, credentials, "", [(n, v) for n, v in self.options if n.startswith("ssl_")])

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
            failures.append(f"{_host_text(host)}: {error}")
    raise BrokerUnavailable(f"{failure}: {', '.join(failures)}")


def _host_text(host: Host) -> str:
    """Return ``host:port``."""
    name, port = host
    return f"[{name}]:{port}" if ":" in name else f"{name}:{port}"


_PORT = re.compile(r":([^]:]*)\Z")
_HIDDEN = re.compile(r":(?![0-9]{0,5}(?:,|\Z))[^],:]*(?=,|\Z)")  # not a colon of [::1]


def _host_part(rest: str) -> str:
    """Return the hosts and ports of a URL without its scheme."""
    return re.split("[/?#]", rest, maxsplit=1)[0].rpartition("@")[2]


def _host(text: str, port: int) -> Host:
    name, colon, number = text.rpartition(":")
    if not colon or text.endswith("]"):
        name, number = text, str(port)
    if not name or not number.isdecimal():
        raise ValueError(_NO_PORT)  # without the text: it may be a password
    return name.strip("[]"), int(number)


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
    for name, _ in parse_qsl(query.partition("#")[0]):
        if name in _TLS_PARAMETERS and name not in known:
            raise ValueError(f"the parameter {name} needs TLS: use rediss")
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"the parameters are {', '.join(sorted(known))}"
            raise ValueError(f"there is no parameter {name!r}; {hint}")


def without_password(url: str) -> str:
    """Return a URL without its passwords, for messages. It may list several hosts, which urllib cannot parse.

    A password may have any character, also one that should have been escaped: all before the last @ is hidden. What
    stands in the place of a port and is none is most likely a password, too.
    """
    if "://" not in url:
        return "…"
    shown = re.sub(r"(?<=://).*@", "…@", url, flags=re.DOTALL)
    scheme, _, rest = shown.partition("://")
    place = re.split("[/?#]", rest, maxsplit=1)[0]
    shown = f"{scheme}://{_HIDDEN.sub(':…', place)}{rest[len(place) :]}"
    return re.sub(r"(?<=password=)[^&]*", "…", shown)
