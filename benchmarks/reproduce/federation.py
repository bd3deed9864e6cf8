"""A federation in one process: the nodes' own trainers, noise, encoding and groups, without the network.

A contribution is what a node hands to its secure sum, and the sum over a group is taken in the ring by the
oracle with which the protocol's machines are tested to agree bit for bit. Everybody attends every round.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import RandomBytes
from p2pfl.crypto.ring import decode
from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.thresholds import Thresholds, thresholds
from p2pfl.gossip.vectorised import group_sums
from p2pfl.node.accountant import Mechanism, Spent, epsilon
from p2pfl.node.contribution import LazyContribution
from p2pfl.node.privacy import stage_plan
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer
from p2pfl.topologies.schedule import groups

Vectors = list[NDArray[np.float64]]
_PAIR = 2


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """``models`` and ``statistics``: each member's. ``ledger``: what each released."""

    trainer: Trainer
    models: Vectors
    statistics: Vectors
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
    sums = _Sums(manifest, len(tables), random)
    trainers = [Trainer(manifest, table, None, random) for table in tables]
    statistics = [trainer.statistics() for trainer in trainers]
    start = 0
    while shared_statistics and (start == 0 or not _agree(statistics)):
        statistics = sums.means("mixing" if start else "statistics", start, statistics)
        start += 1
    models = [trainers[0].initial_parameters()] * len(tables)
    for round in range(start, start + manifest.training.rounds):
        steps = zip(trainers, models, statistics, strict=True)
        models = sums.means(
            "training", round, [one.contribution(model, stats) for one, model, stats in steps]
        )
    learnt = Learnt(trainers[0], models, statistics, sums.ledger, manifest.privacy.delta)
    assert learnt.spent.pld <= manifest.privacy.epsilon, "the run cost more than it was calibrated for"
    return learnt


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


def _agree(statistics: Vectors) -> bool:
    """As well as groups that average theirs need to: to one part in ten thousand."""
    return all(np.linalg.norm(one - statistics[0]) <= 1e-4 * np.linalg.norm(one) for one in statistics)


class _Sums:
    """What the secure sums of ``members`` yield, round by round."""

    def __init__(self, manifest: Manifest, members: int, random: RandomBytes) -> None:
        self._manifest, self._random = manifest, random
        self._names = {f"{member:03}": member for member in range(members)}
        self._graph = nx.complete_graph(list(self._names))
        self.ledger: list[Mechanism] = []

    def means(self, stage: str, round: int, contributions: Vectors) -> Vectors:
        """For every member the mean over its group."""
        noised = stage != "mixing"  # which averages what was released already
        plan = stage_plan(self._manifest, stage if noised else "statistics", len(contributions[0]))
        rows = np.empty((len(contributions), plan.dimension), plan.encoding.ring.dtype)
        drawn = self._groups(round)
        for group in drawn:
            limits = self._thresholds(len(group))
            for member in group:
                encoded = LazyContribution(
                    contributions[member], plan, limits if noised else None, self._random
                )
                rows[member] = encoded[slice(0, plan.dimension)]
        if noised and plan.charged:
            self.ledger.append(plan.mechanism(limits))
        means: dict[int, NDArray[np.float64]] = {}
        for group, total in zip(drawn, group_sums(rows, drawn, range(len(rows))), strict=True):
            means |= dict.fromkeys(group, decode(total, plan.encoding) / len(group))
        return [means[member] for member in range(len(rows))]

    def _thresholds(self, members: int) -> Thresholds:
        """Two have no secure sum, but may add up what needs none: see :func:`federate`."""
        if members == _PAIR:
            return Thresholds(_PAIR, 1, _PAIR, _PAIR, 0)
        return thresholds(members, self._manifest.groups.colluders)

    def _groups(self, round: int) -> list[list[int]]:
        """As the nodes' schedule draws them from a beacon."""
        if len(self._names) == _PAIR:
            return [list(range(_PAIR))]
        spec, beacon = self._manifest.groups, self._manifest.digest
        drawn = groups(self._graph, spec.size, spec.minimum, beacon, round, spec.schedule)
        return [[self._names[name] for name in group] for group in drawn]


def dealt(table: Table, members: int, seed: int) -> list[Table]:
    """All records of ``table``, shuffled, in ``members`` parts as equal as can be."""
    order = np.random.default_rng(seed).permutation(len(table))
    parts = [order[member::members] for member in range(members)]
    return [Table(table.features[part], table.labels[part]) for part in parts]
