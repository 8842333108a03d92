"""The live connection of a process to a primary: it receives messages of subscribed channels and detects silence."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from itertools import islice
from typing import Any

import gevent
from gevent import get_hub
from gevent.event import AsyncResult, Event
from gevent.lock import RLock
from redis import exceptions

from pushsvc.broker.confirmations import Confirmation, Confirmations
from pushsvc.broker.connection_pool import ConnectionPool
from pushsvc.broker.keys import slot_of
from pushsvc.broker.reply_reader import ReplyReader, no_reading_pause
from pushsvc.errors import PushError

log = logging.getLogger(__name__)

PROBE_INTERVAL = 3.0  # seconds of silence until a PING; after as many again the connection is given up
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_PONGS = (b"PONG", [b"pong", b""])  # replies to PING: without a subscription, and with one
_ARRIVED = b"arrived"
_ARRIVED_PONGS = (_ARRIVED, [b"pong", _ARRIVED])
_MESSAGES = (b"message", b"smessage", b"pmessage")
_TOGETHER = 500  # channels that are subscribed with one command

OnMessage = Callable[[str, bytes], bool]
OnUnhandled = Callable[[str, bytes], None]


class LiveConnection:
    """Keeps a set of channels subscribed, over reconnects too.

    ``on_message(channel, data)`` gets each message and returns whether it handled it; it mostly runs in gevent's hub,
    so it must not block. Other messages go to ``on_unhandled``, which may block briefly, as may ``on_up()``: nothing
    is read meanwhile. ``on_up`` means that earlier messages may be lost: read the logs. A message without data means
    that every later message on the channel will arrive. In a cluster channels are ``sharded``, and
    ``on_slots_changed()`` means that the primary is gone or has given slots away.

    After each read ``reading_pause()`` returns for how many seconds later messages may wait, so that more come at once.

    The channels of one turn of the loop are subscribed together. ``start`` runs ``connect``, ``send_changes`` and
    ``dispatch`` when it is their time.
    """

    def __init__(
        self,
        connections: ConnectionPool,
        on_message: OnMessage,
        on_up: Callable[[], None],
        *,
        on_unhandled: OnUnhandled = lambda *_: None,
        sharded: bool = False,
        on_slots_changed: Callable[[], None] = lambda: None,
        confirmations: Confirmations | None = None,
        reading_pause: Callable[[], float] = no_reading_pause,
    ) -> None:
        self._connections = connections
        self._on_message = on_message
        self._on_unhandled = on_unhandled
        self._on_up = on_up
        self._on_slots_changed = on_slots_changed
        self._reading_pause = reading_pause
        self._subscribe, self._unsubscribe = ("SSUBSCRIBE", "SUNSUBSCRIBE") if sharded else ("SUBSCRIBE", "UNSUBSCRIBE")
        self._sharded = sharded
        self._patterns: set[str] = set()
        self._channels: dict[str, str] = {}  # each maps to itself: a copy of the name costs as much as a topic
        self._confirmations = Confirmations() if confirmations is None else confirmations
        self._changes: dict[str, bool] = {}  # channel -> whether to subscribe to it; to be sent in this turn
        self._sends_changes = False
        self._unanswered: dict[str, int] = {}  # channel -> number of subscriptions under way
        self._connection: Any = None
        self._reader: ReplyReader | None = None
        self._arrival: AsyncResult[bool] | None = None  # set by the reply to the PING under way
        self._next_arrival: AsyncResult[bool] | None = None  # by that to the PING that is sent after it
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
        """True if the reading greenlet has ended, which is a bug."""
        return self._greenlet is not None and self._greenlet.dead

    def receives(self, partitions: Iterable[int]) -> bool:
        """Return whether messages of these partitions arrive now."""
        return self.up.is_set()

    def subscribe(self, channel: str) -> Confirmation:
        """Subscribe, together with all others of this turn of the loop; return the confirmation to come."""
        if channel not in self._channels:
            self._channels[channel] = channel
            self._change(channel, subscribe=True)
        return Confirmation(self._confirmations, channel)

    def is_confirmed(self, channel: str) -> bool:
        """Return whether every message on the channel arrives from now on."""
        return channel in self._channels and channel in self._confirmations

    def wait_arrived(self, channel: str, timeout: float) -> bool:
        """Wait until every message on a channel that Redis has sent up to now has arrived; return whether it has.

        False: the connection breaks or the subscription is not confirmed, so that messages may be lost. The reply to a
        PING comes behind the messages. One PING serves all callers that come while another is under way.
        """
        if not self.up.is_set() or not self.is_confirmed(channel):
            return False
        if self._arrival is None:
            arrival = self._arrival = AsyncResult()
            self._send("PING", _ARRIVED.decode())
        else:
            arrival = self._next_arrival = self._next_arrival or AsyncResult()
        return bool(arrival.wait(timeout)) and self.is_confirmed(channel)

    def _on_arrived(self) -> None:
        arrival, self._arrival, self._next_arrival = self._arrival, self._next_arrival, None
        if arrival is not None:
            arrival.set(True)
        if self._arrival is not None:
            self._send("PING", _ARRIVED.decode())

    def subscribe_again(self, channel: str) -> None:
        """Repeat a subscription that Redis has not confirmed."""
        self._change(channel, subscribe=True)

    def unsubscribe(self, channel: str) -> None:
        if channel in self._channels:
            del self._channels[channel]
            self._confirmations.discard(channel)
            self._change(channel, subscribe=False)

    def _change(self, channel: str, *, subscribe: bool) -> None:
        """Let a change be sent at the end of this turn, if connected: every connect sends all subscriptions."""
        if self._connection is None:
            return
        self._changes[channel] = subscribe
        if not self._sends_changes:
            self._sends_changes = True
            gevent.spawn(self.send_changes)

    def send_changes(self) -> None:
        """Send the changes, in pieces between which the event loop gets a turn."""
        try:
            while self._changes:
                with self._sending:
                    piece = dict(islice(self._changes.items(), _TOGETHER))
                    for channel in piece:
                        del self._changes[channel]
                    for command, wanted in ((self._unsubscribe, False), (self._subscribe, True)):
                        self._send_channels(command, [channel for channel in piece if piece[channel] is wanted])
                if self._changes:
                    get_hub().wait(get_hub().loop.timer(0))
        finally:
            self._sends_changes = False

    def _send_channels(self, command: str, channels: Sequence[str]) -> None:
        if channels:
            self._send_all(self._commands(command, channels))

    def _commands(self, command: str, channels: Sequence[str]) -> list[tuple[str, ...]]:
        """Return commands for channels. One command must not name sharded channels of several slots, and a refusal
        must tell which channel it is about."""
        size = 1 if self._sharded else _TOGETHER
        return [(command, *channels[start : start + size]) for start in range(0, len(channels), size)]

    def subscribe_pattern(self, pattern: str) -> None:
        if pattern not in self._patterns:
            self._patterns.add(pattern)
            self._send("PSUBSCRIBE", pattern)

    def unsubscribe_pattern(self, pattern: str) -> None:
        if pattern in self._patterns:
            self._patterns.discard(pattern)
            self._send("PUNSUBSCRIBE", pattern)

    def _send(self, *command: str) -> None:
        self._send_all([command])

    def _send_all(self, commands: Sequence[Sequence[str]]) -> None:
        """Send if connected. Else nothing is lost: every connect sends all subscriptions."""
        with self._sending:
            connection = self._connection
            if connection is None:
                return
            for command, *channels in commands:
                if command == self._subscribe:
                    for channel in channels:
                        self._unanswered[channel] = self._unanswered.get(channel, 0) + 1
            try:
                connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            except (exceptions.RedisError, OSError) as error:
                self._drop(error)
            except BaseException:  # a killed greenlet: half a command may have been sent
                self._drop(exceptions.ConnectionError("a command was sent only in part"))
                raise

    def _drop(self, error: Exception) -> None:
        """Disconnect; the reading greenlet reconnects."""
        connection, self._connection = self._connection, None
        connection.disconnect()
        if self._reader is not None:
            self._reader.fail(error)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                self.connect()
                self._receive()
            except (PushError, exceptions.RedisError, OSError) as error:
                log.warning("live connection to Redis lost: %s", error)
            except Exception:
                log.exception("live connection to Redis failed")  # ending here would cut the process off for ever
            finally:
                pause = _FIRST_PAUSE if self.up.is_set() else min(2 * pause, _LONGEST_PAUSE)
                self._disconnect()
            self._on_slots_changed()
            gevent.sleep(pause)

    def connect(self) -> None:
        """Connect and subscribe to all channels."""
        connection = self._connections.open()
        with self._sending:
            self._connection = connection
            # A concurrent subscription may be sent twice, which is harmless.
            self._changes.clear()
            self._unanswered = dict.fromkeys(self._channels, 1)
            wanted = self._commands(self._subscribe, list(self._channels))
            wanted += [("PSUBSCRIBE", pattern) for pattern in self._patterns]
            wanted.append(("PING",))
            connection.send_packed_command(connection.pack_commands(wanted), check_health=False)

    def _disconnect(self) -> None:
        self.up.clear()
        self._reader = None
        connection, self._connection = self._connection, None
        for channel in self._channels:
            self._confirmations.discard(channel)
        for arrival in (self._arrival, self._next_arrival):
            if arrival is not None:
                arrival.set(False)
        self._arrival = self._next_arrival = None
        if connection is not None:
            with suppress(OSError, exceptions.RedisError):
                connection.disconnect()

    def _receive(self) -> None:
        with closing(ReplyReader(self._connection._sock, self._handle, self._reading_pause)) as reader:
            self._reader = reader
            probed = False
            while True:
                replies = reader.replies(PROBE_INTERVAL)
                if replies is not None:
                    probed = False
                    for reply in replies:
                        self.dispatch(reply)
                elif probed:
                    raise exceptions.TimeoutError("Redis was silent and did not answer a PING")
                else:
                    probed = True
                    self._send("PING")

    def _handle(self, reply: Any) -> bool:
        """Deliver a message within gevent's hub; return whether the reply is done with."""
        if not isinstance(reply, list):
            return False
        if reply[0] not in _MESSAGES:
            if self._next_arrival is None and reply in _ARRIVED_PONGS:
                self._on_arrived()  # sends nothing, so it does not block
                return True
            return False
        try:
            return self._on_message(reply[-2].decode("utf-8", "replace"), reply[-1])
        except Exception:
            log.exception(
                "handling a message on %s failed", reply[-2]
            )  # the connection must survive a faulty subscriber
            return True

    def dispatch(self, reply: Any) -> None:
        """Process a reply in the reading greenlet, which may block."""
        if isinstance(reply, exceptions.ResponseError):
            if not str(reply).startswith("MOVED "):
                raise reply
            self._on_moved(int(str(reply).split()[1]))
        elif reply in _ARRIVED_PONGS:
            self._on_arrived()
        elif reply in _PONGS:
            if not self.up.is_set():
                self._on_up()
                self.up.set()
        elif reply[0] in _MESSAGES:
            self._deliver(reply[-2].decode("utf-8", "replace"), reply[-1])
        elif reply[0] == b"sunsubscribe":
            self._on_sunsubscribe(reply[1])
        elif reply[0] in (b"subscribe", b"ssubscribe"):
            self._on_subscribed(reply[1].decode())

    def _on_moved(self, slot: int) -> None:
        """A subscription was refused because another primary has the slot."""
        refused = next((channel for channel in self._unanswered if slot_of(channel) == slot), None)
        if refused is not None:
            self._is_last_answer(refused)
        self._on_slots_changed()

    def _is_last_answer(self, channel: str) -> bool:
        """Count the answer to a subscription; return whether no other answer is due."""
        left = self._unanswered.pop(channel, 1) - 1
        if left > 0:
            self._unanswered[channel] = left
        return left <= 0

    def _on_subscribed(self, channel: str) -> None:
        if not self._is_last_answer(channel):
            return  # an unsubscribe came between: only the last subscription is in force
        known = self._channels.get(channel)
        if known is not None:
            self._confirmations.add(known)
            # Earlier messages did not arrive: a message without data makes the channel's followers read the log.
            self._deliver(channel, b"")

    def _on_sunsubscribe(self, channel: bytes | None) -> None:
        """Redis sends this for an own command, and when the channel's slot moves to another primary."""
        name = (channel or b"").decode()
        if name in self._channels:
            self._confirmations.discard(name)
            self._on_slots_changed()

    def _deliver(self, channel: str, data: bytes) -> None:
        try:
            if not self._on_message(channel, data):
                self._on_unhandled(channel, data)
        except Exception:
            log.exception("handling a message on %s failed", channel)
