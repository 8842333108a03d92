"""Which hosts and origins may use a server that has no credentials."""

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Flask, Request, Response, request

from pushsvc.errors import Forbidden

_ATTRIBUTE = re.compile("ce-[a-z0-9]{1,200}", re.ASCII | re.IGNORECASE)
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self'; style-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_HSTS = "max-age=31536000"
_PREFLIGHT = {"Access-Control-Allow-Methods": "GET, POST, DELETE", "Access-Control-Max-Age": "600"}
_SENT_BY_PAGES = ("Content-Type", "Idempotency-Key", "Last-Event-ID")


@dataclass(frozen=True, slots=True)
class Security:
    """``allow_hosts`` are names without port; ``allow_origins`` are as in the Origin header.

    ``insecure`` also accepts addresses and ``bind_host``, the name that the server listens on, if ``allow_hosts`` is
    empty. Use it only in a private network.
    """

    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    insecure: bool = False
    bind_host: str = ""

    def check_host(self, host: str) -> None:
        """Refuse an unknown Host: DNS rebinding could let a page of another site use our address."""
        name = _name_of(host)
        if name in self.allow_hosts or _is_loopback(name):
            return
        # A page can have its own name point at our address, but not an address.
        if self.insecure and not self.allow_hosts and name and (_is_address(name) or name == self.bind_host.lower()):
            return
        raise Forbidden(f"the Host {host!r} is not allowed; --allow-host {name} would allow it")

    def check_origin(self, request: Request) -> None:
        """Refuse a write that a page of another site makes a browser send.

        The own origin is that of the request: scheme, host and port. ``https`` is accepted for ``http`` because a proxy
        may end TLS. The browser sees both ends, so its ``Sec-Fetch-Site`` refuses what this misses: a page of the same
        host over plain HTTP, while the proxy is reached by TLS. Older browsers do not send it.
        """
        origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
        if origin is None and site in ("cross-site", "same-site"):
            raise Forbidden(f"a page of another site may not write: there is no Origin, and Sec-Fetch-Site is {site}")
        if origin is None or origin in self.allow_origins:
            return
        own = origin in (f"{request.scheme}://{request.host}", f"https://{request.host}")
        if own and site in (None, "same-origin"):
            return
        raise Forbidden(f"the Origin {origin!r} may not write; --allow-origin {origin} would allow it")

    def install(self, app: Flask) -> None:
        """Check every request of the app, and answer preflight requests of allowed origins."""

        @app.before_request
        def check() -> Response | None:
            self.check_host(request.host)
            if request.method == "OPTIONS" and request.headers.get("Origin") in self.allow_origins:
                return _preflight(request.headers.get("Access-Control-Request-Headers", ""))
            if request.method in _WRITES:
                self.check_origin(request)
            return None

        @app.after_request
        def add_headers(response: Response) -> Response:
            for name, value in self.headers(request.headers.get("Origin")):
                if name == "Vary":
                    response.vary.add(value)
                else:
                    response.headers.setdefault(name, value)
            # On loopback it would make the browser refuse other servers of this machine that have no TLS.
            if request.is_secure and not _is_loopback(_name_of(request.host)):
                response.headers.setdefault("Strict-Transport-Security", _HSTS)
            return response

    def headers(self, origin: str | None) -> list[tuple[str, str]]:
        """Return the headers of every answer."""
        common = [
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", _POLICY),
            ("Cross-Origin-Resource-Policy", "same-origin"),
        ]
        if self.allow_origins:
            common.append(("Vary", "Origin"))
        if origin is not None and origin in self.allow_origins:
            common.append(("Access-Control-Allow-Origin", origin))
        return common


def _preflight(requested: str) -> Response:
    """Allow the headers that the API reads: those of a CloudEvent have names of its producer's choice."""
    attributes = [name for name in map(str.strip, requested.split(",")) if _ATTRIBUTE.fullmatch(name)]
    allowed = ", ".join([*_SENT_BY_PAGES, *attributes])
    return Response(status=204, headers=_PREFLIGHT | {"Access-Control-Allow-Headers": allowed})


def _name_of(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return host


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False
