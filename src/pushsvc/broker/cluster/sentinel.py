"""Sentinels: asked before each connect which server is the primary."""

from __future__ import annotations

from redis import exceptions

from pushsvc.broker.cluster.address import Address, host_text
from pushsvc.broker.redis_connection import ask
from pushsvc.broker.replies import Host
from pushsvc.errors import BrokerUnavailable, StartupError


class Sentinels:
    """The Sentinels of one master. The Sentinel that answered last is asked first."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._hosts = list(address.hosts)

    def primary(self) -> Host:
        """Return the primary's address. Raise BrokerUnavailable, or StartupError if the URL names no Sentinel."""
        failures = []
        for host in list(self._hosts):
            try:
                found = ask(self._address.sentinel(host), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.master)
            except BrokerUnavailable as error:
                failures.append(f"{host_text(host)}: {error.detail}")
                continue
            except exceptions.ResponseError as error:
                if "unknown command" in str(error).lower():
                    raise StartupError(
                        f"{host_text(host)} is no Sentinel: name one server as redis://host:port"
                    ) from error
                failures.append(f"{host_text(host)}: {error}")
                continue
            if found:
                # One assignment: threads may ask at the same time.
                self._hosts = [host, *(other for other in self._hosts if other != host)]
                return found[0].decode(), int(found[1])
            failures.append(f"{host_text(host)}: knows no master {self._address.master!r}")
        raise BrokerUnavailable(f"no Sentinel names the primary: {', '.join(failures)}")
