"""A sweep: everything once, in order, and never again."""

import csv
import json
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
import torch

from p2pfl.simulation.experiment import Sweep, read
from p2pfl.simulation.partitions import PartitionError
from p2pfl.simulation.summary import lines, points
from p2pfl.simulation.sweep import RUNS, perform
from p2pfl.simulation.table import write

torch.set_num_threads(1)
TEXT = """
[simulation]
nodes = [4, 6]
seeds = 2
evaluate_every = 2
[training]
rounds = 3
[privacy]
mode = "none"
"""


class Here(Executor):
    """Does what it is given at once, and counts it."""

    def __init__(self) -> None:
        self.done = 0

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **named: Any) -> "Future[Any]":
        self.done += 1
        future: Future[Any] = Future()
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:  # noqa: BLE001 - an executor hands everything on
            future.set_exception(error)
        return future


def sweep(text: str = TEXT) -> Sweep:
    return read(text, Path())


def test_every_run_is_there_in_order(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    rows = perform(sweep(), tmp_path, Here(), lambda done, total: told.append((done, total)))
    found = [(row["simulation.nodes"], row["seed"], row["round"]) for row in rows]
    assert found == [(nodes, seed, round) for nodes in (4, 6) for seed in (0, 1) for round in (0, 2, 3)]
    assert told == [(done, 4) for done in range(5)]


def test_an_interrupted_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    first = perform(sweep(), tmp_path, Here(), lambda *_: None)
    runs = tmp_path / RUNS
    kept = runs.read_text().splitlines()
    runs.write_text("\n".join(kept[:2]) + "\n" + kept[2][:100])  # cut off within the third
    executor = Here()
    assert perform(sweep(), tmp_path, executor, lambda *_: None) == first
    assert executor.done == 2
    again = Here()
    assert perform(sweep(), tmp_path, again, lambda *_: None) == first
    assert again.done == 0


def test_another_experiment_is_run_anew(tmp_path: Path) -> None:
    perform(sweep(), tmp_path, Here(), lambda *_: None)
    executor = Here()
    perform(sweep(TEXT.replace("rounds = 3", "rounds = 2")), tmp_path, executor, lambda *_: None)
    assert executor.done == 4


def test_what_was_finished_before_a_failure_stays(tmp_path: Path) -> None:
    failing = TEXT.replace("[4, 6]", "[4, 9000]")
    with pytest.raises(PartitionError):
        perform(sweep(failing), tmp_path, Here(), lambda *_: None)
    assert all(json.loads(line)["result"] for line in (tmp_path / RUNS).read_text().splitlines())


def test_results_are_one_tidy_table(tmp_path: Path) -> None:
    from pyarrow import parquet

    rows = perform(sweep(), tmp_path, Here(), lambda *_: None)
    written = write(rows, tmp_path)
    assert [path.name for path in written] == ["results.csv", "results.parquet"]
    read_back = list(csv.DictReader(written[0].open()))
    assert [float(row["accuracy"]) for row in read_back] == [row["accuracy"] for row in rows]
    assert parquet.read_table(written[1]).to_pylist() == rows


def test_a_summary_has_a_line_for_each_point_best_first(tmp_path: Path) -> None:
    rows = perform(sweep(), tmp_path, Here(), lambda *_: None)
    found = points(rows, ["simulation.nodes"])
    last = [row["accuracy"] for row in rows if row["round"] == 3]
    assert [point.means["accuracy"] for point in found] == [sum(last[:2]) / 2, sum(last[2:]) / 2]  # type: ignore[arg-type]
    head, first, second, _ = lines(rows, ["simulation.nodes"])
    assert head.split()[:2] == ["simulation.nodes", "accuracy"]
    assert float(first.split()[1]) >= float(second.split()[1])
    assert "±" in first
