"""The records of a simulation: from what p2pfl brings or a user has, dealt to nodes.

A path is what a node of the task would be given as its data: then all of it is one part. Or it is a folder of
such parts, one for each organisation: files, or folders with ``train`` and ``test`` files in them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from p2pfl.baselines import pooled
from p2pfl.gossip.manifest import ImageTask, TabularTask, TaskSpec
from p2pfl.heart_disease import HOSPITALS, write_hospital
from p2pfl.node.errors import DataError
from p2pfl.node.training.table import Table, load_table
from p2pfl.simulation import partitions
from p2pfl.simulation.left_out import described, missing_cells
from p2pfl.simulation.setting import Setting

BUILT_IN = "heart_disease"


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """``train``: the parts that the data came in; ``test``: records of its own to test on, None if there are
    none; ``names`` of the parts. ``left_out``: what the task leaves out of it, in words, empty if nothing.
    """

    names: Sequence[str]
    train: Sequence[Table]
    test: Table | None
    left_out: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Dealt:
    """``train``: what each node learns from; ``test``: what all are tested on."""

    names: Sequence[str]
    train: Sequence[Table]
    test: Table


def load(setting: Setting, task: TaskSpec, base: Path) -> Source:
    """Read the data of ``setting``; a path is relative to ``base``.

    Raises DataError for what cannot be read as ``task`` declares.
    """
    if setting.data == BUILT_IN:
        with TemporaryDirectory() as directory:
            for name in HOSPITALS:
                (Path(directory) / name).mkdir()
                write_hospital(Path(directory) / name, name)
            return _parts(Path(directory), task)
    path = base / setting.data
    if _is_folder_of_parts(path, task):
        return _parts(path, task)
    tables, left_out = _tables([path], task)
    return Source([path.stem], tables, None, left_out)


def deal(source: Source, setting: Setting, task: TaskSpec, seed: int) -> Dealt:
    """Give every node its records, the same ones for the same ``seed``.

    Raises PartitionError if they cannot be dealt like that.
    """
    rng = np.random.default_rng([seed, 1])
    if setting.partition == "natural":
        names, train, test = source.names, source.train, source.test
        if test is None:
            split = [_split(part, setting.test_share, rng) for part in train]
            train, test = [kept for kept, _ in split], pooled([held for _, held in split])
        return Dealt(names, train, _required(test))
    whole, test = pooled(source.train), source.test
    if test is None:
        whole, test = _split(whole, setting.test_share, rng)
    parts = _positions(setting, task, whole, rng)
    return Dealt(
        [f"n{number:03}" for number in range(len(parts))],
        [taken(whole, part) for part in parts],
        _required(test),
    )


def taken(table: Table, positions: partitions.Positions) -> Table:
    """Some of the records."""
    return Table(table.features[positions], table.labels[positions])


def _positions(
    setting: Setting, task: TaskSpec, table: Table, rng: np.random.Generator
) -> list[partitions.Positions]:
    labels = table.labels if table.labels.ndim == 1 else table.labels[:, 0]
    match setting.partition:
        case "dirichlet":
            return partitions.dirichlet(labels, setting.nodes, setting.alpha, rng)
        case "shards":
            return partitions.shards(labels, setting.nodes, setting.shards, rng)
        case "column":
            return partitions.by_value(_column(task, table, setting.column))
    return partitions.iid(len(table), setting.nodes, rng)


def _column(task: TaskSpec, table: Table, name: str) -> Sequence[object]:
    """The values of a column in every record: for a categorical one, the positions of its levels."""
    if not isinstance(task, TabularTask):
        raise partitions.PartitionError("only a table has columns; take another partition")
    start = 0
    for column in task.columns:
        if column.name == name:
            values = table.features[:, start : start + column.features]
            return (
                values[:, 0].tolist() if column.kind == "numeric" else [tuple(row) for row in values.tolist()]
            )
        start += column.features
    known = ", ".join(column.name for column in task.columns)
    raise partitions.PartitionError(f"the task has no column {name!r}; it has {known}")


def _is_folder_of_parts(path: Path, task: TaskSpec) -> bool:
    """A folder of pictures holds one folder for each class, which is a single part."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir() if entry.is_dir()}
    return not (isinstance(task, ImageTask) and bool(names) and names <= set(task.classes))


def _parts(folder: Path, task: TaskSpec) -> Source:
    found = [entry for entry in sorted(folder.iterdir()) if not entry.name.startswith(".")]
    if not found:
        raise DataError(f"{folder}: nothing in it", "put a file or folder for each organisation there")
    own = [{each.stem: each for each in entry.iterdir()} if entry.is_dir() else {} for entry in found]
    train = [files.get("train", entry) for entry, files in zip(found, own, strict=True)]
    test = [files["test"] for files in own if "test" in files]
    if test and len(test) != len(train):
        raise DataError(
            f"{folder}: some parts have test records and some have none", "give all of them some, or none"
        )
    tables, left_out = _tables([*train, *test], task)
    tested = pooled(tables[len(train) :]) if test else None
    return Source([entry.stem for entry in found], tables[: len(train)], tested, left_out)


def _tables(paths: Sequence[Path], task: TaskSpec) -> tuple[list[Table], str]:
    """The records in each file or folder, and what was left out of all."""
    tables = [load_table(path, task) for path in paths]
    cells: Counter[str] = Counter()
    if isinstance(task, TabularTask):
        for path, table in zip(paths, tables, strict=True):
            cells += missing_cells(path, task) if table.dropped else Counter()
    return tables, described(tables, task, cells)


def _split(table: Table, share: float, rng: np.random.Generator) -> tuple[Table, Table]:
    """What is kept to learn from, and what is held out: at least a record of each where there are two."""
    order = rng.permutation(len(table))
    held = min(max(1, round(share * len(table))), len(table) - 1) if share else 0
    return taken(table, np.sort(order[held:])), taken(table, np.sort(order[:held]))


def _required(test: Table | None) -> Table:
    if test is None or len(test) == 0:
        raise partitions.PartitionError("no records to test on; give a test_share above 0")
    return test
