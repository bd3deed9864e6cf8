"""An organisation's records to learn from and to test on. They stay in this process."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.gossip.manifest import ImageTask, OutsideTask, PluginTask, TabularTask, TaskSpec, TextTask
from p2pfl.node.errors import DataError, reason_of
from p2pfl.node.privacy import MAX_RECORDS
from p2pfl.node.storage.regular_file import regular_only
from p2pfl.node.training.images import load_pictures
from p2pfl.node.training.rows import Rows, open_rows
from p2pfl.node.training.text import load_text


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Records of one organisation; never shown, never sent. n records of

    * a table: ``features`` float64 (n, d), columns in the manifest's order. A numeric column is its value
      clipped to the declared range, nan if missing, then 1 or 0 for missing if it has an indicator; a
      categorical one is 0 or 1 for each of its levels but the first, then for missing if that is a level.
      ``labels`` (n,): float64 0 or 1 for two classes, int64 positions for several, float64 in [-1, 1] over
      the declared range for a number.
    * pictures: ``features`` of the type in the file, (n, channels, height, width); ``labels`` int64 (n,).
    * text: ``features`` and ``labels`` int16 (n, window): characters by position in the alphabet, and those
      that follow them, PADDING where there is none.
    * a plug-in: whatever numbers it gives.

    ``dropped``: rows, lines or characters left out, as the manifest says.
    """

    features: NDArray[Any] = field(repr=False)
    labels: NDArray[Any] = field(repr=False)
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_one_label(self) -> bool:
        """Whether nothing can be learnt from these records alone."""
        return len(np.unique(self.labels)) == 1


NO_RECORDS: Final = Table(np.zeros((0, 0)), np.zeros(0))
"""What a node reads whose records stay with a training loop outside."""


def load_table(path: Path, task: TaskSpec) -> Table:
    """Read the records at ``path`` as ``task`` declares them.

    Raises DataError, naming file, line and column, for anything that is not as declared, and for less than
    one record or more than MAX_RECORDS.
    """
    match task:
        case TabularTask():
            return _load_rows(path, task)
        case ImageTask():
            return Table(*load_pictures(path, task, MAX_RECORDS))
        case TextTask():
            return Table(*load_text(path, task, MAX_RECORDS))
        case PluginTask():
            from p2pfl.node.training.plugins import records_of  # brings torch along, which takes seconds

            return Table(*records_of(task, path))
        case OutsideTask():
            hint = "measure the model where it is trained"
            raise DataError(f"{path}: this federation's records are read outside p2pfl", hint)


def check_readable(path: Path) -> None:
    """What can be said before the task is known: the file or folder is there, and a table if it is named so.

    Raises DataError.
    """
    if path.suffix.lower() in (".csv", ".parquet"):
        with open_rows(path):
            return
    if not path.is_dir():
        try:
            open(path, "rb", opener=regular_only).close()
        except OSError as error:
            hint = "check the path and its permissions"
            raise DataError(f"{path}: cannot be read: {reason_of(error)}", hint) from None


def _load_rows(path: Path, task: TabularTask) -> Table:
    """CSV or Parquet; columns that ``task`` does not name are ignored."""
    features: list[list[float]] = []
    labels: list[float] = []
    dropped = 0
    with open_rows(path) as rows:
        positions = [rows.position(name) for name in (*(column.name for column in task.columns), task.label)]
        for row in rows:
            *cells, label = (row[position] for position in positions)
            found = None if label in task.missing else rows.features(task, cells)
            if found is None:
                dropped += 1
                continue
            if len(labels) == MAX_RECORDS:
                rows.refuse(f"more than {MAX_RECORDS} records", "give this node fewer records")
            features.append(found)
            labels.append(_label(task, label, rows))
    if not labels:
        what = f"all {dropped} rows miss a cell" if dropped else "no rows below the header"
        raise DataError(f"{path}: {what}", "a node needs at least one whole record")
    shape = len(labels), task.features
    kind = np.int64 if task.classes else np.float64
    return Table(np.array(features, np.float64).reshape(shape), np.array(labels, kind), dropped)


def _label(task: TabularTask, cell: str, rows: Rows) -> float:
    if task.positive:
        return float(_is_positive(task, cell, rows))
    if task.is_regression:
        middle, half = (task.low + task.high) / 2, (task.high - task.low) / 2
        return min(max((rows.number(task.label, cell) - middle) / half, -1.0), 1.0)
    if cell not in task.classes:
        rows.refuse_level(cell, task.classes, task.label)
    return task.classes.index(cell)


def _is_positive(task: TabularTask, cell: str, rows: Rows) -> bool:
    known = (*task.positive, *task.negative)
    if cell not in known:
        if task.negative:
            rows.refuse_level(cell, known, task.label)
        rows.require_present(cell, task.label)
    return cell in task.positive
