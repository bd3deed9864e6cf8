"""Every fault that can befall one round of four: each crash point, each message, each order, and random
schedules.
"""

from dataclasses import dataclass, field
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.events import Completed, Skipped
from p2pfl.gossip.messages import Message, Reveal, Survivors
from p2pfl.gossip.rehearsal import FixedTiming, Rehearsal
from p2pfl.gossip.simulation import Link, unreliable

VALUES = np.random.default_rng(0).integers(0, 2**32, (8, 3), dtype=np.uint32)
FOUR = VALUES[:4]


def audit(rehearsal: Rehearsal) -> None:
    """What holds whatever happened: ends in time, one vector, one ballot, one reveal each, exact and agreed
    sums.
    """
    alive = set(rehearsal.group) - rehearsal.net.dead
    assert alive <= set(rehearsal.ended)
    assert all(at <= rehearsal.timing.round_seconds for at in rehearsal.ended_at.values())
    for peer in rehearsal.group:
        assert len(rehearsal.masked_vectors(peer)) <= 1
        assert rehearsal.contributed.count(peer) <= 1
        for kind in (Survivors, Reveal):
            assert len({m.signed_bytes() for m in authored(rehearsal, peer) if isinstance(m, kind)}) <= 1
    completed = rehearsal.completed.values()
    assert len({(end.survivors, end.members, end.thresholds) for end in completed}) <= 1
    for end in completed:
        assert np.array_equal(end.total, rehearsal.oracle(end.survivors))
        assert len(end.survivors) >= end.thresholds.minimum_survivors
    for peer, skip in rehearsal.skipped.items():
        assert skip.sent_masked == bool(rehearsal.masked_vectors(peer))
    assert rehearsal.evidence == []
    assert rehearsal.net.errors == []


def authored(rehearsal: Rehearsal, peer: PeerId) -> list[Message]:
    return [sent.message for sent in rehearsal.net.sent if sent.message.author == peer]


@cache
def quiet() -> tuple[int, int]:
    """How many steps a member takes, and how many messages are sent, where nothing goes wrong."""
    rehearsal = Rehearsal(FOUR).run()
    audit(rehearsal)
    assert len(rehearsal.completed) == 4
    return max(rehearsal.net.steps.values()), len(rehearsal.net.sent)


@pytest.mark.parametrize("loss_seconds", [0.05, None], ids=["connection ends", "silent"])
@pytest.mark.parametrize("victim", range(4))
def test_one_member_may_die_at_any_moment(victim: int, loss_seconds: float | None) -> None:
    died, (steps, _) = 0, quiet()
    for step in range(steps + 1):
        rehearsal = Rehearsal(FOUR, crashes={victim: step}, loss_seconds=loss_seconds).run()
        audit(rehearsal)
        others = [peer for number, peer in enumerate(rehearsal.group) if number != victim]
        assert set(others) <= set(rehearsal.completed), f"step {step}"
        assert set(others) <= set(rehearsal.completed[others[0]].survivors), f"step {step}"
        died += rehearsal.group[victim] in rehearsal.net.dead
    assert died >= steps - 2  # the last step of all may belong to another


@pytest.mark.parametrize("loss_seconds", [0.05, None], ids=["connection ends", "silent"])
def test_a_second_death_skips_or_completes_but_never_lies(loss_seconds: float | None) -> None:
    ends, (steps, _) = set(), quiet()
    for first in range(0, steps, 5):
        for second in range(2, steps, 7):
            crashes = {first % 4: first, (first + 1 + second % 3) % 4: second}
            rehearsal = Rehearsal(FOUR, crashes=crashes, loss_seconds=loss_seconds).run()
            audit(rehearsal)
            ends |= {type(end) for end in rehearsal.ended.values()}
    assert ends == {Completed, Skipped}


@dataclass
class Fault:
    """A link that treats the message number ``target`` in a way of its own, and all others alike."""

    target: int
    delays: tuple[float, ...]
    seen: int = field(default=0, init=False)

    def __call__(
        self, sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator
    ) -> tuple[float, ...]:
        self.seen += 1
        return self.delays if self.seen == self.target + 1 else (0.01,)


@pytest.mark.parametrize(
    "delays",
    [(), (0.01, 0.011), (0.01, 3.0), (0.3,), (1.5,), (40.0,)],
    ids=["dropped", "doubled", "repeated much later", "reordered", "after the deadline", "after the round"],
)
def test_no_single_message_matters(delays: tuple[float, ...]) -> None:
    for target in range(quiet()[1]):
        rehearsal = Rehearsal(FOUR, link=Fault(target, delays)).run()
        audit(rehearsal)
        assert len(rehearsal.completed) == 4, f"message {target}: {rehearsal.net.sent[target]}"
        assert rehearsal.completed[rehearsal.group[0]].survivors == rehearsal.group


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_and_duplicates_do_not_matter(seed: int) -> None:
    rehearsal = Rehearsal(FOUR, seed=seed, link=unreliable(0.0, 0.09, duplicate=0.3)).run()
    audit(rehearsal)
    assert len(rehearsal.completed) == 4
    assert all(end.survivors == rehearsal.group for end in rehearsal.completed.values())


@st.composite
def schedules(draw: st.DrawFn) -> Rehearsal:
    """Random members, deaths, latecomers and a network that drops, doubles, delays and reorders."""
    members = draw(st.integers(3, 6))
    late = st.sampled_from([0.0, 0.0, 0.0, 0.3, 1.2, 2.5])
    link: Link = unreliable(
        0.0,
        draw(st.sampled_from([0.05, 0.5, 1.5])),
        draw(st.sampled_from([0.0, 0.02, 0.2])),
        draw(st.sampled_from([0.0, 0.2])),
    )
    return Rehearsal(
        VALUES[:members],
        colluders=draw(st.integers(0, 1)),
        seed=draw(st.integers(0, 2**32 - 1)),
        crashes=draw(st.dictionaries(st.integers(0, members - 1), st.integers(0, 60), max_size=2)),
        loss_seconds=draw(st.sampled_from([0.05, 0.7, None])),
        prepared_at=[draw(late) for _ in range(members)],
        timing=FixedTiming(round_seconds=draw(st.sampled_from([3.0, 30.0]))),
        link=link,
    )


@settings(max_examples=150, deadline=None)
@given(rehearsal=schedules())
def test_any_schedule_ends_exactly_or_skips(rehearsal: Rehearsal) -> None:
    # Members are prepared late, so the round may end that much later.
    rehearsal.run()
    latest = max(rehearsal.ended_at.values(), default=0.0)
    assert latest <= rehearsal.timing.round_seconds + 2.5
    rehearsal.ended_at.clear()
    audit(rehearsal)
