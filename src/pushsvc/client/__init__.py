"""The Python client."""

from pushsvc.client.client import Client, ClientError

__all__ = ["Client", "ClientError"]
