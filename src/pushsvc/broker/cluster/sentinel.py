"""Sentinels: who is asked, before each connect, which server is the primary now."""

from __future__ import annotations

from redis import exceptions

from pushsvc.broker.cluster.address import Address, Host, shown
from pushsvc.broker.connection import ask
from pushsvc.errors import BrokerUnavailable, StartupError


class Sentinels:
    """The Sentinels of one master. The one that answered last is asked first."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._hosts = list(address.hosts)

    def primary(self) -> Host:
        """Return where the primary is. Raise BrokerUnavailable, or StartupError where no Sentinel was named."""
        failures = []
        for host in list(self._hosts):
            try:
                found = ask(self._address.sentinel(host), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.master)
            except BrokerUnavailable as error:
                failures.append(f"{shown(host)}: {error.detail}")
                continue
            except exceptions.ResponseError as error:
                if "unknown command" in str(error).lower():
                    raise StartupError(f"{shown(host)} is no Sentinel: name one server as redis://host:port") from error
                failures.append(f"{shown(host)}: {error}")
                continue
            if found:
                # In one go: threads may ask at the same time.
                self._hosts = [host, *(other for other in self._hosts if other != host)]
                return found[0].decode(), int(found[1])
            failures.append(f"{shown(host)}: knows no master {self._address.master!r}")
        raise BrokerUnavailable(f"no Sentinel names the primary: {', '.join(failures)}")
