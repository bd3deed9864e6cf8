"""The driver of one machine: what goes in, what comes out, and in which order."""

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import trio
import trio.testing

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.errors import LocalProtocolError, RemoteProtocolError
from p2pfl.gossip.events import (
    Agreed,
    Begin,
    Completed,
    Compute,
    Computed,
    Connect,
    Contribute,
    Contribution,
    Effect,
    EpochBegan,
    Event,
    Evidence,
    PeerFound,
    Prepared,
    Received,
    Send,
    SetTimer,
    Skipped,
    TimerExpired,
    Waiting,
)
from p2pfl.gossip.messages import Fetch, encode
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.shell import Shell

A, B = PeerId("A"), PeerId("B")
FETCH = Fetch(A, 1, 0, bytes(32), "masked", B, 0, bytes(32))
PREPARED = Prepared(1, "training", 3, bytes(32))
CONTRIBUTION = Contribution(1, np.zeros(3, dtype=np.uint32))
CONTRIBUTE = Contribute(1, 0, (A, B), thresholds(3, 1))
COMPLETED = Completed(1, "training", np.zeros(3, dtype=np.uint32), (A, B), (A, B), thresholds(3, 1))
SKIPPED = Skipped(1, "training", "why not", False)


@dataclass
class Script:
    """A machine that answers every event with what was put down for its type, and notes when it came."""

    answers: dict[type, list[Effect] | Exception] = field(default_factory=dict)
    begins: list[Effect] = field(default_factory=list)
    heard: list[tuple[Event, float]] = field(default_factory=list)

    def start(self, now: float) -> list[Effect]:
        return self.begins

    def handle(self, event: Event, now: float) -> list[Effect]:
        self.heard.append((event, now))
        answer = self.answers.pop(type(event), [])
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def events(self) -> list[Event]:
        return [event for event, _ in self.heard]


@dataclass
class Computing(Script):
    """One that says when a computation has come back to it."""

    computed: trio.Event = field(default_factory=trio.Event)

    def handle(self, event: Event, now: float) -> list[Effect]:
        if isinstance(event, Computed):
            self.computed.set()
        return super().handle(event, now)


@dataclass
class Diary:
    """The node around the shell: writes down what it is asked to do."""

    lines: list[object] = field(default_factory=list)
    prepared: Prepared | None = PREPARED
    slow: bool = False

    async def prepare(self, effect: Begin) -> Prepared | None:
        self.lines.append(effect)
        return self.prepared

    async def contribute(self, effect: Contribute) -> Contribution:
        self.lines.append(effect)
        return CONTRIBUTION

    async def completed(self, effect: Completed) -> None:
        if self.slow:
            await trio.sleep(100)
        self.lines.append(effect)

    async def agreed(self, effect: Agreed) -> None:
        self.lines.append(effect)

    async def skipped(self, effect: Skipped) -> None:
        self.lines.append(effect)

    async def evidence(self, effect: Evidence) -> None:
        self.lines.append(effect)

    def epoch_began(self, effect: EpochBegan) -> None:
        self.lines.append(effect)

    def waiting(self, effect: Waiting) -> None:
        self.lines.append(effect)


@dataclass
class Bench:
    """A shell with everything around it played."""

    machine: Script
    work: Diary = field(default_factory=Diary)
    sent: list[tuple[PeerId, bytes]] = field(default_factory=list)
    called: list[tuple[PeerId, tuple[str, ...]]] = field(default_factory=list)
    blamed: list[tuple[PeerId, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shell = Shell(
            self.machine,  # type: ignore[arg-type]
            lambda peer, data: bool(self.sent.append((peer, data))),  # type: ignore[func-returns-value]
            lambda peer, addresses: self.called.append((peer, addresses)),
            lambda peer, reason: self.blamed.append((peer, reason)),
            self.work,
        )

    def run(self, play: Callable[[Shell], Awaitable[None]], seconds: float = 50) -> None:
        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.shell.run)
                await play(self.shell)
                await trio.sleep(seconds)
                nursery.cancel_scope.cancel()

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def nothing(shell: Shell) -> None:
    pass


async def found(shell: Shell) -> None:
    await shell.feed(PeerFound(A))


def test_every_effect_goes_to_whom_it_is_for() -> None:
    evidence = Evidence(A, "lied", ())
    began, waits = EpochBegan(0, 0, (A, B)), Waiting("for you")
    effects: list[Effect] = [Send(A, FETCH), Connect(B, ("/ip4/10.0.0.1/tcp/1",)), began, waits, evidence]
    bench = Bench(Script({PeerFound: effects}))
    bench.run(found)
    assert bench.sent == [(A, encode(FETCH))]
    assert bench.called == [(B, ("/ip4/10.0.0.1/tcp/1",))]
    assert bench.work.lines == [began, waits, evidence]


def test_what_starting_asks_for_is_done_too() -> None:
    bench = Bench(Script(begins=[Send(A, FETCH)]))
    bench.run(nothing)
    assert bench.sent == [(A, encode(FETCH))]


def test_work_is_answered_to_the_machine() -> None:
    machine = Script({PeerFound: [Begin(1, (A, B))], Prepared: [CONTRIBUTE], Contribution: [COMPLETED]})
    bench = Bench(machine)
    bench.run(found)
    assert machine.events == [PeerFound(A), PREPARED, CONTRIBUTION]
    assert bench.work.lines == [Begin(1, (A, B)), CONTRIBUTE, COMPLETED]
    assert not bench.shell.finished.is_set()


def test_what_goes_to_several_is_encoded_once() -> None:
    bench = Bench(Script({PeerFound: [Send(A, FETCH), Send(B, FETCH)]}))
    bench.run(found)
    (_, one), (_, other) = bench.sent
    assert one is other


def test_arithmetic_is_done_on_another_thread_while_events_are_taken() -> None:
    machine, released = Computing({PeerFound: [Compute(1, "sum", lambda: work())]}), threading.Event()

    def work() -> int:
        assert released.wait(30)
        return threading.get_ident()

    async def play(shell: Shell) -> None:
        await shell.feed(PeerFound(A))
        await shell.feed(PeerFound(B))
        await trio.testing.wait_all_tasks_blocked()
        assert machine.events == [PeerFound(A), PeerFound(B)]
        released.set()
        await machine.computed.wait()

    Bench(machine).run(play)
    computed = machine.events[2]
    assert isinstance(computed, Computed)
    assert (computed.round, computed.key) == (1, "sum")
    assert computed.value != threading.get_ident()


def test_arithmetic_that_fails_ends_the_node() -> None:
    """It is ours."""
    bench = Bench(Script({PeerFound: [Compute(1, "sum", lambda: 1 // 0)]}))
    with pytest.raises(ExceptionGroup) as caught:
        bench.run(found)
    assert caught.group_contains(ZeroDivisionError)


def test_a_rounds_outcome_is_applied_before_the_next_rounds_training() -> None:
    machine = Script({PeerFound: [COMPLETED, Begin(2, (A, B)), SKIPPED]})
    bench = Bench(machine, Diary(slow=True))
    bench.run(found, 50)
    assert bench.work.lines == []
    assert machine.events == [PeerFound(A)]  # and the machine is not kept waiting for it
    bench = Bench(Script({PeerFound: [COMPLETED, Begin(2, (A, B)), SKIPPED]}), Diary(slow=True))
    bench.run(found, 150)
    assert bench.work.lines == [COMPLETED, Begin(2, (A, B)), SKIPPED]


def test_rounds_that_are_given_up_before_their_turn_are_not_prepared() -> None:
    """Or a node that was slow once works off rounds that the others left long ago, for ever."""
    later = Begin(4, (A, B))
    given_up: list[Effect] = [
        effect for round in (2, 3) for effect in (Begin(round, (A, B)), replace(SKIPPED, round=round))
    ]
    bench = Bench(Script({PeerFound: [COMPLETED, *given_up, later]}), work=Diary(slow=True))
    bench.run(found, seconds=200)
    assert bench.work.lines == [COMPLETED, given_up[1], given_up[3], later]


def test_who_agreed_is_kept() -> None:
    bench = Bench(Script({PeerFound: [COMPLETED, Agreed(1, ())]}))
    bench.run(found)
    assert bench.work.lines == [COMPLETED, Agreed(1, ())]


def test_nothing_left_to_prepare_is_the_end() -> None:
    machine = Script({PeerFound: [Begin(9, (A, B))]})
    bench = Bench(machine, Diary(prepared=None))
    bench.run(found)
    assert bench.shell.finished.is_set()
    assert machine.events == [PeerFound(A)]


def test_timers_fire_at_their_time_and_once() -> None:
    machine = Script({PeerFound: [SetTimer("late", 30.0), SetTimer("early", 10.0)]})
    Bench(machine).run(found)
    assert machine.heard[1:] == [(TimerExpired("early"), 10.0), (TimerExpired("late"), 30.0)]


def test_a_timer_set_again_counts_from_the_last_time() -> None:
    machine = Script({PeerFound: [SetTimer("key", 10.0), SetTimer("key", 20.0)]})
    Bench(machine).run(found)
    assert machine.heard[1:] == [(TimerExpired("key"), 20.0)]


def test_a_peer_that_breaks_the_protocol_is_hung_up_on_and_the_shell_goes_on() -> None:
    machine = Script({Received: RemoteProtocolError(B, "nonsense"), PeerFound: [Send(A, FETCH)]})
    bench = Bench(machine)

    async def play(shell: Shell) -> None:
        await shell.feed(Received(B, FETCH))
        await shell.feed(PeerFound(A))

    bench.run(play)
    assert bench.blamed == [(B, "nonsense")]
    assert bench.sent == [(A, encode(FETCH))]


def test_a_bug_of_ours_ends_the_node() -> None:
    bench = Bench(Script({PeerFound: LocalProtocolError("impossible")}))
    with pytest.raises(ExceptionGroup) as caught:
        bench.run(found)
    assert caught.group_contains(LocalProtocolError, match="impossible")
