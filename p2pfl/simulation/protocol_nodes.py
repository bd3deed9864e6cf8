"""The machines of a scenario's nodes: real participants, each with keys, secrets and a clock of its own that
follow from the scenario.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.events import Effect, Event, SetTimer
from p2pfl.gossip.evidence import Accusation
from p2pfl.gossip.manifest import (
    Column,
    DenseModel,
    Manifest,
    PrivacySpec,
    TabularTask,
    TrainingSpec,
)
from p2pfl.gossip.participant import Participant
from p2pfl.gossip.simulation import Machine
from p2pfl.gossip.tickets import Standing, issue, standing
from p2pfl.simulation.scenario import Scenario

_ISSUER: Final = Identity.from_seed(bytes(32))


def identities(count: int) -> list[Identity]:
    """Of so many nodes, always the same."""
    return [Identity.from_seed(number.to_bytes(32, "big")) for number in range(1, count + 1)]


def manifest_of(scenario: Scenario) -> Manifest:
    """A federation of the scenario's size and rules; what it learns is of no account.

    Its mode is one with noise: then models may differ from group to group, as nodes' states do here.
    """
    listed = identities(scenario.nodes)[: scenario.nodes - scenario.guests]
    return Manifest(
        name="scenario",
        issuers=(_ISSUER.peer_id,),
        members=tuple(sorted(identity.peer_id for identity in listed)),
        task=TabularTask("tabular", "label", ("1",), (Column("x", "numeric", 0, 1),)),
        model=DenseModel("logistic"),
        training=TrainingSpec(scenario.rounds, 0.1, 0.5, 10.0),
        privacy=PrivacySpec("local", 1.0, 1e-4, 1.0, 1.0, 1.0, 1.0),
        groups=scenario.groups,
        timing=scenario.timing,
    )


@dataclass(slots=True)
class WallClock:
    """A node's clock on the wall, so many seconds ahead; ``now`` is set before every event."""

    ahead: float = 0.0
    now: float = 0.0

    def __call__(self) -> float:
        return self.now + self.ahead


@dataclass(frozen=True, slots=True)
class Drifting:
    """A machine whose clock goes ``rate`` times as fast as the network's."""

    machine: Machine
    rate: float

    def handle(self, event: Event, now: float) -> list[Effect]:
        """As the machine does, with times on the network's clock."""
        effects = self.machine.handle(event, now * self.rate)
        return [
            SetTimer(effect.key, effect.at / self.rate) if isinstance(effect, SetTimer) else effect
            for effect in effects
        ]


class Roll:
    """Makes participants: of any node, at the beginning of any of its lives."""

    def __init__(self, scenario: Scenario, manifest: Manifest) -> None:
        self.manifest = manifest
        self.identities = identities(scenario.nodes)
        self._seed, self._listed = scenario.seed, scenario.nodes - scenario.guests
        self._expires, self._federation = scenario.ticket_seconds, manifest.digest
        self._members = frozenset(identity.peer_id for identity in self.identities)

    def participant(
        self, number: int, life: int, next_round: int, accusations: Iterable[Accusation], clock: WallClock
    ) -> Participant:
        """Node ``number`` as it starts for the ``life``-th time, with what its driver kept."""
        me = self.identities[number]
        ticket = ""
        if number >= self._listed:
            federation = self._federation
            ticket = str(issue(_ISSUER, federation=federation, peer=me.peer_id, expires=self._expires))

        def known(peer: PeerId, shown: str) -> Standing:
            return standing(self.manifest, self._federation, peer, shown, clock())

        return Participant(
            identity=me,
            manifest=self.manifest,
            addresses=(f"/ip4/10.0.{number // 256}.{number % 256}/tcp/4001/p2p/{me.peer_id}",),
            random=seeded_random(b"%d/%d/%d" % (self._seed, number, life)),
            is_member=lambda peer: peer in self._members,
            standing=known,
            ticket=ticket,
            next_round=next_round,
            exclusions=accusations,
        )
