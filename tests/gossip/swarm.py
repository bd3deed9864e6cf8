"""Whole nodes, each with the least of a driver, over the simulated network; every sum is checked against the
oracle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from connected import IDENTITIES, PEERS, START, Connected, address
from numpy.typing import NDArray

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.events import (
    Begin,
    Completed,
    Contribute,
    Contribution,
    Effect,
    Event,
    Evidence,
    Prepared,
    Skipped,
)
from p2pfl.gossip.evidence import Accusation
from p2pfl.gossip.manifest import (
    Column,
    DenseModel,
    GroupSpec,
    Manifest,
    PrivacySpec,
    TabularTask,
    TimingSpec,
    TrainingSpec,
)
from p2pfl.gossip.messages import Masked
from p2pfl.gossip.participant import MESSAGES, Participant, _Round
from p2pfl.gossip.simulation import Codec, SimNetwork
from p2pfl.gossip.tickets import issue, standing
from p2pfl.gossip.vectorised import group_sums
from p2pfl.gossip.wire import Limits

_E = TypeVar("_E")
DIM = 5
TIMING = TimingSpec(
    epoch_rounds=5, gather_seconds=4.0, ready_seconds=3.0, phase_seconds=3.0, round_seconds=20.0
)
DEFAULTS = GroupSpec()
NOISELESS = PrivacySpec("none")
NOISED = PrivacySpec("local", 1.0, 1e-4, 1.0, 1.0, 1.0, 1.0)


ISSUER = Identity.from_seed(bytes(32))


def manifest(
    listed: int, groups: GroupSpec, timing: TimingSpec = TIMING, privacy: PrivacySpec = NOISELESS
) -> Manifest:
    return Manifest(
        name="hospitals",
        issuers=(ISSUER.peer_id,),
        members=tuple(sorted(PEERS[:listed])),
        task=TabularTask("tabular", "ill", ("1",), (Column("age", "numeric", 0, 100),)),
        model=DenseModel("logistic"),
        training=TrainingSpec(100, 0.1, 0.5, 10.0),
        privacy=privacy,
        groups=groups,
        timing=timing,
    )


def values(number: int, round: int) -> NDArray[np.uint32]:
    """What node ``number`` contributes to ``round``."""
    return np.random.default_rng([number, round]).integers(0, 2**32, DIM, dtype=np.uint32)


@dataclass
class Node:
    participant: Participant

    def handle(self, event: Event, now: float) -> list[Effect]:
        if event == START:
            return self.participant.start(now)
        return self.participant.handle(event, now)


@dataclass
class Swarm(Connected):
    """Whole nodes with a driver each, that trains for ``training`` seconds before every round.

    The manifest lists all but ``guests``, which have tickets until ``expires``; ``clocks`` says by how much
    the clock of a node on the wall is ahead of the network's. A guest is admitted where it has been.
    """

    groups: GroupSpec = DEFAULTS
    timing: TimingSpec = TIMING
    training: Callable[[int, int], float] = lambda number, round: 0.5
    encoding: Callable[[int, int], float] = lambda number, round: 0.01
    guests: int = 0
    expires: int = 1 << 30
    clocks: Callable[[int], float] = lambda number: 0.0
    privacy: PrivacySpec = NOISELESS
    state: Callable[[int], bytes] = lambda number: bytes(32)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.manifest = manifest(self.size - self.guests, self.groups, self.timing, self.privacy)
        self.effects: dict[int, list[tuple[float, Effect]]] = {number: [] for number in range(self.size)}
        self.lives = dict.fromkeys(range(self.size), 0)
        self.ledger: dict[int, set[int]] = {number: set() for number in range(self.size)}
        self.participants: dict[int, Participant] = {}

    def codec(self) -> Codec:
        return Codec(Limits(DIM), MESSAGES)

    def participant(self, number: int, next_round: int = 0) -> Participant:
        federation, listed = self.manifest.digest, self.size - self.guests
        been_here = {PEERS[n] for n in range(self.size) if not {(n, number), (number, n)} & self.apart}
        ticket = issue(ISSUER, federation=federation, peer=PEERS[number], expires=self.expires)
        return Participant(
            identity=IDENTITIES[number],
            manifest=self.manifest,
            addresses=(address(number),),
            random=seeded_random(b"%d/%d/%d" % (self.seed, number, self.lives[number])),
            ticket=str(ticket) if number >= listed else "",
            is_member=lambda peer: peer in self.manifest.members or peer in been_here,
            standing=lambda peer, ticket: standing(
                self.manifest, federation, peer, ticket, self.net.now + self.clocks(number)
            ),
            next_round=next_round,
            exclusions=self.accusations(number),
        )

    def accusations(self, number: int) -> list[Accusation]:
        """What the driver of this node has kept."""
        kept = [message for evidence in self.all(number, Evidence) for message in evidence.messages]
        return [message for message in kept if isinstance(message, Accusation)]

    def start(self, number: int, at: float = 0.0) -> Self:
        def make() -> Node:
            self.lives[number] += 1
            next_round = max(self.ledger[number], default=-1) + 1
            self.participants[number] = self.participant(number, next_round)
            return Node(self.participants[number])

        return self.begin(number, at, make)

    def start_all(self) -> Self:
        for number in range(self.size):
            self.start(number, 0.1 * number)
        return self

    def run(self, until: float) -> Self:
        """Go on until then, and check everything that must hold whatever happened."""
        self.net.run(until)
        assert not self.net.errors, self.net.errors
        for number in range(self.size):
            assert not self.all(number, Evidence)
            if self.lives[number] == 1:
                ends = [e.round for _, e in self.effects[number] if isinstance(e, Completed | Skipped)]
                assert ends == [begin.round for begin in self.all(number, Begin)][: len(ends)]
                assert len(self.all(number, Begin)) <= len(ends) + 1
            for completed in self.all(number, Completed):
                self._check_sum(completed)
            masked = [
                sent.message
                for sent in self.net.sent
                if isinstance(sent.message, Masked) and sent.message.author == PEERS[number]
            ]
            for round in {message.round for message in masked}:
                assert len({m.digest for m in masked if m.round == round}) == 1
        return self

    def all(self, number: int, kind: type[_E]) -> list[_E]:
        return [effect for _, effect in self.effects[number] if isinstance(effect, kind)]

    def at(self, number: int, round: int) -> float:
        """When ``round`` completed there."""
        ends = [(at, effect) for at, effect in self.effects[number] if isinstance(effect, Completed)]
        return next(at for at, effect in ends if effect.round == round)

    def _check_sum(self, completed: Completed) -> None:
        numbers = [PEERS.index(peer) for peer in completed.survivors]
        rows = np.stack([values(number, completed.round) for number in range(self.size)])
        group = [PEERS.index(peer) for peer in completed.members]
        assert np.array_equal(completed.total, group_sums(rows, [group], numbers)[0])

    def run_until_prepared(self, number: int) -> _Round:
        """Go on until ``number`` is ready for a round, and give that round."""
        for tick in range(1, 1000):
            participant = self.participants.get(number)
            current = None if participant is None else participant._current
            if current is not None and current.stage:
                return current
            self.run(0.05 * tick)
        raise AssertionError(f"node {number} never began a round")

    def completed(self, number: int) -> list[int]:
        return [effect.round for effect in self.all(number, Completed)]

    def perform(self, net: SimNetwork, peer: PeerId, effect: Effect) -> None:
        number = PEERS.index(peer)
        life = self.lives[number]
        self.effects[number].append((net.now, effect))

        def answer(event: Event) -> None:
            if self.lives[number] == life:
                net.post(peer, event)

        match effect:
            case Evidence(accused, _, (Accusation(),)):
                self.shun(number, accused)
            case Begin(round):
                prepared = Prepared(round, "training", DIM, self.state(number))
                net.call(net.now + self.training(number, round), lambda: answer(prepared))
            case Contribute(round):
                assert round not in self.ledger[number]
                self.ledger[number].add(round)
                contribution = Contribution(round, values(number, round))
                net.call(net.now + self.encoding(number, round), lambda: answer(contribution))
