"""Which hosts and origins may use the server, and the headers of every answer."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from flask import Flask, Request, Response, request

from pushsvc.errors import Forbidden
from pushsvc.web.authorization import COOKIE
from pushsvc.web.cors import Cors

_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self'; style-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
_HSTS = "max-age=31536000"
_COMMON = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),  # for browsers that do not know frame-ancestors
    ("Content-Security-Policy", _POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),  # concerns embedding, not the fetch of a listed origin
]


@dataclass(frozen=True, slots=True)
class Security:
    """``allow_hosts`` are names without port. Pages of ``allow_origins`` may read and POST, those of
    ``allow_read_origins`` only read, those of ``allow_write_origins`` use every method (see ``cors.Origins``).

    ``insecure`` also accepts addresses and ``bind_host``, the name that the server listens on, if ``allow_hosts`` is
    empty. Use it only in a private network. ``any_host`` accepts every name if ``allow_hosts`` is empty: for a server
    that grants nothing without credentials, because a page that has its name point at our address has none.
    """

    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    insecure: bool = False
    bind_host: str = ""
    allow_read_origins: tuple[str, ...] = ()
    allow_write_origins: tuple[str, ...] = ()
    any_host: bool = False
    _cors: Cors = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        cors = Cors(self.allow_origins, self.allow_read_origins, self.allow_write_origins)
        object.__setattr__(self, "_cors", cors)

    def check_host(self, host: str) -> None:
        """Refuse an unknown Host: DNS rebinding could let a page of another site use our address."""
        name = _name_of(host)
        if name in self.allow_hosts or _is_loopback(name) or (self.any_host and not self.allow_hosts):
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
        if origin is None:
            if site in ("cross-site", "same-site"):
                raise Forbidden(
                    f"a page of another site may not write: there is no Origin, and Sec-Fetch-Site is {site}"
                )
            return
        if _is_own(request, origin, site):
            return
        # The browser adds the cookie by itself, so it does not show that its owner wants the write.
        if site == "cross-site" and COOKIE in request.cookies and "Authorization" not in request.headers:
            raise Forbidden("a page of another site may not write with the cookie: send Authorization instead")
        if not self._cors.may(origin, request.method):
            option = "--allow-origin" if request.method == "POST" else "--allow-write-origin"
            raise Forbidden(f"the Origin {origin!r} may not {request.method}; {option} {origin} would allow it")

    def install(self, app: Flask) -> None:
        """Check every request of the app, and answer preflight requests of allowed origins."""

        @app.before_request
        def check() -> Response | None:
            self.check_host(request.host)
            if request.method == "OPTIONS":
                requested = request.headers.get("Access-Control-Request-Headers", "")
                return self._cors.preflight(request.headers.get("Origin"), requested)
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
        """Return the headers of every answer to a page of this origin; None: there was no header Origin."""
        return _COMMON + self._cors.headers(origin)


def _is_own(request: Request, origin: str, site: str | None) -> bool:
    """Return whether a page of this server sends the request.

    The browser says ``null`` for a beacon of a page with our Referrer-Policy. Then its Sec-Fetch-Site alone decides.
    """
    if origin == "null":
        return site == "same-origin"
    own = origin in (f"{request.scheme}://{request.host}", f"https://{request.host}")
    return own and site in (None, "same-origin")


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
