"""The Python client. It uses sockets of the standard library, so it works in threads and under gevent."""

from pushsvc.client.batches import InvalidValue
from pushsvc.client.client import Client
from pushsvc.client.session import ClientError

__all__ = ["Client", "ClientError", "InvalidValue"]
