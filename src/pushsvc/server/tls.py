"""TLS on non-blocking sockets."""

import ssl
from pathlib import Path
from typing import Any

from gevent import ssl as gevent_ssl


class TlsSocket(gevent_ssl.SSLSocket):
    """``recv`` and ``send`` never wait: they raise SSLWantReadError or SSLWantWriteError.

    A ``send`` that raised SSLWantWriteError has begun: the next one must offer the same bytes again, and no fewer.
    """

    def send(self, data: Any, flags: int = 0, timeout: Any = None) -> int:
        sent: int = super().send(data, flags)
        if not sent and len(data):  # gevent returns 0 instead of waiting
            raise ssl.SSLWantWriteError
        return sent


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """Return the context for accepted sockets, with TLS 1.2 or newer. The caller has checked the files."""
    context: ssl.SSLContext = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class = TlsSocket
    context.load_cert_chain(certificate, key, password="")
    return context
