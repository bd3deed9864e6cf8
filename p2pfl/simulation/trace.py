"""Traces: every event of every machine of a scenario, and what it answered; and their replay.

A trace is JSON lines: the scenario; then, in the order of things, a line for each life of a node and one for
each event. What a machine answers is written in words, with digests of what it sends, so two answers are
alike exactly if their words are. A replay makes the same machines, from the scenario alone, hands them the
events, and compares. Machines take their randomness from the scenario's seed, so nothing secret needs to be
written down. (What `work` returns is computed again.)
"""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TextIO

import numpy as np

from p2pfl.crypto.ring import Ring
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.events import (
    Completed,
    Compute,
    Computed,
    Connect,
    Contribute,
    Contribution,
    Delivered,
    Effect,
    Event,
    Evidence,
    PeerFound,
    PeerLost,
    Prepared,
    Received,
    Renewed,
    Send,
    SetTimer,
    Skipped,
    TimerExpired,
)
from p2pfl.gossip.evidence import Accusation
from p2pfl.gossip.participant import MESSAGES
from p2pfl.gossip.simulation import Machine
from p2pfl.gossip.wire import Limits, Message, decode_relayed, encode
from p2pfl.simulation.protocol_nodes import Roll, WallClock, manifest_of
from p2pfl.simulation.scenario import Scenario, from_plain

FORMAT: Final = 1
MOST_BYTES: Final = 1 << 30
_DIGEST: Final = 16


class TraceError(ValueError):
    """Not a trace, or not one that this version reads; says which line."""


class Recorder:
    """Writes the trace of ``scenario`` to ``out``: at most so many bytes, and then that it stops."""

    def __init__(self, scenario: Scenario, out: TextIO, most_bytes: int = MOST_BYTES) -> None:
        self._out, self._left = out, most_bytes
        self._write({"trace": FORMAT, "scenario": scenario.table})

    def life(
        self, node: int, life: int, next_round: int, accusations: Sequence[Accusation], ahead: float
    ) -> None:
        """A node starts, with what its driver kept and a clock so far ahead."""
        kept = [_text(encode(accusation)) for accusation in accusations]
        line = {"node": node, "life": life, "next_round": next_round, "accusations": kept, "ahead": ahead}
        self._write(line)

    def event(self, node: int, now: float, event: Event, answer: list[str]) -> None:
        """What happened to a node, and its answer."""
        self._write({"at": now, "node": node, "event": _written(event), "answer": answer})

    def _write(self, line: object) -> None:
        if self._left <= 0:
            return
        text = json.dumps(line, separators=(",", ":")) + "\n"
        self._left -= len(text)
        if self._left <= 0:
            text = json.dumps({"truncated": True}) + "\n"
        self._out.write(text)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A machine of ``node`` whose every event is recorded."""

    machine: Machine
    node: int
    recorder: Recorder

    def handle(self, event: Event, now: float) -> list[Effect]:
        """As the machine does."""
        if isinstance(event, Contribution):  # it may be given out once only
            event = Contribution(event.round, np.array(event.values[:]))
        try:
            effects = self.machine.handle(event, now)
        except RemoteProtocolError as error:
            self.recorder.event(self.node, now, event, [f"refused {error.peer}: {error.reason}"])
            raise
        self.recorder.event(self.node, now, event, list(map(in_words, effects)))
        return effects


@dataclass(frozen=True, slots=True)
class Replayed:
    """So many ``events`` of ``lives`` lives were replayed. ``difference``: the first answer that was another;
    empty if none was. ``truncated``: the trace ends before the scenario did.
    """

    lives: int
    events: int
    truncated: bool
    difference: str


def in_words(effect: Effect) -> str:
    """All that matters of an effect; of long contents a digest."""
    match effect:
        case Send(peer, message):
            return f"send {peer} {message.TAG} {_digest(encode(message))}"
        case SetTimer(key, at):
            return f"timer {key} {at!r}"
        case Connect(peer, addresses):
            return f"connect {peer} {' '.join(addresses)}"
        case Compute(round, key):
            return f"compute {round} {key}"
        case Contribute(round, attempt, members, _, spent):
            return f"contribute {round} {attempt} {spent} {' '.join(members)}"
        case Completed(round, stage, total, survivors):
            return f"completed {round} {stage} {_digest(total.tobytes())} {' '.join(survivors)}"
        case Skipped(round, stage, reason, sent):
            return f"skipped {round} {stage} {sent}: {reason}"
        case Evidence(peer, kind, messages):
            return f"evidence {peer} {_digest(b''.join(map(encode, messages)))}: {kind}"
    return repr(effect)


def replay(lines: Iterator[str]) -> Replayed:
    """Do it all again. Raises TraceError for anything that is no trace."""
    try:
        return _Replay(json.loads(next(lines))).run(lines)
    except TraceError:
        raise
    except (ValueError, KeyError, TypeError, IndexError, StopIteration) as error:
        raise TraceError(f"not a trace of this version: {error}") from None


@dataclass(slots=True)
class _Life:
    """A machine that is at it again."""

    handle: Callable[[Event, float], list[Effect]]
    computed: dict[tuple[int, str], object] = field(default_factory=dict)

    def answer(self, event: Event, now: float) -> list[str]:
        try:
            effects = self.handle(event, now)
        except RemoteProtocolError as error:
            return [f"refused {error.peer}: {error.reason}"]
        for effect in effects:
            if isinstance(effect, Compute):
                self.computed[effect.round, effect.key] = effect.work()
        return list(map(in_words, effects))


class _Replay:
    def __init__(self, head: Any) -> None:
        if head["trace"] != FORMAT:
            raise TraceError(f"a trace of format {head['trace']}; this version reads {FORMAT}")
        self._scenario = from_plain(head["scenario"])
        self._limits = Limits(self._scenario.elements)
        self._roll = Roll(self._scenario, manifest_of(self._scenario))
        self._lives: dict[int, _Life] = {}
        self._messages: dict[str, Message] = {}

    def run(self, lines: Iterator[str]) -> Replayed:
        lives = events = 0
        for text in lines:
            line = json.loads(text)
            if "truncated" in line:
                return Replayed(lives, events, True, "")
            if "life" in line:
                lives += 1
                self._begin(line)
                continue
            events += 1
            difference = self._event(line)
            if difference:
                return Replayed(lives, events, False, difference)
        return Replayed(lives, events, False, "")

    def _begin(self, line: Any) -> None:
        from p2pfl.simulation.protocol_engine import Started

        clock = WallClock(line["ahead"])
        kept = [self._message(text) for text in line["accusations"]]
        accusations = [message for message in kept if isinstance(message, Accusation)]
        node = line["node"]
        participant = self._roll.participant(node, line["life"], line["next_round"], accusations, clock)
        self._lives[node] = _Life(Started(participant, clock).handle)

    def _event(self, line: Any) -> str:
        """Replay it; what is different, or nothing."""
        life = self._lives[line["node"]]
        answer = life.answer(self._read(line["event"], life), line["at"])
        if answer == line["answer"]:
            return ""
        place = f"node {line['node']} at {line['at']:g} s, {line['event'][0]}"
        for position in range(max(len(answer), len(line["answer"]))):
            then = line["answer"][position : position + 1] or ["nothing"]
            now = answer[position : position + 1] or ["nothing"]
            if then != now:
                return f"{place}: it answered {then[0]}, and now {now[0]}"
        raise AssertionError("they are alike")

    def _read(self, written: Any, life: _Life) -> Event:
        match written:
            case ["received", peer, text]:
                return Received(peer, self._message(text))
            case ["timer", key]:
                return TimerExpired(key)
            case ["found", peer]:
                return PeerFound(peer)
            case ["lost", peer]:
                return PeerLost(peer)
            case ["prepared", round, stage, dim, digest, bits, spent]:
                return Prepared(round, stage, dim, bytes.fromhex(digest), Ring(bits), spent)
            case ["contribution", round, dtype, text]:
                return Contribution(round, np.frombuffer(b64decode(text), np.dtype(dtype)))
            case ["computed", round, key]:
                return Computed(round, key, life.computed.pop((round, key)))
            case ["delivered", text]:
                return Delivered(self._message(text))
            case ["renewed", ticket]:
                return Renewed(ticket)
        raise TraceError(f"no event: {written!r:.60}")

    def _message(self, text: str) -> Message:
        """The same object for the same bytes, as it was."""
        if text not in self._messages:
            self._messages[text] = decode_relayed(b64decode(text), self._limits, MESSAGES)
        return self._messages[text]


def _written(event: Event) -> list[object]:
    match event:
        case Received(peer, message):
            return ["received", peer, _text(encode(message))]
        case TimerExpired(key):
            return ["timer", key]
        case PeerFound(peer):
            return ["found", peer]
        case PeerLost(peer):
            return ["lost", peer]
        case Prepared():
            return [
                "prepared",
                event.round,
                event.stage,
                event.dim,
                event.state_digest.hex(),
                event.ring.bits,
                event.spent,
            ]
        case Contribution(round, values):
            return ["contribution", round, values.dtype.str, _text(np.array(values[:]).tobytes())]
        case Computed(round, key):
            return ["computed", round, key]
        case Delivered(ground):
            return ["delivered", _text(encode(ground))]
        case Renewed(ticket):
            return ["renewed", ticket]


def _text(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:_DIGEST]
