"""What a result is compared with, and what was left out of the data: said beside it."""

from pathlib import Path

import numpy as np
import pytest

from p2pfl import cli
from p2pfl.gossip.manifest import ImageTask, TabularTask, TextTask
from p2pfl.gossip.task_spec import Column
from p2pfl.node.errors import ExitCode
from p2pfl.node.training.table import Table
from p2pfl.simulation.baseline import baseline
from p2pfl.simulation.experiment import read
from p2pfl.simulation.report import Again, page
from p2pfl.simulation.running import run
from p2pfl.simulation.sources import Dealt
from p2pfl.simulation.summary import lines

X = (Column("x", "numeric", 0, 1),)
EXPERIMENT = """
[simulation]
federation = "own.toml"
data = "data.csv"
nodes = 3
evaluate_every = 2
"""
OWN = """
name = "own"
issuers = ["ISSUER"]
[task]
label = "y"
positive = ["1"]
columns = [
    { name = "x", kind = "numeric", low = 0, high = 1 },
    { name = "colour", kind = "categorical", levels = ["red", "green"], unknown = "missing" },
    { name = "z", kind = "numeric", low = 0, high = 1, missing = "indicator" },
]
[training]
rounds = 2
learning_rate = 1
sampling_rate = 0.5
expected_batch = 4
[model]
kind = "logistic"
[privacy]
mode = "none"
"""
ROWS = (
    ["0.5,red,0.1,1"] * 40
    + ["0.1,green,,0"] * 20
    + [",red,1,1"] * 3
    + ["1,blue,1,0", ",pink,1,1", "1,red,1,"]
)


def dealt(train: object, test: object) -> Dealt:
    tables = [Table(np.zeros((len(labels), 1)), labels) for labels in map(np.array, (train, test))]
    return Dealt(["n000"], tables[:1], tables[1])


@pytest.mark.parametrize(
    ("task", "train", "test", "expected"),
    [
        (TabularTask("tabular", "y", ("1",), X), [0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 0.0], 0.25),
        (ImageTask("images", 1, 1, ("a", "b", "c")), [2, 2, 0, 1], [2, 2, 0, 1, 0], 0.4),
        (TabularTask("tabular", "y", (), X, low=0, high=10), [-0.5, 0.5, 0.6], [0.2, 1.0], 0.8),
        (TextTask("text", "ab", 3, "line"), [[0, 1, -1], [-1, -1, -1]], [[0, 0, 1], [1, 1, -1]], 1 / 3),
    ],
)
def test_an_answer_that_looks_at_nothing(task: object, train: object, test: object, expected: float) -> None:
    assert baseline(task, dealt(train, test)) == pytest.approx(expected)  # type: ignore[arg-type]


def test_a_result_says_what_guessing_gives_and_what_was_left_out(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(OWN)
    (tmp_path / "data.csv").write_text("\n".join(["x,colour,z,y", *ROWS]) + "\n")
    sweep = read(EXPERIMENT, tmp_path)
    rows = [row for seed in (0, 1) for row in run(sweep.experiments[0], seed)]
    left_out = "6 of 66 rows, for missing cells in x (4), colour (2), y (1)"
    assert {row["left_out"] for row in rows} == {left_out}
    assert all(isinstance(row["baseline"], float) and 0.5 < row["baseline"] < 0.9 for row in rows)
    *_, guess, remark = lines(rows, [])
    assert guess.startswith("always the same answer would have accuracy 0.")
    assert remark == f"left out of the data: {left_out}"
    text = page(rows, sweep, [], Again(["p2pfl"], ""))
    assert f"<p>Left out of the data: {left_out}.</p>" in text
    assert "<p>Always the same answer" in text


@pytest.mark.parametrize("jobs", ["0", "-2"])
def test_no_job_at_a_time_is_refused(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", "--nodes", "4", "--mode", "none", "--jobs", jobs]) == ExitCode.USAGE
    assert f"error: --jobs {jobs}: must be at least 1\n" in capsys.readouterr().err
