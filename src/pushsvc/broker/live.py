"""The live connection of a process to a primary: it hears that logs have grown, and knows when it is deaf."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from typing import Any

import gevent
from gevent.event import Event
from gevent.lock import RLock
from redis import exceptions

from pushsvc.broker.connection import Connections
from pushsvc.broker.keys import slot_of
from pushsvc.broker.reading import Reading
from pushsvc.errors import PushError

log = logging.getLogger(__name__)

PROBE = 3.0
"""Seconds of silence after which the connection probes itself, and again until it is given up."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_ECHOES = (b"PONG", [b"pong", b""])
"""Answers to a probe: while nothing is subscribed, and then."""

_MESSAGES = (b"message", b"smessage", b"pmessage")

OnMessage = Callable[[str, bytes], bool]


class LiveConnection:
    """Keeps a set of channels subscribed, over reconnects too.

    ``on_message(channel, data)`` gets each message and returns whether it handled it; it mostly runs in gevent's hub,
    so it must not block. Other messages go to ``on_unhandled``, which may block briefly, as may ``on_up()``: nothing
    is read meanwhile. ``on_up`` means that all earlier messages may be lost: read the logs. A message without data
    means that every later message on the channel will arrive. In a cluster channels are ``sharded``, and ``on_doubt()``
    means that the primary is gone or has given slots away.
    """

    def __init__(
        self,
        connections: Connections,
        on_message: OnMessage,
        on_up: Callable[[], None],
        *,
        on_unhandled: Callable[[str, bytes], None] = lambda *_: None,
        sharded: bool = False,
        on_doubt: Callable[[], None] = lambda: None,
    ) -> None:
        self._connections = connections
        self._on_message = on_message
        self._on_unhandled = on_unhandled
        self._on_up = on_up
        self._on_doubt = on_doubt
        self._subscribe, self._unsubscribe = ("SSUBSCRIBE", "SUNSUBSCRIBE") if sharded else ("SUBSCRIBE", "UNSUBSCRIBE")
        self._patterns: set[str] = set()
        self._confirmed: dict[str, Event] = {}
        self._asked: dict[str, int] = {}  # subscriptions that are not answered yet
        self._connection: Any = None
        self._reading: Reading | None = None
        self._sending = RLock()
        self._greenlet: gevent.Greenlet[..., None] | None = None
        self.up = Event()

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def close(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()

    @property
    def dead(self) -> bool:
        """True when the reading greenlet ended, which it never should."""
        return self._greenlet is not None and self._greenlet.dead

    def wait_up(self, timeout: float) -> bool:
        """Wait until it hears; return whether it does."""
        return bool(self.up.wait(timeout))

    def receives(self, partitions: Iterable[int]) -> bool:
        """Tell whether what is said of partitions is heard now."""
        return self.up.is_set()

    def subscribe(self, channel: str, confirmed: Event | None = None) -> Event:
        """Subscribe, and return what is set once Redis has confirmed it."""
        if channel not in self._confirmed:
            self._confirmed[channel] = confirmed or Event()
            self._send(self._subscribe, channel)
        return self._confirmed[channel]

    def is_confirmed(self, channel: str) -> bool:
        """Tell whether all that is said on a channel from now on is heard."""
        confirmed = self._confirmed.get(channel)
        return confirmed is not None and confirmed.is_set()

    def ask_again(self, channel: str) -> None:
        """Ask once more for a channel that is not confirmed."""
        self._send(self._subscribe, channel)

    def unsubscribe(self, channel: str) -> None:
        if self._confirmed.pop(channel, None) is not None:
            self._send(self._unsubscribe, channel)

    def subscribe_pattern(self, pattern: str) -> None:
        if pattern not in self._patterns:
            self._patterns.add(pattern)
            self._send("PSUBSCRIBE", pattern)

    def unsubscribe_pattern(self, pattern: str) -> None:
        if pattern in self._patterns:
            self._patterns.discard(pattern)
            self._send("PUNSUBSCRIBE", pattern)

    def _send(self, *command: str) -> None:
        """Send if connected; the sets above are sent whole after every connect, so nothing is lost if not."""
        with self._sending:
            connection = self._connection
            if connection is None:
                return
            if command[0] == self._subscribe:
                self._asked[command[1]] = self._asked.get(command[1], 0) + 1
            try:
                connection.send_command(*command, check_health=False)
            except (exceptions.RedisError, OSError) as error:
                self._give_up(error)
            except BaseException:  # a killed greenlet: half a command may have been sent
                self._give_up(exceptions.ConnectionError("a command was cut short"))
                raise

    def _give_up(self, error: Exception) -> None:
        """Let the greenlet that reads connect anew."""
        connection, self._connection = self._connection, None
        connection.disconnect()
        if self._reading is not None:
            self._reading.fail(error)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                self._connect()
                self._listen()
            except (PushError, exceptions.RedisError, OSError) as error:
                log.warning("live connection to Redis lost: %s", error)
            except Exception:
                log.exception("live connection to Redis")  # a process that is deaf for ever is worse than a loop
            finally:
                pause = _FIRST_PAUSE if self.up.is_set() else min(2 * pause, _LONGEST_PAUSE)
                self._disconnect()
            self._on_doubt()
            gevent.sleep(pause)

    def _connect(self) -> None:
        connection = self._connections.open()
        with self._sending:
            self._connection = connection
            # Whatever is subscribed while this is under way comes twice, which is harmless. One name in each command:
            # sharded channels of several slots may not stand together.
            self._asked = dict.fromkeys(self._confirmed, 1)
            wanted: list[tuple[str, ...]] = [(self._subscribe, channel) for channel in self._confirmed]
            wanted += [("PSUBSCRIBE", pattern) for pattern in self._patterns]
            wanted.append(("PING",))
            connection.send_packed_command(connection.pack_commands(wanted), check_health=False)

    def _disconnect(self) -> None:
        self.up.clear()
        self._reading = None
        connection, self._connection = self._connection, None
        for confirmed in self._confirmed.values():
            confirmed.clear()
        if connection is not None:
            with suppress(OSError, exceptions.RedisError):
                connection.disconnect()

    def _listen(self) -> None:
        with closing(Reading(self._connection._sock, self._take)) as reading:
            self._reading = reading
            probed = False
            while True:
                answers = reading.answers(PROBE)
                if answers is not None:
                    probed = False
                    for answer in answers:
                        self._dispatch(answer)
                elif probed:
                    raise exceptions.TimeoutError("nothing was heard, and a probe was not answered")
                else:
                    probed = True
                    self._send("PING")

    def _take(self, answer: Any) -> bool:
        """Let a message be heard at once, in gevent's hub; return whether it is done with."""
        if not isinstance(answer, list) or answer[0] not in _MESSAGES:
            return False
        try:
            return self._on_message(answer[-2].decode("utf-8", "replace"), answer[-1])
        except Exception:
            log.exception("live message on %s", answer[-2])  # one that raises must not deafen the process
            return True

    def _dispatch(self, answer: Any) -> None:
        """Do with an answer what may wait."""
        if isinstance(answer, exceptions.ResponseError):
            if not str(answer).startswith("MOVED "):
                raise answer
            self._refused(int(str(answer).split()[1]))
        elif answer in _ECHOES:
            self._rise()
        elif answer[0] in _MESSAGES:
            self._tell(answer[-2].decode("utf-8", "replace"), answer[-1])
        elif answer[0] == b"sunsubscribe":
            self._taken_away(answer[1])
        elif answer[0] in (b"subscribe", b"ssubscribe"):
            self._confirm(answer[1].decode())

    def _rise(self) -> None:
        """It hears. What was said before that is for whoever looks from now on."""
        if not self.up.is_set():
            self._on_up()
            self.up.set()

    def _refused(self, slot: int) -> None:
        """A channel's slot is elsewhere: whoever knows the cluster subscribes there."""
        asked = next((channel for channel in self._asked if slot_of(channel) == slot), None)
        if asked is not None:
            self._is_last(asked)
        self._on_doubt()

    def _is_last(self, channel: str) -> bool:
        """Note the answer to a subscription; return whether no other one is under way."""
        left = self._asked.pop(channel, 1) - 1
        if left > 0:
            self._asked[channel] = left
        return left <= 0

    def _confirm(self, channel: str) -> None:
        if not self._is_last(channel):
            return  # it was let go of between, and nothing is heard until the last of them
        confirmed = self._confirmed.get(channel)
        if confirmed is not None:
            confirmed.set()
            # What was said before this moment was not heard: whoever follows the channel looks once more.
            self._tell(channel, b"")

    def _taken_away(self, channel: bytes | None) -> None:
        """The answer to an own command, or word that the channel's slot goes to another primary."""
        confirmed = self._confirmed.get((channel or b"").decode())
        if confirmed is not None:
            confirmed.clear()
            self._on_doubt()

    def _tell(self, channel: str, data: bytes) -> None:
        try:
            if not self._on_message(channel, data):
                self._on_unhandled(channel, data)
        except Exception:
            log.exception("live message on %s", channel)
