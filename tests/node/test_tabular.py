"""Tables: what a CSV file may hold and what is said when it does not; statistics and standardisation; the
hospitals.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import Column, TabularTask, from_toml
from p2pfl.heart_disease import FEDERATION_TOML, HEADER, HOSPITALS, hospital_tables, write_hospital
from p2pfl.node.errors import DataError
from p2pfl.node.training import table as table_module
from p2pfl.node.training.preprocessing import INPUT_LIMIT, Standardiser, numeric_features, statistics_of
from p2pfl.node.training.table import Table, load_table

TASK = TabularTask(
    "tabular",
    "sick",
    ("yes", "maybe"),
    (
        Column("age", "numeric", 20.0, 80.0),
        Column("sex", "categorical", levels=("f", "m")),
        Column("dose", "numeric", -1.0, 1.0),
        Column("site", "categorical", levels=("a", "b", "c")),
    ),
    ("", "?"),
)

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writer(content: str) -> Path:
        path = tmp_path / "data.csv"
        path.write_bytes(content.encode())
        return path

    return writer


# -- reading
def test_a_table_is_read_as_declared(write: Write) -> None:
    table = load_table(
        write("site,note,age,sick,dose,sex\na,x,30,yes,0.5,f\nc, y , 99 ,no,-1e3,m\nb,,20,maybe,.25,m\n"),
        TASK,
    )
    assert table.features.tolist() == [[30, 0, 0.5, 0, 0], [80, 1, -1, 0, 1], [20, 1, 0.25, 1, 0]]
    assert table.labels.tolist() == [1, 0, 1]
    assert table.features.dtype == table.labels.dtype == np.float64
    assert (len(table), table.dropped) == (3, 0)
    assert "30" not in repr(table)


def test_rows_with_a_missing_cell_are_dropped_and_counted(write: Write) -> None:
    rows = ["30,?,0,a,yes", ",f,0,a,yes", "31,f,0,a,?", "32,f,0,a,no", "", "33,f,0,a,yes"]
    table = load_table(write("\n".join(["age,sex,dose,site,sick", *rows])), TASK)
    assert table.features[:, 0].tolist() == [32, 33]
    assert table.dropped == 3


def test_a_missing_cell_in_a_column_of_no_concern_does_not_matter(write: Write) -> None:
    assert load_table(write("age,sex,dose,site,sick,note\n30,f,0,a,yes,?\n"), TASK).dropped == 0


def test_byte_order_mark_crlf_and_quotes(write: Write) -> None:
    content = '\ufeff"age",sex,dose,site,sick\r\n"30","f",0,a,"yes"\r\n'
    assert load_table(write(content), TASK).features.tolist() == [[30, 0, 0, 0, 0]]


HEAD = "age,sex,dose,site,sick\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["the file is empty"]),
        ("\n\n", ["the file is empty"]),
        ("age;sex;dose;site;sick\n30;f;0,5;a;yes\n", ["separated by semicolons, not commas"]),
        ("age\tsex\tdose\tsite\tsick\n", ["separated by tabs, not commas"]),
        (HEAD, ["no rows"]),
        (HEAD + "?,f,0,a,yes\n", ["all 1 rows"]),
        ("age,sex,dose,site\n1,f,0,a\n", ["column sick", "missing from the header"]),
        ("age,sex,dose,site,sick,age\n", ["column age", "more than once"]),
        (HEAD + "30,f,0,a,yes\n30,f,0,a\n", ["line 3", "4 cells", "header has 5"]),
        (HEAD + "\n\nold,f,0,a,yes\n", ["line 4", "column age", "'old' is not a number"]),
        (HEAD + "nan,f,0,a,yes\n", ["line 2", "column age", "'nan' is not a number"]),
        (HEAD + "30,f,-inf,a,yes\n", ["line 2", "column dose", "'-inf' is not a number"]),
        (HEAD + "3_0,f,0,a,yes\n", ["'3_0' is not a number"]),
        (HEAD + "30,f,1,5,yes\n", ["column site", "'5' is not a declared level"]),
        (HEAD + "30,F,0,a,yes\n", ["column sex", "'F' is not a declared level"]),
        (HEAD + "30,\x1b[31m" + "x" * 300 + ",0,a,yes\n", ["\\x1b", "…"]),
        (HEAD + '30,"f,0,a,yes\n', ["not valid CSV"]),
    ],
)
def test_what_is_wrong_is_said(write: Write, content: str, words: list[str]) -> None:
    path = write(content)
    with pytest.raises(DataError) as caught:
        load_table(path, TASK)
    assert str(path) in caught.value.what
    for word in words:
        assert word in caught.value.what
    assert caught.value.hint
    assert "\x1b" not in caught.value.what
    assert len(caught.value.what) < 300 + len(str(path))


def test_levels_are_named_in_the_hint(write: Write) -> None:
    with pytest.raises(DataError) as caught:
        load_table(write(HEAD + "30,f,0,z,yes\n"), TASK)
    assert "a, b, c" in caught.value.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_table(tmp_path / "absent.csv", TASK)
    with pytest.raises(DataError, match="is a directory"):
        load_table(tmp_path, TASK)
    (tmp_path / "latin").write_bytes(HEAD.encode() + b"30,\xe9,0,a,yes\n")
    with pytest.raises(DataError, match="UTF-8"):
        load_table(tmp_path / "latin", TASK)


def test_a_table_beyond_the_encoding_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "MAX_RECORDS", 2)
    row = "30,f,0,a,yes\n"
    assert len(load_table(write(HEAD + 2 * row + "?,f,0,a,yes\n"), TASK)) == 2
    with pytest.raises(DataError, match="line 4: more than 2 records"):
        load_table(write(HEAD + 3 * row), TASK)


# -- statistics
def table_of(*rows: tuple[float, float]) -> Table:
    features = np.array([[age, 1.0, dose, 0.0, 1.0] for age, dose in rows])
    return Table(features, np.zeros(len(rows)))


def test_numeric_columns_only() -> None:
    assert numeric_features(TASK).tolist() == [True, False, True, False, False]
    # age 35 is -1/2 of its range, age 80 is 1
    assert statistics_of(TASK, table_of((35.0, 0.5), (80.0, 0.0))).tolist() == [2, 0.5, 0.5, 0.25, -0.75]


@given(st.lists(st.tuples(st.floats(20, 80), st.floats(-1, 1)), min_size=1, max_size=5))
def test_one_record_changes_statistics_by_at_most_the_sensitivity(rows: list[tuple[float, float]]) -> None:
    with_all, without = table_of(*rows), table_of(*rows[1:])
    change = statistics_of(TASK, with_all) - (statistics_of(TASK, without) if rows[1:] else 0)
    assert np.linalg.norm(change) <= math.sqrt(1 + 1.25 * 2) + 1e-12


def test_the_sensitivity_is_attained() -> None:
    assert np.linalg.norm(statistics_of(TASK, table_of((20.0, 1.0)))) == math.sqrt(1 + 1.25 * 2)


def test_standardised_inputs_have_mean_zero_and_variance_one() -> None:
    rng = np.random.default_rng(0)
    tables = [
        table_of(*zip(rng.uniform(30, 60, 50), rng.uniform(-0.2, 0.9, 50), strict=True)) for _ in range(3)
    ]
    total = np.sum([statistics_of(TASK, table) for table in tables], axis=0)
    for statistics in (total, total / 3):  # a sum, or the mean over members: all the same
        standardiser = Standardiser.from_statistics(TASK, statistics, noised=False)
        inputs = np.concatenate([standardiser.inputs(table) for table in tables])
        assert inputs[:, [0, 2]].mean(axis=0) == pytest.approx(0, abs=1e-12)
        assert inputs[:, [0, 2]].var(axis=0) == pytest.approx(1)
        assert set(inputs[:, 1]) == {0.5}
        assert set(inputs[:, 3]) == {-0.5}


@given(st.lists(st.floats(-1e6, 1e6), min_size=5, max_size=5))
def test_absurd_statistics_make_usable_inputs(statistics: list[float]) -> None:
    standardiser = Standardiser.from_statistics(TASK, np.array(statistics), noised=True)
    inputs = standardiser.inputs(table_of((20.0, -1.0), (50.0, 0.3), (80.0, 1.0)))
    assert np.isfinite(inputs).all()
    assert np.abs(inputs).max() <= INPUT_LIMIT
    assert (standardiser.scale > 0).all()
    assert standardiser.mean[0] >= 20
    assert standardiser.mean[0] <= 80


def test_statistics_without_records_stand_for_the_declared_ranges() -> None:
    standardiser = Standardiser.from_statistics(TASK, np.array([-3.0, 9, 9, 9, 9]), noised=True)
    assert standardiser.mean.tolist() == [50, 0.5, 0, 0.5, 0.5]
    assert standardiser.scale.tolist() == pytest.approx([30 / math.sqrt(3), 1, 1 / math.sqrt(3), 1, 1])


def test_a_constant_column_does_not_blow_up() -> None:
    table = table_of((50.0, 0.1), (50.0, 0.1))
    for noised, least in ((False, 1e-3), (True, 1e-1)):
        standardiser = Standardiser.from_statistics(TASK, statistics_of(TASK, table), noised=noised)
        assert standardiser.scale[2] == pytest.approx(least)
        assert standardiser.inputs(table)[:, 2] == pytest.approx(0, abs=1e-9)


def test_a_task_without_numeric_columns() -> None:
    task = TabularTask("tabular", "y", ("1",), (Column("a", "categorical", levels=("0", "1")),))
    table = Table(np.array([[1.0], [0.0]]), np.zeros(2))
    statistics = statistics_of(task, table)
    assert statistics.tolist() == [2]
    standardiser = Standardiser.from_statistics(task, statistics, noised=True)
    assert standardiser.inputs(table).tolist() == [[0.5], [-0.5]]


# -- the hospitals
def test_the_hospitals_files_are_the_originals() -> None:
    sums = {
        "cleveland": "2d91a8ff69cfd9616aa47b59d6f843db",
        "hungarian": "22e96bee155b5973568101c93b3705f6",
        "switzerland": "9a87f7577310b3917730d06ba9349e20",
        "va": "4249d03ca7711e84f4444768c9426170",
    }
    folder = files("p2pfl") / "data" / "heart_disease"
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for name, expected in sums.items():
        content = (folder / f"processed.{name}.data").read_bytes()
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == expected
        assert expected in readme
    assert "CC BY 4.0" in readme
    assert tuple(sums) == HOSPITALS


def test_the_split_is_the_published_one() -> None:
    sizes = {name: (len(train), len(test)) for name, (train, test) in hospital_tables().items()}
    assert sizes == {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}
    rates = {
        name: round(sum(row[-1] != "0" for row in test) / len(test), 2)
        for name, (_, test) in hospital_tables().items()
    }
    assert rates == {"cleveland": 0.46, "hungarian": 0.37, "switzerland": 0.94, "va": 0.78}
    assert all(row[-1] != "0" for row in hospital_tables()["switzerland"][0])
    assert hospital_tables()["cleveland"][0][0] == (
        "63",
        "1",
        "1",
        "145",
        "233",
        "1",
        "2",
        "150",
        "0",
        "2.3",
        "0",
    )


def test_what_a_hospital_gets_is_read_by_the_demo_manifest(tmp_path: Path) -> None:
    issuer = Identity.from_seed(bytes(32)).peer_id
    task = from_toml(FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", issuer)).task
    assert task.features == 13
    for name in HOSPITALS:
        home = tmp_path / name
        home.mkdir()
        write_hospital(home, name)
        for part, rows in zip(("train", "test"), hospital_tables()[name], strict=True):
            table = load_table(home / f"{part}.csv", task)
            assert (len(table), table.dropped) == (len(rows), 0)
            assert table.labels.tolist() == [float(row[-1] != "0") for row in rows]
            assert (home / f"{part}.csv").stat().st_mode & 0o777 == 0o600
            assert (home / f"{part}.csv").read_text().startswith(",".join(HEADER) + "\n")


def test_the_example_is_the_demo_manifest_but_for_its_deadlines() -> None:
    example = Path(__file__).parents[2] / "examples" / "heart_disease" / "federation.toml"
    issuer = Identity.from_seed(bytes(32)).peer_id
    ours, demo = (
        from_toml(text.read_text(encoding="utf-8").replace("ISSUER", issuer))
        for text in (example, FEDERATION_TOML)
    )
    assert replace(ours, timing=demo.timing) == demo
