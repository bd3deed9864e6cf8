"""An organisation's records to learn from and to test on. They stay in this process."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from p2pfl.gossip.manifest import TaskSpec
from p2pfl.node.errors import DataError
from p2pfl.node.privacy import MAX_RECORDS
from p2pfl.node.training.rows import open_rows


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Records of one organisation; never shown, never sent.

    ``features``: float64, shape (n, d), columns in the manifest's order. A numeric column is its value
    clipped to the declared range; a categorical one is 0 or 1 for each of its levels but the first.
    ``labels``: float64, shape (n,), 0 or 1. ``dropped``: rows left out because a cell was missing.
    """

    features: NDArray[np.float64] = field(repr=False)
    labels: NDArray[np.float64] = field(repr=False)
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.labels)


def load_table(path: Path, task: TaskSpec) -> Table:
    """Read the CSV file at ``path``; columns that ``task`` does not name are ignored.

    A row with a cell of ``task.missing`` in a column that the task names is left out and counted. Raises
    DataError, naming file, line and column, for anything that is not as the manifest declares, and for a
    table without a whole row or with more than MAX_RECORDS.
    """
    features: list[list[float]] = []
    labels: list[float] = []
    dropped = 0
    with open_rows(path) as rows:
        positions = [rows.position(name) for name in (*(column.name for column in task.columns), task.label)]
        for row in rows:
            *cells, label = (row[position] for position in positions)
            if label in task.missing or any(cell in task.missing for cell in cells):
                dropped += 1
                continue
            if len(labels) == MAX_RECORDS:
                rows.refuse(f"more than {MAX_RECORDS} records", "give this node fewer records")
            features.append(rows.features(task.columns, cells))
            labels.append(float(label in task.positive))
    if not labels:
        what = f"all {dropped} rows miss a cell" if dropped else "no rows below the header"
        raise DataError(f"{path}: {what}", "a node needs at least one whole record")
    shape = len(labels), task.features
    return Table(np.array(features, np.float64).reshape(shape), np.array(labels), dropped)
