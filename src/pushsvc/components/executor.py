"""Runs the handlers of an application over what a worker sends. Pure: it knows neither Redis nor sockets."""

from __future__ import annotations

import logging
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from time import monotonic

from pushsvc.components.context import Context, HandledEvent, State
from pushsvc.components.failures import BACKOFF, MAX_STATES, RETRIES, TIMEOUT, after_failure, after_timer_failure
from pushsvc.components.messages import Done, Emitted, Gap, GroupOptions, Parked, Run, Timer
from pushsvc.components.registry import Components, Group, Handler
from pushsvc.topic import matches

log = logging.getLogger(__name__)

FetchStates = Callable[[str, list[str]], Sequence[bytes | None]]
"""Returns the stored states of keys of a topic, in the partition and group that run."""

_TURN = 0.5  # seconds after which what is done is stored
_TURN_BYTES = 4_000_000  # of emitted events and states, likewise
_CACHED_STATES = 100_000  # of all groups
_UNKNOWN_TYPES = 100  # of one turn
_LOGGED = 3  # failures of one turn


class StopTurn(Exception):
    """The rest waits for the next turn."""


class Executor:
    """Holds the states of the keys that it saw last. A worker tells it when they are not to be trusted any more."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._states: OrderedDict[tuple[str, int, str, str], State] = OrderedDict()
        self._stateful: set[str] = set()  # groups whose handlers have used states
        self._options = {group.name: options_of(group) for group in components.groups.values()}
        self._handlers: dict[tuple[str, str, str], list[Handler]] = {}

    def forget(self, group: str, partition: int, topic: str | None = None) -> None:
        """Forget the states of a partition, all or those of a topic."""
        start = (group, partition) if topic is None else (group, partition, topic)
        for key in [key for key in self._states if key[: len(start)] == start]:
            del self._states[key]

    def run(self, run: Run, fetch: FetchStates) -> Done:
        """Handle the events, timers and gaps that a worker sends, until the turn is over."""
        turn = _Turn(run, fetch, self._components, self._states, self._options[run.group], self._handlers_of)
        try:
            turn.stateful = run.group in self._stateful
            turn.run()
        finally:
            if turn.stateful:
                self._stateful.add(run.group)
            while len(self._states) > _CACHED_STATES:
                self._states.popitem(last=False)
        return turn.done

    def _handlers_of(self, group: str, topic: str, type: str) -> list[Handler]:
        found = self._handlers.get((group, topic, type))
        if found is None:
            if len(self._handlers) > 10_000:
                self._handlers.clear()
            every = self._components.groups[group].handlers
            found = self._handlers[group, topic, type] = [one for one in every if one.takes(topic, type)]
        return found


class _Turn:
    """One call of ``Executor.run``."""

    def __init__(
        self, run: Run, fetch: FetchStates, components: Components,
        states: OrderedDict[tuple[str, int, str, str], State], options: GroupOptions,
        handlers_of: Callable[[str, str, str], list[Handler]],
    ) -> None:  # fmt: skip
        self.done = Done()
        self.stateful = False
        self._run, self._fetch, self._components, self._options = run, fetch, components, options
        self._states, self._handlers_of = states, handlers_of
        self._held = {topic: set(keys) for topic, keys in run.held.items()}
        self._begun = monotonic()
        self._bytes = 0
        self._failure = "", ""  # reason and traceback of the last one

    def run(self) -> None:
        try:
            self._retry()
            self._call_timers()
            for gap in self._run.gaps:
                self._report(gap)
                self.done.gaps_done += 1
            for entry in self._run.entries:
                if not entry.data:  # a correction: handlers get events as they were published
                    self.done.positions[entry.topic] = entry.first
                    continue
                lines = entry.data.split(b"\n")
                if entry.after >= entry.first:
                    lines = lines[entry.after - entry.first + 1 :]
                self._handle_all(entry.topic, max(entry.first, entry.after + 1), entry.arrival, lines)
        except StopTurn:
            pass
        self.done.seconds = monotonic() - self._begun

    # What is to be done

    def _retry(self) -> None:
        """Handle parked events of one key, until one fails or all are done."""
        done = self.done
        for parked in self._run.parked:
            event = HandledEvent.read(parked.topic, parked.offset, parked.arrival, parked.line)
            context = self._context(event, parked.topic, event.key, parked.attempts + 1)
            if not self._attempt(context, self._handlers_of(self._run.group, event.topic, event.type)):
                found = after_failure(parked, self._options, self._run.now, *self._failure)
                if isinstance(found, Parked):
                    done.failed = found
                    return
                done.emitted.append(found)
                done.dead += 1
            done.retried += 1
            self._check_turn()

    def _call_timers(self) -> None:
        for timer in self._run.due:
            context = self._context(None, timer.topic, timer.key, timer.attempts + 1)
            function = self._components.timers.get(timer.function)
            if timer.id in self.done.timers:
                self.done.timers_done += 1  # a timer before has replaced or cancelled it
                continue
            self.done.timers[timer.id] = None
            if not self._call(context, function, timer):
                found = after_timer_failure(timer, self._options, self._run.now, *self._failure)
                if isinstance(found, Timer):
                    self.done.timers[timer.id] = found
                else:
                    self.done.emitted.append(found)
                    self.done.dead += 1
            self.done.timers_done += 1
            self._check_turn()

    def _call(self, context: Context, function: Callable[..., object] | None, timer: Timer) -> bool:
        try:
            if function is None:
                raise LookupError(f"no timer {timer.function!r} is registered")
            function(context, **timer.data)
            self._keep(context)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its failure
            return self._fail(context, error)
        return True

    def _report(self, gap: Gap) -> None:
        """Call the functions for gaps. A failure is only counted: the events are gone in any case."""
        group = self._components.groups[self._run.group]
        for handler in group.gaps:
            if any(matches(pattern, gap.topic) for pattern in handler.topics):
                context = self._context(None, gap.topic, None, 1)
                try:
                    handler.function(gap, context)
                    self._keep(context)
                except Exception as error:  # noqa: BLE001
                    self._fail(context, error)

    def _handle_all(self, topic: str, first: int, arrival: int, lines: list[bytes]) -> None:
        events = [HandledEvent.read(topic, first + n, arrival, line) for n, line in enumerate(lines)]
        if self.stateful:
            self._fetch_states(topic, events)
        done, group, held = self.done, self._run.group, self._held.get(topic)
        handlers: list[Handler] = []
        last_type = None
        for event, line in zip(events, lines, strict=True):
            if event.type != last_type:
                handlers, last_type = self._handlers_of(group, topic, event.type), event.type
            if not handlers:
                self._count_unknown(topic, event.type)
            elif held is not None and event.key in held:
                done.parked.append(Parked(topic, event.offset, arrival, line, key=event.key))
            elif not self._attempt(self._context(event, topic, event.key, 1), handlers):
                parked = Parked(topic, event.offset, arrival, line, key=event.key)
                self._park(parked)
                held = self._held.get(topic)
            done.positions[topic] = event.offset
            self._check_turn()

    def _park(self, parked: Parked) -> None:
        """Park an event that failed for the first time; events without a key hold up none."""
        found = after_failure(parked, self._options, self._run.now, *self._failure)
        if isinstance(found, Emitted):
            self.done.emitted.append(found)
            self.done.dead += 1
            return
        self.done.parked.append(found)
        if parked.key is not None:
            self._held.setdefault(parked.topic, set()).add(parked.key)

    # One event

    def _context(self, event: HandledEvent | None, topic: str, key: str | None, attempt: int) -> Context:
        room = self._run.timers - len(self.done.timers)
        return Context(
            self._components, self._run.group, event, topic, key, now=self._run.now, attempt=attempt,
            state=lambda: self._state(topic, key or ""), timers=room,
        )  # fmt: skip

    def _attempt(self, context: Context, handlers: Sequence[Handler]) -> bool:
        """Let handlers handle an event, all or nothing; return whether they did."""
        try:
            for handler in handlers:
                context.replies = handler.replies
                handler.function(context.event, context)
            self._keep(context)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is its failure
            return self._fail(context, error)
        self.done.handled += 1
        return True

    def _keep(self, context: Context) -> None:
        """Take over what a handler did; raise ValueError if its state cannot be stored."""
        done = self.done
        if context.found_state is not None:
            stored = context.found_state.changed()
            if stored is not None:
                self._count_state(context.topic, bool(stored) - bool(context.found_state.stored))
                context.found_state.stored = stored
                done.states.setdefault(context.topic, {})[context.key or ""] = stored
                self._bytes += len(stored)
        if context.emitted:
            done.emitted += context.emitted
            self._bytes += sum(len(one.line) for one in context.emitted)
        done.timers.update(context.timers)
        done.refused_replies += context.refused_replies

    def _fail(self, context: Context, error: Exception) -> bool:
        self.done.failures += 1
        if self.done.failures <= _LOGGED:
            event = context.topic if context.event is None else f"{context.topic} {context.event.offset}"
            log.warning("%s: %s failed at attempt %d", context.group, event, context.attempt, exc_info=error)
        self._failure = f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))
        if context.found_state is not None:
            context.found_state.value = None  # what the handler changed is void
        return False

    # States

    def _state(self, topic: str, key: str) -> State:
        self.stateful = True
        place = (self._run.group, self._run.partition, topic, key)
        found = self._states.get(place)
        if found is None:
            (stored,) = self._fetch(topic, [key])
            found = self._states[place] = State(stored or b"")
        else:
            self._states.move_to_end(place)
        return found

    def _fetch_states(self, topic: str, events: Sequence[HandledEvent]) -> None:
        """Ask for all states at once that the events may need."""
        group, partition = self._run.group, self._run.partition
        keys = {event.key or "" for event in events}
        missing = sorted(key for key in keys if (group, partition, topic, key) not in self._states)
        if missing:
            for key, stored in zip(missing, self._fetch(topic, missing), strict=True):
                self._states[group, partition, topic, key] = State(stored or b"")

    # Bounds

    def _count_state(self, topic: str, more: int) -> None:
        """Count a key that gets a state (1), or loses it (-1). Raise ValueError if no more keys may have one."""
        done, most = self.done, self._options.max_states
        added = done.new_states.get(topic, 0) + more
        if more > 0 and self._run.states.get(topic, 0) + added > most:
            done.refused_states[topic] = done.refused_states.get(topic, 0) + 1
            raise ValueError(f"{most} keys of {topic} have a state, and max_states allows no more")
        if more:
            done.new_states[topic] = added

    def _count_unknown(self, topic: str, type: str) -> None:
        counts = self.done.unknown.setdefault(topic, {})
        name = type if type in counts or len(counts) < _UNKNOWN_TYPES else "…"
        counts[name] = counts.get(name, 0) + 1

    def _check_turn(self) -> None:
        """Raise StopTurn if it is time to store what is done."""
        done, run = self.done, self._run
        if len(done.parked) >= run.parks or self._bytes > _TURN_BYTES or len(done.emitted) > 5_000:
            raise StopTurn
        if monotonic() - self._begun > _TURN:
            raise StopTurn


def options_of(group: Group) -> GroupOptions:
    """Return the options of a group with defaults."""
    return GroupOptions(
        group.name, group.patterns(), group.start == "beginning", RETRIES if group.retries is None else group.retries,
        BACKOFF if group.backoff is None else group.backoff, TIMEOUT if group.timeout is None else group.timeout,
        MAX_STATES if group.max_states is None else group.max_states,
    )  # fmt: skip
