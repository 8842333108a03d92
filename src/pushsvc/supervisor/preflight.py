"""Checks before the start: is Redis suitable, can the certificate be used, and who could reach the server?"""

import socket
import ssl
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from pushsvc.broker.broker import Broker
from pushsvc.broker.cluster.address import without_password
from pushsvc.config import Settings
from pushsvc.errors import PushError, StartupError, Unavailable
from pushsvc.settings import Ack

RETRY_AFTER = 1.0  # seconds between two attempts to reach Redis
_MEMORY = Ack()


def check_redis(url: str, prefix: str, *, wait: bool, warn: Callable[[str], None], ack: Ack = _MEMORY) -> None:
    """Return when Redis answers and is suitable; ``warn`` about settings that risk data.

    Raise StartupError if it does not answer (unless ``wait``), evicts keys, holds data of another layout, or can never
    give the confirmations that ``ack`` demands.
    """
    shown = without_password(url)
    try:
        broker = Broker(url, prefix)
    except ValueError as error:
        raise StartupError(f"{shown} is not the address of a Redis: {error}") from error
    try:
        _wait_for_redis(broker, shown, wait, warn)
        policies, appendonly, save = map(broker.configuration, ("maxmemory-policy", "appendonly", "save"))
        broker.check_commands()
        broker.check_layout()
        _check_ack(broker, ack, shown, warn)
    except StartupError:
        raise
    except PushError as error:
        raise StartupError(f"Redis at {shown} cannot be used: {error.detail}") from error
    finally:
        broker.close()
    evicting = policies - {"noeviction"}
    if evicting:
        raise StartupError(
            f"Redis at {shown} evicts keys when its memory is full (maxmemory-policy {evicting.pop()}), "
            "so events could be lost without an error. Set its maxmemory-policy to noeviction"
        )
    if "no" in appendonly:
        keeps = "writes only occasional snapshots" if save and "" not in save else "keeps nothing on disk"
        warn(f"WARNING: Redis at {shown} {keeps}: a crash loses events. Set its appendonly to yes")


def _check_ack(broker: Broker, ack: Ack, shown: str, warn: Callable[[str], None]) -> None:
    try:
        confirmed = broker.confirmations(ack)
    except Unavailable:
        raise
    except PushError as error:
        reason = error.detail
        if "unknown command" in reason.lower():
            reason = "it has no command WAITAOF. Redis 7.2 and Valkey have it"
        elif "appendonly" in reason:
            reason = "it has no append-only file. Set its appendonly to yes"
        raise StartupError(f"Redis at {shown} does not support --ack {ack}: {reason}") from error
    if confirmed < ack.replicas:
        warn(
            f"WARNING: Redis at {shown} has {confirmed} replicas: with --ack {ack} publishing is answered with 503 "
            f"until it has {ack.replicas}"
        )


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Check that TLS can be served if there is a certificate. Raise StartupError with the names of the files."""
    if certificate is None:
        if key is not None:
            raise StartupError("keyfile needs certfile: set both, or only certfile with a file that holds both")
        return
    names = f"{certificate}" if key is None else f"{certificate} and {key}"
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise StartupError(f"{names}: not a certificate and its unencrypted private key ({error})") from None
    except OSError as error:
        raise StartupError(f"{names}: {error.strerror}") from None


def check_bind(settings: Settings, *, web: bool = True) -> None:
    """Raise StartupError if other machines could reach a server without credentials, or without ``web`` the metrics:
    these ask for none."""
    if web and settings.authorizes:
        return
    host, action = (settings.host, "read and publish") if web else (settings.metrics_host, "read the metrics")
    listens = web or settings.metrics_port is not None
    if listens and not settings.insecure and not is_loopback(host):
        advice = "Set PUSHSVC_JWT_KEY, or use" if web else "Use"
        raise StartupError(
            f"refused to listen on {host}: no credentials are configured, so every machine that reaches the port "
            f"could {action}. {advice} --insecure to allow this on a private network"
        )


def is_loopback(host: str) -> bool:
    """Return whether all addresses of a host are loopback addresses; raise StartupError for an unknown host."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise StartupError(f"cannot listen on {host!r}: there is no such host") from None
    return all(ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)


def _wait_for_redis(broker: Broker, shown: str, wait: bool, warn: Callable[[str], None]) -> None:
    warned = False
    while True:
        try:
            broker.ping()
            return
        except Unavailable as error:
            if not wait:
                raise StartupError(
                    f"Redis at {shown} does not answer: {error.detail} (with --wait, pushsvc waits for it)"
                ) from error
            if not warned:
                warn(f"waiting for Redis at {shown}: {error.detail}")
                warned = True
            time.sleep(RETRY_AFTER)
