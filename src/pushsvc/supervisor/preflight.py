"""Checks before the start: is Redis suitable, can the certificate be used, and who could reach the server?"""

import socket
import ssl
import time
from collections.abc import Callable, Mapping
from hashlib import blake2b
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qsl

import msgspec

from pushsvc.broker.broker import Broker
from pushsvc.broker.cluster.address import with_files, without_password
from pushsvc.broker.redis_connection import PasswordFile
from pushsvc.config import Settings
from pushsvc.errors import PushError, StartupError, Unavailable
from pushsvc.settings import Ack, TopicRules

RETRY_AFTER = 1.0  # seconds between two attempts to reach Redis
_MEMORY = Ack()


def check_redis(
    url: str, prefix: str, *, wait: bool, warn: Callable[[str], None], ack: Ack = _MEMORY,
    rules: TopicRules | None = None,
) -> None:  # fmt: skip
    """Return when Redis answers and is suitable; ``warn`` about settings that risk data, and about ``rules`` of topics
    that differ from those of the program that started before.

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
        policies = broker.information("memory", "maxmemory_policy")
        appends = broker.information("persistence", "aof_enabled")
        broker.check_commands()
        broker.check_layout()
        _check_ack(broker, ack, shown, warn)
        if rules is not None:
            _check_rules(broker, rules, warn)
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
    if "0" in appends:
        warn(
            f"WARNING: Redis at {shown} writes at most occasional snapshots: a crash loses events. "
            "Set its appendonly to yes"
        )


def redis_url(settings: Settings) -> str | None:
    """Return the URL of Redis with the user and the files that other settings name; None without ``redis``.

    Raise StartupError for settings that exclude each other, and for a file that cannot be used.
    """
    url = settings.redis
    files = {
        "password_file": settings.redis_password_file, "ca_file": settings.redis_ca_file,
        "cert_file": settings.redis_cert_file, "key_file": settings.redis_key_file,
    }  # fmt: skip
    if url is None:
        if settings.redis_username is not None or any(files.values()):
            raise StartupError("the settings redis_… need redis: the embedded server has no users and no TLS")
        return None
    try:
        url = with_files(
            url, username=settings.redis_username, **{name: path and path.absolute() for name, path in files.items()}
        )
        parameters = dict(parse_qsl(url.partition("?")[2]))
    except ValueError as error:
        raise StartupError(f"{without_password(url)} cannot be the address of a Redis: {error}") from None
    _check_files(parameters)
    return url


def _check_files(parameters: Mapping[str, str]) -> None:
    """Raise StartupError if a file that the parameters of the URL name cannot be used."""
    for name in ("password_file", "sentinel_password_file"):
        if path := parameters.get(name):
            try:
                PasswordFile(None, path).get_credentials()
            except PushError as error:
                raise StartupError(error.detail) from None
    if path := parameters.get("ssl_ca_certs"):
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except ssl.SSLError as error:
            raise StartupError(f"{path}: no certificates ({error})") from None
        except OSError as error:
            raise StartupError(f"{path}: {error.strerror}") from None
    if (path := parameters.get("ssl_certfile")) and "ssl_password" not in parameters:
        key = parameters.get("ssl_keyfile")
        check_certificate(Path(path), None if key is None else Path(key))


def _check_rules(broker: Broker, rules: TopicRules, warn: Callable[[str], None]) -> None:
    digest = blake2b(msgspec.json.encode(rules, enc_hook=str), digest_size=8).hexdigest()
    if broker.exchange_rules(digest) not in (None, digest):
        warn(
            "WARNING: the settings of topics differ from those of the program that started before on this Redis: web "
            "processes, aggregators and applications need the same ones"
        )


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


def check_bind(settings: Settings, *, web: bool = True, metrics: bool = False) -> None:
    """Raise StartupError if other machines could reach a server without credentials, or the port of the metrics, which
    asks for none."""
    if settings.insecure:
        return
    if web and not settings.authorizes:
        _check_loopback(
            settings.host, "no credentials are configured", "read and publish", "Set PUSHSVC_JWT_KEY, or use"
        )
    if metrics and settings.metrics_port is not None:
        _check_loopback(settings.metrics_host, "the metrics need no credentials", "read them", "Use")


def _check_loopback(host: str, reason: str, action: str, advice: str) -> None:
    if not is_loopback(host):
        raise StartupError(
            f"refused to listen on {host}: {reason}, so every machine that reaches the port could {action}. "
            f"{advice} --insecure to allow this on a private network"
        )


def check_transport(settings: Settings, warn: Callable[[str], None]) -> None:
    """``warn`` if tokens would come over a network in clear, and no proxy is known that ends TLS."""
    if settings.authorizes and not (settings.certfile or settings.trusted_proxy or is_loopback(settings.host)):
        warn(
            f"WARNING: {settings.host} is served without TLS, so whoever is on the way reads the tokens of requests. "
            "Use --certfile, or a proxy with TLS and --trusted-proxy"
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
