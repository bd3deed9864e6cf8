"""A federation of one group, run in this process by the code that nodes run, and what an insider sees of it.

An insider is up to ``colluders`` members who pool what they know: every sum, and their own contributions
with their noise. Subtracted, what the other members added together is left, and nothing more: that is what a
secure sum guarantees, and what an attack has to go by.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import RandomBytes
from p2pfl.crypto.ring import decode
from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.thresholds import Thresholds
from p2pfl.node.contribution import LazyContribution
from p2pfl.node.privacy import StagePlan, dimension, stage_plan
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Sum:
    """One released sum, decoded: ``total`` of everybody in it, and ``others``, what is left of it without the
    insider's part.
    """

    total: Vector
    others: Vector


class Group:
    """A roster that sums by ``manifest``. Its first ``roster.colluders`` members are the insider."""

    def __init__(self, manifest: Manifest, roster: Thresholds, random: RandomBytes) -> None:
        """Raises PrivacyError if the manifest's noise cannot be drawn."""
        self._manifest, self._roster, self._random = manifest, roster, random
        self._plans: dict[str, StagePlan] = {}

    def plan(self, stage: str) -> StagePlan:
        """How vectors of ``stage`` are encoded and noised."""
        if stage not in self._plans:
            self._plans[stage] = stage_plan(self._manifest, stage, dimension(self._manifest, stage))
        return self._plans[stage]

    def sum(self, stage: str, values: Sequence[Vector]) -> Sum:
        """Of the members' ``values``, encoded and noised: what the secure sum gives when these survive, in
        the order of the roster.
        """
        plan = self.plan(stage)
        parts = np.stack([LazyContribution(each, plan, self._roster, self._random)[:] for each in values])
        honest = parts[self._roster.colluders :].sum(axis=0, dtype=parts.dtype)
        total = honest + parts[: self._roster.colluders].sum(axis=0, dtype=parts.dtype)
        return Sum(decode(total, plan.encoding), decode(honest, plan.encoding))


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """All that an insider sees of a federation of ``members``.

    ``statistics``: their released mean (s,). ``models``: the one that training starts from, and what every
    round released, (rounds + 1, d). ``others``: what the others' statistics, and their contributions of every
    round, add up to, (s,) and (rounds, d).
    """

    statistics: Vector
    models: Vector
    other_statistics: Vector
    others: Vector


class _Absent(Trainer):
    """Of a member that takes part, but none of whose records do."""

    def statistics(self) -> Vector:
        found = super().statistics()
        return np.zeros_like(found) if self._manifest.numeric_columns else found

    def contribution(self, parameters: Vector, statistics: Vector, *, train: bool = True) -> Vector:
        return super().contribution(parameters, statistics, train=False)


def federate(
    manifest: Manifest,
    tables: Sequence[Table],
    roster: Thresholds,
    random: RandomBytes,
    absent: Collection[int] = (),
) -> Seen:
    """Train on ``tables``, one of each member of ``roster``, in a group that nobody is ever missing from. Of
    the members in the places ``absent`` no record takes part.
    """
    group = Group(manifest, roster, random)
    trainers = [
        (_Absent if place in absent else Trainer)(manifest, table, None, random)
        for place, table in enumerate(tables)
    ]
    scales = group.sum("statistics", [trainer.statistics() for trainer in trainers])
    statistics = scales.total / len(tables)
    models, others = [trainers[0].initial_parameters()], []
    for _ in range(manifest.training.rounds):
        ahead = manifest.training.momentum * (models[-1] - models[-2:][0])
        steps = [trainer.contribution(models[-1], statistics) + ahead for trainer in trainers]
        found = group.sum("training", steps)
        models.append(trainers[0].mean(found.total, len(tables)))
        others.append(found.others)
    return Seen(statistics, np.stack(models), scales.others, np.stack(others))
