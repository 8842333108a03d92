"""Counts every request of the app, before it is looked at and after its subject is known."""

from __future__ import annotations

from flask import Flask, request

from pushsvc.web.authorization import granted
from pushsvc.web.long_requests import CLIENT, client_of
from pushsvc.web.rates.accounts import Account, Accounts, is_loopback

_ALWAYS = frozenset({"/livez", "/readyz"})
"""Answered despite a limit: restarting the server would make all its subscribers reconnect at once."""


def install(app: Flask, accounts: Accounts) -> None:
    """Count each request for its address. Install it before anything that a request may cost much."""

    @app.before_request
    def count() -> None:
        client = client_of(request)
        if client.accounts is None:  # another server
            client = client._replace(accounts=accounts.of_address(client.address), local=is_loopback(client.address))
            request.environ[CLIENT] = client
        _count(client.accounts or ())


def install_subjects(app: Flask, accounts: Accounts) -> None:
    """Count each request for its subject. Install it after the credentials were read."""

    @app.before_request
    def count() -> None:
        subject = granted().subject
        if not subject:
            return
        client = client_of(request)
        account = accounts.of_subject(subject, loopback=client.local)
        request.environ[CLIENT] = client._replace(accounts=(*(client.accounts or ()), *account))
        _count(account)


def _count(accounts: tuple[Account, ...]) -> None:
    """Raise TooManyRequests, which a stream tells with 200 and a time to come back."""
    if request.path not in _ALWAYS:
        for account in accounts:
            account.count_request()
