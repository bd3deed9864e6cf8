"""A federation in one process: the nodes' own learners and exact sums, without the network. Everybody attends
every round. Beside it, whoever holds all records and whom all trust.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.thresholds import Thresholds
from p2pfl.node.accountant import Mechanism, Spent, epsilon
from p2pfl.node.learner import Learner
from p2pfl.node.privacy import Budget
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer
from p2pfl.simulation.exact import Exact, Groups, settle
from p2pfl.simulation.learners import Learning, Remembered
from p2pfl.simulation.partitions import iid
from p2pfl.simulation.sources import taken
from p2pfl.topologies.schedule import groups

Vector = NDArray[np.float64]
_PAIR: Final = 2
_PAIRED: Final = Thresholds(_PAIR, 1, _PAIR, _PAIR, 0)
"""Two have no secure sum, but may add up what needs none."""


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """``models`` and ``statistics``: each member's. ``ledger``: what each released."""

    trainer: Trainer
    models: Sequence[Vector]
    statistics: Sequence[Vector]
    ledger: Sequence[Mechanism]
    delta: float

    @property
    def spent(self) -> Spent:
        """What a record of any member paid at most."""
        return epsilon(self.ledger, self.delta)

    def against(self, colluders: int) -> float:
        """What it paid if so many members of a group collude."""
        return epsilon(self.ledger, self.delta, colluders).pld

    def accuracy(self, test: Table, member: int) -> float:
        """Share of ``test`` that the model of ``member`` gets right."""
        return self.trainer.evaluate(self.models[member], self.statistics[member], test).accuracy

    def mean_accuracy(self, test: Table) -> float:
        """The mean over the members, of whom those of one group have the same model."""
        first = {model.tobytes(): member for member, model in enumerate(self.models)}
        return float(np.mean([self.accuracy(test, first[model.tobytes()]) for model in self.models]))


def federate(
    manifest: Manifest, tables: Sequence[Table], random: RandomBytes, *, shared_statistics: bool = True
) -> Learnt:
    """Learn as a node for each of ``tables`` would, all of them there from the first round to the last.

    Unless ``shared_statistics``, each scales its inputs by its own, which the protocol has no room for.
    Two parties are no group that a node would join; with local noise, or none, here they are one all the
    same, for comparison. Raises AssertionError if that cost a record more than ``manifest`` promises.
    """
    assert len(tables) > _PAIR or manifest.privacy.mode in ("local", "none"), "a pair has no secret sum"
    kind = Trainer if shared_statistics else OwnScales
    trainers = [kind(manifest, table, None, random) for table in tables]
    stores = [Remembered() for _ in tables]
    learners = [
        Learner(manifest, trainer, store, Budget(manifest.privacy), random)
        for trainer, store in zip(trainers, stores, strict=True)
    ]
    settle(learners)
    learning = Learning(manifest, learners, every=manifest.training.rounds)
    rosters = (lambda size: _PAIRED) if len(tables) == _PAIR else None
    Exact(manifest, learning, _groups(manifest, len(tables)), rosters).run()
    released = [learner.released for learner in learners if learner.released is not None]
    statistics = (
        [one.statistics for one in released]
        if shared_statistics
        else [each.statistics() for each in trainers]
    )
    delta = manifest.privacy.delta
    learnt = Learnt(
        trainers[0], [one.parameters for one in released], statistics, stores[0].mechanisms(), delta
    )
    assert learnt.spent.pld <= manifest.privacy.epsilon, "the run cost more than it was calibrated for"
    return learnt


class OwnScales(Trainer):
    """Scales its inputs by its own statistics, whatever those of all are."""

    def contribution(self, parameters: Vector, statistics: Vector, *, train: bool = True) -> Vector:
        """As any trainer's."""
        return super().contribution(parameters, self.statistics(), train=train)


def centralise(manifest: Manifest, table: Table, members: int, random: RandomBytes) -> Learnt:
    """Learn what ``members`` learn together from ``table``, all their records, held by one whom all trust:
    the same steps, with the noise that a sum should carry, drawn once.
    """
    privacy, training = manifest.privacy, manifest.training
    if privacy.mode != "none":
        privacy = replace(privacy, mode="local")
    training = replace(training, expected_batch=members * training.expected_batch)
    trainer = Trainer(replace(manifest, privacy=privacy, training=training), table, None, random)
    statistics, model = trainer.statistics(), trainer.initial_parameters()
    for _ in range(training.rounds):
        model = trainer.contribution(model, statistics)
    return Learnt(trainer, [model], [statistics], (), privacy.delta)


def _groups(manifest: Manifest, members: int) -> Groups:
    """As the nodes' schedule draws them from a beacon."""
    if members == _PAIR:
        return lambda round: [range(_PAIR)]
    spec, names = manifest.groups, [f"{member:03}" for member in range(members)]
    beacon = manifest.digest

    def drawn(round: int) -> list[list[int]]:
        cut = groups(names, spec.size, spec.minimum, beacon, round, spec.schedule)
        return [[int(name) for name in group] for group in cut]

    return drawn


def dealt(table: Table, members: int, seed: int) -> list[Table]:
    """All records of ``table``, shuffled, in ``members`` parts as equal as can be."""
    return [taken(table, part) for part in iid(len(table), members, np.random.default_rng(seed))]
