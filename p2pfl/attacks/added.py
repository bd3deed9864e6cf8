"""What every target of an attack adds to a run of a federation, as far as an insider can reckon it.

A target is a record, or an organisation: all records of a member together.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from p2pfl.baselines import pooled
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.manifest import Manifest
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer

Vector = NDArray[np.float64]

_DRAWS: Final = 4


class Added(Protocol):
    """Of n targets. A round moves a member's model to ``kept`` times what it was, plus what its targets add:
    ``taken`` times their steps on average.
    """

    @property
    def statistics(self) -> Vector:
        """What each adds to the statistics: (n, s); nothing, where they are about no record."""

    @property
    def kept(self) -> float: ...
    @property
    def taken(self) -> float: ...

    def of_all(self, model: Vector, statistics: Vector) -> Vector:
        """The sum of all steps: shape (d,)."""

    def of_each(self, model: Vector, statistics: Vector) -> Vector:
        """The step of one target after the other: (n, d)."""

    def spread(self, model: Vector, statistics: Vector, steps: Vector) -> Vector:
        """What sampling adds to the covariance of a round if all are in is the sum of the outer products of
        these: (m, d). ``steps``: those of each.
        """


def part(table: Table, chosen: NDArray[np.bool_ | np.intp]) -> Table:
    """The ``chosen`` records of ``table``."""
    return Table(table.features[chosen], table.labels[chosen])


class Records:
    """What records add to a step, clipped as the manifest says and without noise.

    A Trainer takes the records that its randomness samples; here that is chosen.
    """

    def __init__(self, manifest: Manifest, table: Table) -> None:
        spec = manifest.training
        self.kept = (1 - spec.learning_rate * spec.weight_decay) ** spec.local_steps
        self.taken = spec.sampling_rate * spec.local_steps
        self._sampled = self.taken * (1 - spec.sampling_rate)
        training = replace(
            spec, sampling_rate=0.5, local_steps=1, weight_decay=0.0, momentum=0.0, proximal=0.0
        )
        privacy = manifest.privacy
        if privacy.mode != "none":
            privacy = replace(privacy, mode="distributed")
        exact = replace(manifest, training=training, privacy=privacy)
        self._chosen = np.ones(len(table), np.bool_)
        self._trainer = Trainer(exact, table, None, self._sample)
        singles = [part(table, row) for row in np.eye(len(table), dtype=np.bool_)]
        self.statistics = np.array([Trainer(exact, one, None, self._sample).statistics() for one in singles])
        if not manifest.numeric_columns:
            self.statistics[:] = 0

    def of_all(self, model: Vector, statistics: Vector) -> Vector:
        """The sum over all records: shape (d,)."""
        self._chosen[:] = True
        return self._trainer.contribution(model, statistics) - model

    def of_each(self, model: Vector, statistics: Vector) -> Vector:
        """Of one record after the other: (n, d)."""
        found = []
        for number in range(len(self._chosen)):
            self._chosen[:] = False
            self._chosen[number] = True
            found.append(self._trainer.contribution(model, statistics) - model)
        return np.array(found)

    def spread(self, model: Vector, statistics: Vector, steps: Vector) -> Vector:
        return np.asarray(math.sqrt(self._sampled) * steps)

    def _sample(self, count: int) -> bytes:
        """Randomness by which exactly the chosen records are sampled, at any rate below one."""
        words = np.where(self._chosen, 0, 2**64 - 1).astype("<u8").tobytes()
        return words[:count]


class Organisations:
    """What members add with all the records in their ``tables``, on average over _DRAWS samples of them."""

    kept, taken = 1.0, 1.0

    def __init__(self, manifest: Manifest, tables: Sequence[Table], random: RandomBytes) -> None:
        self._trainers = [Trainer(manifest, table, None, random) for table in tables]
        self.statistics = np.array([trainer.statistics() for trainer in self._trainers])
        if not manifest.numeric_columns:
            self.statistics[:] = 0
        bare = replace(manifest, privacy=manifest.privacy.with_mode("none"))
        self._records = Records(bare, pooled(tables))

    def of_all(self, model: Vector, statistics: Vector) -> Vector:
        return np.asarray(self.of_each(model, statistics).sum(axis=0))

    def of_each(self, model: Vector, statistics: Vector) -> Vector:
        drawn = [
            [trainer.contribution(model, statistics) - model for trainer in self._trainers]
            for _ in range(_DRAWS)
        ]
        return np.asarray(np.mean(drawn, axis=0))

    def spread(self, model: Vector, statistics: Vector, steps: Vector) -> Vector:
        """That of their records, which is too large where a member's change is clipped."""
        return self._records.spread(model, statistics, self._records.of_each(model, statistics))
