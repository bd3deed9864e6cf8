"""What advice is tried out on: records and a task of one's own, or made-up ones."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from p2pfl.crypto.identity import Identity
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
from p2pfl.node.training.table import Table
from p2pfl.noise_cost import SIGNAL
from p2pfl.simulation.experiment import read
from p2pfl.simulation.partitions import PartitionError
from p2pfl.simulation.sources import Dealt, deal, load

_TESTED: Final = 2000
_RANGE: Final = 3.0


@dataclass(frozen=True, slots=True)
class Problem:
    """``draft``: the task and the model, its other terms of no account. ``dealt``: the nodes' records for a
    seed, kept.
    """

    draft: Manifest
    dealt: Callable[[int], Dealt]


def made_up(nodes: int, records: int, features: int) -> Problem:
    """Logistic regression where the truth is one: see :mod:`p2pfl.noise_cost`."""
    columns = tuple(Column(f"x{number}", "numeric", -_RANGE, _RANGE) for number in range(features))
    draft = Manifest(
        name="made up",
        issuers=(Identity.from_seed(bytes(32)).peer_id,),
        members=(),
        task=TabularTask("tabular", "y", ("1",), columns),
        model=DenseModel("logistic"),
        training=TrainingSpec(1, 1.0, 1.0, 1.0),
        privacy=PrivacySpec("none"),
        groups=GroupSpec(),
        timing=TimingSpec(),
    )

    @cache
    def dealt(seed: int) -> Dealt:
        rng = np.random.default_rng([seed, 7])
        truth = rng.normal(size=features)
        truth *= SIGNAL / np.linalg.norm(truth)

        def drawn(count: int) -> Table:
            inputs = rng.normal(size=(count, features))
            chance = 1 / (1 + np.exp(-inputs @ truth))
            return Table(np.clip(inputs, -_RANGE, _RANGE), (rng.random(count) < chance).astype(np.float64))

        names = [f"n{number:03}" for number in range(nodes)]
        return Dealt(names, [drawn(records) for _ in names], drawn(_TESTED))

    return Problem(draft, dealt)


def own(nodes: int, records: int | None, data: str, federation: Path | None) -> Problem:
    """The records at ``data``, dealt to ``nodes`` by chance, for each at most so many ``records``; the task
    and the model are those of ``federation``, None: of the four hospitals.

    Raises FieldError, UserError or PartitionError for what cannot be read or dealt.
    """
    said: dict[str, object] = {"simulation.nodes": nodes, "simulation.data": data}
    if federation is not None:
        said["simulation.federation"] = str(federation.absolute())
    [experiment] = read("", Path(), said).experiments
    draft, setting = experiment.manifest, experiment.setting
    source = load(setting, draft.task, Path())

    @cache
    def dealt(seed: int) -> Dealt:
        found = deal(source, setting, draft.task, seed)
        least = min(map(len, found.train))
        if records is not None and least < records:
            raise PartitionError(
                f"{data} has {least} training records for each of {nodes} nodes, not {records}; ask for fewer"
            )
        return Dealt(found.names, [_first(table, records) for table in found.train], found.test)

    return Problem(draft, dealt)


def _first(table: Table, count: int | None) -> Table:
    return Table(table.features[:count], table.labels[:count])
