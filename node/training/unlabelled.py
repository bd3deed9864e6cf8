"""Records to predict: without labels, and with every row kept, so that each prediction finds its place."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from p2pfl.gossip.manifest import ImageTask, OutsideTask, PluginTask, TabularTask, TaskSpec, TextTask
from p2pfl.node.errors import DataError
from p2pfl.node.privacy import MAX_RECORDS
from p2pfl.node.training.images import load_unlabelled_pictures
from p2pfl.node.training.rows import open_rows
from p2pfl.node.training.table import Table, load_table


@dataclass(frozen=True, slots=True, eq=False)
class Unlabelled:
    """``rows`` as in the file, or the names of pictures; ``whole``: whether a row has all that the model
    needs.

    ``table`` has the whole rows, in order; its labels mean nothing.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...] = field(repr=False)
    whole: tuple[bool, ...] = field(repr=False)
    table: Table = field(repr=False)


def load_unlabelled(path: Path, task: TaskSpec) -> Unlabelled:
    """Read the records at ``path``; columns that ``task`` does not name are kept, but ignored.

    Raises DataError, naming file, line and column, for anything that is not as the manifest declares, for
    nothing at all, and for text, which has no labels to predict.
    """
    found = _load(path, task)
    if not found.rows:
        hint = "name a file with rows, or a folder with pictures in it or in a folder for each class"
        raise DataError(f"{path}: no records, so there is nothing to predict", hint)
    return found


def _load(path: Path, task: TaskSpec) -> Unlabelled:
    match task:
        case TabularTask():
            return _load_rows(path, task)
        case ImageTask():
            names, pictures = load_unlabelled_pictures(path, task, MAX_RECORDS)
            table = Table(pictures, np.zeros(len(pictures), np.int64))
            return Unlabelled(("picture",), tuple((name,) for name in names), (True,) * len(names), table)
        case PluginTask():
            table = load_table(path, task)
            numbers = tuple((str(number + 1),) for number in range(len(table)))
            return Unlabelled(("record",), numbers, (True,) * len(numbers), table)
        case OutsideTask():
            hint = "predict where the model is trained"
            raise DataError(f"{path}: this federation's records are read outside p2pfl", hint)
        case TextTask():
            hint = "measure it on text of your own with `p2pfl evaluate`"
            raise DataError(f"{path}: a character model has nothing to predict for a whole record", hint)


def _load_rows(path: Path, task: TabularTask) -> Unlabelled:
    features: list[list[float]] = []
    kept: list[tuple[str, ...]] = []
    whole: list[bool] = []
    with open_rows(path) as rows:
        positions = [rows.position(column.name) for column in task.columns]
        for row in rows:
            found = rows.features(task, [row[position] for position in positions])
            kept.append(row)
            whole.append(found is not None)
            if found is not None:
                features.append(found)
    shape = len(features), task.features
    table = Table(np.array(features, np.float64).reshape(shape), np.zeros(len(features)))
    return Unlabelled(rows.header, tuple(kept), tuple(whole), table)
