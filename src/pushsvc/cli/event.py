"""``pushsvc event``: shows, corrects and deletes a stored event."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from pushsvc.cli.credentials import token_from, token_option, url_option
from pushsvc.cli.terminal import visible
from pushsvc.topic import check_topic

_event_argument = click.argument("name", metavar="EVENT")


@click.group(short_help="Show, correct or delete a stored event.")
def event() -> None:
    """Show, correct or delete a stored event of TOPIC.

    EVENT is the id of the event, of several the newest, or $ and its offset, such as '$42'."""


@event.command(short_help="Print an event and what was done to it.")
@click.argument("topic")
@_event_argument
@url_option
@token_option
def show(topic: str, name: str, url: str, token_file: Path | None) -> None:
    """Print EVENT of TOPIC as JSON: its present form and its life."""
    from pushsvc.client import Client

    with Client(url, token=token_from(token_file)) as client:
        _print(client.event(check_topic(topic), name))


@event.command(short_help="Change members of an event.")
@click.argument("topic")
@_event_argument
@click.argument("changes", default="-")
@url_option
@token_option
def correct(topic: str, name: str, changes: str, url: str, token_file: Path | None) -> None:
    """Change EVENT of TOPIC by CHANGES, a JSON Merge Patch such as '{"rating": 4, "note": null}', and print the answer.

    Without CHANGES the patch is read from the standard input.
    """
    from pushsvc.client import Client

    patch = _patch(sys.stdin.read() if changes == "-" else changes)
    with Client(url, token=token_from(token_file)) as client:
        _print(client.correct(check_topic(topic), name, patch))


@event.command(short_help="Delete an event.")
@click.argument("topic")
@_event_argument
@click.option("--erase", is_flag=True, help="Remove its former forms, too, for those who must forget.")
@url_option
@token_option
def delete(topic: str, name: str, url: str, token_file: Path | None, *, erase: bool) -> None:
    """Delete EVENT of TOPIC, and print the answer."""
    from pushsvc.client import Client

    with Client(url, token=token_from(token_file)) as client:
        _print(client.delete_event(check_topic(topic), name, erase=erase))


def _patch(text: str) -> dict[str, Any]:
    try:
        patch = json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"no JSON: {error}", param_hint="CHANGES") from error
    if not isinstance(patch, dict):
        raise click.BadParameter('a JSON object is expected, such as {"rating": 4}', param_hint="CHANGES")
    return patch


def _print(answer: dict[str, Any]) -> None:
    click.echo(visible(json.dumps(answer, ensure_ascii=False)))
