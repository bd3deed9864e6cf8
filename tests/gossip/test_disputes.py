"""What one member can know and the others not, and where it must not matter."""

from dataclasses import replace

import numpy as np
import pytest

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.chunks import Chunks
from p2pfl.gossip.events import Completed, Computed, Effect, Event, Received, Send, Skipped
from p2pfl.gossip.messages import Check, Fetch, Reveal, Survivors
from p2pfl.gossip.rehearsal import Rehearsal, Wrap
from p2pfl.gossip.round import RoundMachine
from p2pfl.gossip.wire import signed

WORDS_OF_AN_OWNER = 160


def rehearsed(members: int, wrap: Wrap, colluders: int = 1) -> Rehearsal:
    values = np.random.default_rng(members).integers(0, 2**32, (members, 40), dtype=np.uint32)
    bad = range(members - colluders, members)
    return Rehearsal(
        values,
        colluders=colluders,
        cut=lambda dim, group, element_bytes: Chunks(dim, group, group),
        wrap=dict.fromkeys(bad, wrap),
    )


class TwoFaced:
    """An owner that shows the right check to the first member only, and no chunk to anybody."""

    def __init__(self, machine: RoundMachine, identity: Identity, *, signs: bool) -> None:
        self._machine, self._identity, self._signs = machine, identity, signs
        self.me, self.first = identity.peer_id, machine._terms.group[0]
        self.row = machine._terms.group.index(identity.peer_id)

    def handle(self, event: Event, now: float) -> list[Effect]:
        if isinstance(event, Received) and isinstance(event.message, Fetch):
            return []
        effects = (self._twisted(effect) for effect in self._machine.handle(event, now))
        return [effect for effect in effects if effect is not None]

    def _twisted(self, effect: Effect) -> Effect | None:
        match effect:
            case Send(_, Survivors()) if not self._signs:
                return None
            case Send(peer, Check() as check) if (
                peer != self.first and check.author == self._identity.peer_id
            ):
                words = bytearray(check.words)
                words[self.row * WORDS_OF_AN_OWNER] ^= 1
                return Send(peer, signed(self._identity, replace(check, words=bytes(words))))
        return effect


@pytest.mark.parametrize("signs", [True, False])
@pytest.mark.parametrize("members", [4, 5, 7])
def test_a_check_that_only_one_was_given_divides_nobody(members: int, signs: bool) -> None:
    """The one signs, and shows the others what it verified with: two checks of one author."""
    rehearsal = rehearsed(members, lambda machine, own: TwoFaced(machine, own, signs=signs)).run()
    assert len(rehearsal.completed) == members
    assert max(rehearsal.ended_at.values()) < 1
    for end in rehearsal.completed.values():
        assert np.array_equal(end.total, rehearsal.oracle(end.survivors))
    liar = rehearsal.group[-1]
    assert {evidence.peer for _, evidence in rehearsal.evidence} == {liar}
    assert {holder for holder, _ in rehearsal.evidence} >= set(rehearsal.group[1:-1])


class WrongShares:
    """Reveals shares that are none."""

    def __init__(self, machine: RoundMachine, identity: Identity) -> None:
        self._machine, self._identity = machine, identity

    def handle(self, event: Event, now: float) -> list[Effect]:
        return [self._twisted(effect) for effect in self._machine.handle(event, now)]

    def _twisted(self, effect: Effect) -> Effect:
        match effect:
            case Send(peer, Reveal() as reveal):
                wrong = tuple(bytes([1, *share[1:]]) for share in reveal.shares)
                return Send(peer, signed(self._identity, replace(reveal, shares=wrong)))
        return effect


def test_wrong_shares_of_as_many_as_may_collude_do_no_harm_in_a_large_group() -> None:
    rehearsal = rehearsed(12, WrongShares, colluders=3).run()
    honest = rehearsal.group[:9]
    for peer in honest:
        end = rehearsal.completed[peer]
        assert np.array_equal(end.total, rehearsal.oracle(end.survivors))
    assert max(rehearsal.ended_at[peer] for peer in honest) < 1


class OutOfTime:
    """Handles the end of its last computation after the end of the round, and only then the timer."""

    def __init__(self, machine: RoundMachine, identity: Identity) -> None:
        self._machine = machine
        self.ends: list[Effect] = []

    def handle(self, event: Event, now: float) -> list[Effect]:
        late = isinstance(event, Computed) and event.key.endswith("/total")
        effects = self._machine.handle(event, 31.0 if late else now)
        self.ends += [effect for effect in effects if isinstance(effect, Completed | Skipped)]
        return effects


def test_a_sum_that_comes_with_the_deadline_ends_the_round_once() -> None:
    made: list[OutOfTime] = []

    def wrap(machine: RoundMachine, identity: Identity) -> OutOfTime:
        made.append(OutOfTime(machine, identity))
        return made[-1]

    rehearsed(4, wrap).run()
    assert [type(end) for end in made[0].ends] == [Completed]
