"""Records to predict: without labels, and with every row kept, so that each prediction finds its place."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from p2pfl.gossip.manifest import TaskSpec
from p2pfl.node.training.rows import open_rows
from p2pfl.node.training.table import Table


@dataclass(frozen=True, slots=True, eq=False)
class Unlabelled:
    """``rows`` as in the file, ``whole``: whether a row has all the cells that the model needs.

    ``table`` has the whole rows, in order; its labels are all 0 and mean nothing.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...] = field(repr=False)
    whole: tuple[bool, ...] = field(repr=False)
    table: Table = field(repr=False)


def load_unlabelled(path: Path, task: TaskSpec) -> Unlabelled:
    """Read the CSV file at ``path``; columns that ``task`` does not name are kept, but ignored.

    Raises DataError, naming file, line and column, for anything that is not as the manifest declares.
    """
    features: list[list[float]] = []
    kept: list[tuple[str, ...]] = []
    whole: list[bool] = []
    with open_rows(path) as rows:
        positions = [rows.position(column.name) for column in task.columns]
        for row in rows:
            cells = [row[position] for position in positions]
            kept.append(row)
            whole.append(not any(cell in task.missing for cell in cells))
            if whole[-1]:
                features.append(rows.features(task.columns, cells))
    shape = len(features), task.features
    table = Table(np.array(features, np.float64).reshape(shape), np.zeros(len(features)))
    return Unlabelled(rows.header, tuple(kept), tuple(whole), table)
