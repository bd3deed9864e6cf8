"""Tables: missing cells and unknown levels by the declared rules, what a label is, CSV and Parquet alike."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from p2pfl.gossip.manifest import Column, TabularTask
from p2pfl.node.errors import DataError
from p2pfl.node.training.preprocessing import Standardiser, statistics_of
from p2pfl.node.training.table import Table, check_readable, load_table
from p2pfl.node.training.unlabelled import load_unlabelled

TASK = TabularTask(
    "tabular",
    "y",
    ("yes",),
    (
        Column("age", "numeric", 20.0, 80.0, missing="indicator"),
        Column("site", "categorical", levels=("a", "b"), missing="level", unknown="missing"),
        Column("dose", "numeric", -1.0, 1.0),
    ),
    ("", "?"),
)
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writer(content: str) -> Path:
        path = tmp_path / "data.csv"
        path.write_text(content)
        return path

    return writer


# -- missing cells and unknown levels
def test_missing_cells_mean_what_is_declared(write: Write) -> None:
    rows = "30,a,0.5,yes\n?,b,0.5,no\n30,,0.5,no\n30,z,0.5,no\n30,a,?,no\n30,a,0.5,?\n"
    table = load_table(write("age,site,dose,y\n" + rows), TASK)
    expected = [[30, 0, 0, 0, 0.5], [math.nan, 1, 1, 0, 0.5], [30, 0, 0, 1, 0.5], [30, 0, 0, 1, 0.5]]
    np.testing.assert_array_equal(table.features, expected)
    assert table.labels.tolist() == [1, 0, 0, 0]
    assert table.dropped == 2


def test_an_unknown_level_can_drop_its_row(write: Write) -> None:
    columns = (replace(TASK.columns[1], missing="drop"),)
    table = load_table(write("site,y\na,yes\nz,yes\n"), replace(TASK, columns=columns))
    assert (len(table), table.dropped) == (1, 1)


def test_a_missing_number_is_the_mean_and_says_so() -> None:
    features = np.array([[20.0, 0, 0, 0, 0], [math.nan, 1, 0, 0, 0], [50.0, 0, 0, 0, 0]])
    table = Table(features, np.zeros(3))
    statistics = statistics_of(TASK, table)
    # Missing counts as the middle of the range, 50: u is -1, 0, 0.
    assert statistics.tolist() == [3, -1, 0, 1 - 1.5, -1.5]
    inputs = Standardiser.from_statistics(TASK, statistics, noised=False).inputs(table)
    assert np.isfinite(inputs).all()
    assert inputs[1, 0] == 0
    assert inputs[:, 1].tolist() == [-0.5, 0.5, -0.5]


@pytest.mark.parametrize("age", [20.0, 80.0, 50.0, math.nan])
def test_a_missing_number_moves_statistics_by_no_more_than_any_other(age: float) -> None:
    table = Table(np.array([[age, math.isnan(age), 0, 0, 1.0]]), np.zeros(1))
    assert np.linalg.norm(statistics_of(TASK, table)) <= math.sqrt(1 + 1.25 * 2)


# -- labels
@pytest.mark.parametrize("cell", ["", "nan", "NaN"])
def test_a_label_that_is_missing_is_refused_where_nobody_declared_it(write: Write, cell: str) -> None:
    path, task = write(f"age,site,dose,y\n30,a,0,no\n30,a,0,{cell}\n"), replace(TASK, missing=("?",))
    with pytest.raises(DataError, match=f"data.csv, line 3, column y: '{cell}' is a missing label") as caught:
        load_table(path, task)
    assert "task.missing" in caught.value.hint
    assert load_table(path, replace(task, missing=("?", cell))).dropped == 1
    if cell:
        assert load_table(path, replace(task, positive=("yes", cell))).labels.tolist() == [0, 1]


def test_with_negative_cells_listed_any_other_is_refused(tmp_path: Path, write: Write) -> None:
    task = replace(TASK, negative=("no", "never"))
    head = "age,site,dose,y\n"
    table = load_table(write(head + "30,a,0,yes\n30,a,0,no\n30,a,0,never\n30,a,0,?\n"), task)
    assert (table.labels.tolist(), table.dropped) == ([1, 0, 0], 1)
    with pytest.raises(DataError, match="line 2, column y: 'Yes' is not a declared level") as caught:
        load_table(write(head + "30,a,0,Yes\n"), task)
    assert caught.value.hint == "the manifest declares: yes, no, never"
    rows = parquet(tmp_path / "x.parquet", age=[30], site=["a"], dose=[0], y=[None])
    with pytest.raises(DataError, match="row 1, column y: '' is not a declared level"):
        load_table(rows, replace(task, missing=("?",)))


def test_classes_are_numbered_as_listed(write: Write) -> None:
    task = replace(TASK, positive=(), classes=("no", "yes", "maybe"))
    head = "age,site,dose,y\n"
    table = load_table(write(head + "30,a,0,maybe\n30,a,0,no\n30,a,0,?\n"), task)
    assert table.labels.tolist() == [2, 0]
    assert table.labels.dtype == np.int64
    assert table.dropped == 1
    with pytest.raises(DataError, match="line 2, column y: 'perhaps' is not a declared level") as caught:
        load_table(write(head + "30,a,0,perhaps\n"), task)
    assert "no, yes, maybe" in caught.value.hint


def test_a_number_is_clipped_and_scaled_to_its_declared_range(write: Write) -> None:
    task = replace(TASK, positive=(), low=100.0, high=300.0)
    head = "age,site,dose,y\n"
    table = load_table(write(head + "30,a,0,150\n30,a,0,9e9\n30,a,0,100\n"), task)
    assert table.labels.tolist() == [-0.5, 1, -1]
    with pytest.raises(DataError, match="line 2, column y: 'much' is not a number"):
        load_table(write(head + "30,a,0,much\n"), task)


def test_one_label_alone_teaches_nothing(write: Write) -> None:
    head = "age,site,dose,y\n"
    assert load_table(write(head + "30,a,0,yes\n31,a,0,yes\n"), TASK).has_one_label
    assert not load_table(write(head + "30,a,0,yes\n31,a,0,no\n"), TASK).has_one_label


# -- Parquet
def parquet(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_means_the_same_as_csv(tmp_path: Path, write: Write) -> None:
    path = parquet(
        tmp_path / "data.parquet",
        y=["yes", "no", None, "no"],
        age=pa.array([30, None, 50, 61], pa.int64()),
        site=pa.array(["a", "b", "a", None]).dictionary_encode(),
        dose=[0.25, -0.5, 0.0, 1.0],
        other=[[1], [2], [3], [4]],
    )
    table = load_table(path, TASK)
    same = load_table(write("age,site,dose,y\n30,a,0.25,yes\n,b,-0.5,no\n50,a,0,\n61,,1,no\n"), TASK)
    np.testing.assert_array_equal(table.features, same.features)
    assert (table.labels.tolist(), table.dropped) == (same.labels.tolist(), same.dropped)
    check_readable(path)


def test_numbers_and_truths_become_the_cells_that_people_write(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", a=[3.0, math.nan], b=[True, False], c=[1e300, 0.5], d=[-2, 7])
    task = TabularTask("tabular", "d", ("1",), (Column("c", "numeric", 0, 1),))
    read = load_unlabelled(path, task)
    assert read.header == ("a", "b", "c", "d")
    assert read.rows == (("3", "true", "1e+300", "-2"), ("", "false", "0.5", "7"))
    assert read.whole == (True, True)


def test_what_is_wrong_in_parquet_is_said_with_its_row(tmp_path: Path) -> None:
    path = parquet(tmp_path / "x.parquet", age=[30, 30], site=["a", "a"], dose=["0", "much"], y=["no", "no"])
    with pytest.raises(DataError, match="row 2, column dose: 'much' is not a number"):
        load_table(path, TASK)
    with pytest.raises(DataError, match="column age: missing from the header"):
        load_table(parquet(tmp_path / "y.parquet", y=["no"]), TASK)
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match="not valid Parquet") as caught:
        load_table(damaged, TASK)
    assert caught.value.what.isprintable()


def test_without_pyarrow_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path / "x.parquet", y=["no"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="needs pyarrow") as caught:
        load_table(path, TASK)
    assert "pip install 'p2pfl-node[parquet]'" in caught.value.hint
