"""What federating is measured against: each organisation training alone, and all records pooled.

Both run the federation's own algorithm (same model, steps and sampling, no clipping, no noise) on a table
that the federation would never see in one place. For demos and benchmarks, where somebody has all the tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.manifest import Manifest
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A trained model with the statistics that its inputs are standardised by."""

    trainer: Trainer
    parameters: NDArray[np.float64] = field(repr=False)
    statistics: NDArray[np.float64] = field(repr=False)

    def accuracy(self, table: Table) -> float:
        """Share of the records of ``table`` that it gets right."""
        return self.trainer.evaluate(self.parameters, self.statistics, table).accuracy


def pooled(tables: Sequence[Table]) -> Table:
    """All records in one table."""
    return Table(
        np.concatenate([table.features for table in tables]),
        np.concatenate([table.labels for table in tables]),
        sum(table.dropped for table in tables),
    )


def train_centrally(manifest: Manifest, table: Table, random: RandomBytes) -> Model:
    """Train on ``table`` as the federation of ``manifest`` would, but in one place and without privacy."""
    expected = manifest.training.sampling_rate * len(table)
    central = replace(
        manifest,
        training=replace(manifest.training, expected_batch=expected),
        privacy=manifest.privacy.with_mode("none"),
    )
    trainer = Trainer(central, table, None, random)
    statistics = trainer.statistics()
    parameters = trainer.initial_parameters()
    for _ in range(manifest.training.rounds):
        parameters = trainer.contribution(parameters, statistics)
    return Model(trainer, parameters, statistics)
