"""`p2pfl evaluate`, `predict` and `privacy` on the directory of a node that has trained."""

import csv
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import renyi

from p2pfl import cli
from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import Manifest, canonical_bytes, from_toml
from p2pfl.node.errors import ExitCode
from p2pfl.node.privacy import dimension, stage_plan
from p2pfl.node.released import Released
from p2pfl.node.storage.database import DATABASE
from p2pfl.node.storage.identity_file import load_identity, save_identity
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.storage.store import Store
from p2pfl.node.training.table import load_table
from p2pfl.node.training.unlabelled import load_unlabelled

IDENTITY = Identity.from_seed(bytes(range(32)))
HEADER = "id,age,sex,y\n"
ROWS = "a,20,f,1\nb,80,m,0\nc,?,m,1\nd,200,f,0\ne,35.5, m ,1\n"

Run = Callable[..., tuple[int, str, str]]


def federation(mode: str = 'mode = "none"') -> Manifest:
    return from_toml(
        f"""
        name = "hearts"
        issuers = ["{IDENTITY.peer_id}"]
        [task]
        label = "y"
        positive = ["1"]
        missing = ["?"]
        columns = [
          {{ name = "age", kind = "numeric", low = 0, high = 100 }},
          {{ name = "sex", kind = "categorical", levels = ["f", "m"] }},
        ]
        [model]
        kind = "logistic"
        [training]
        rounds = 3
        learning_rate = 0.5
        sampling_rate = 0.5
        expected_batch = 10
        [privacy]
        {mode}
        """
    )


NOISED = federation(
    'mode = "distributed"\nepsilon = 5\ndelta = 1e-4\nnoise_multiplier = 2.0\n'
    "statistics_noise_multiplier = 4.0\nevaluation_noise_multiplier = 4.0"
)


@dataclass(frozen=True)
class Node:
    """A node's directory, and what its model says: positive with probability 1 / (1 + exp(-(slope (age - 50)
    / 25))).
    """

    store: Store
    slope: float = -2.0

    def release(self, manifest: Manifest) -> None:
        # Ten records, means 0, mean squares (25 / 50)²: the standard deviation is 25 years.
        statistics = np.array([10.0, 0.0, 10 * (0.25 - 0.5)])
        assert dimension(manifest, "statistics") == len(statistics)
        self.store.save_released(Released(7, 1, statistics, np.array([self.slope, 0.0, 0.0])))

    def probability(self, age: float) -> float:
        return float(1 / (1 + np.exp(-self.slope * (age - 50) / 25)))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return call


def made(manifest: Manifest) -> Node:
    save_identity(Path("identity.key"), IDENTITY)
    Path("data.csv").write_text(HEADER + ROWS)
    Path("node.toml").write_text('[data]\ntrain = "gone.csv"\ntest = "data.csv"\n')
    store = Store.open(Path("state"), load_identity(Path("identity.key")))
    store.bind_manifest(canonical_bytes(manifest))
    return Node(store)


@pytest.fixture
def node(run: Run) -> Node:
    node = made(federation())
    node.release(federation())
    return node


def error(run: Run, status: ExitCode, *arguments: str) -> str:
    found, out, err = run(*arguments)
    assert (found, out) == (status, ""), err
    assert err.count("\n") == 2
    return err


# -- evaluate
def test_evaluate_counts(run: Run, node: Node) -> None:
    # Old means negative to this model: right on a (20, 1), b (80, 0), d (cut to 100, 0) and e (35.5, 1).
    status, out, _ = run("evaluate", "--config", "node.toml")
    assert status == 0
    assert "accuracy: 1.0000 (4 of 4 records)" in out
    assert "left out: 1 rows with missing cells" in out
    assert "model: of round 7" in out
    losses = [
        -np.log(node.probability(20)),
        -np.log(1 - node.probability(80)),
        -np.log(1 - node.probability(100)),
    ]
    expected = (sum(losses) - np.log(node.probability(35.5))) / 4
    found = json.loads(run("evaluate", "--config", "node.toml", "--json")[1])
    assert found["accuracy"] == 1
    assert found["dropped"] == 1
    assert found["mean_loss"] == pytest.approx(expected)


def test_evaluate_another_file_and_another_model(run: Run, node: Node) -> None:
    Path("other.csv").write_text(HEADER + "a,20,f,0\nb,80,m,0\n")
    assert "0.5000 (1 of 2" in run("evaluate", "--config", "node.toml", "--data", "other.csv")[1]
    [model] = Path("state").glob("model-*.safetensors")
    copy = model.rename("copy.safetensors")
    out = run("evaluate", "--config", "node.toml", "--model", str(copy))[1]
    assert "accuracy: 1.0000" in out
    assert "model: copy.safetensors" in out


def test_what_evaluate_cannot_use_is_named(run: Run, node: Node) -> None:
    evaluate = ("evaluate", "--config", "node.toml")
    assert "gone.csv" in error(run, ExitCode.DATA, *evaluate, "--data", "gone.csv")
    Path("bad.csv").write_text("id,age,y\n1,2,3\n")
    assert "column sex" in error(run, ExitCode.DATA, *evaluate, "--data", "bad.csv")
    assert "cannot be read" in error(run, ExitCode.DATA, *evaluate, "--model", "gone")
    assert "not a model" in error(run, ExitCode.DATA, *evaluate, "--model", "data.csv")
    wide = np.zeros(5)
    node.store.save_released(Released(8, 1, np.zeros(3), wide))
    model = "state/model-00000008.safetensors"
    assert "another federation's" in error(run, ExitCode.DATA, *evaluate, "--model", model)
    node.store.save_released(Released(9, 1, np.zeros(3), np.array([0.0, np.nan, 0.0])))
    assert "not all finite" in error(
        run, ExitCode.DATA, *evaluate, "--model", "state/model-00000009.safetensors"
    )
    Path("node.toml").write_text('[data]\ntrain = "gone.csv"\n')
    assert "--data: missing" in error(run, ExitCode.USAGE, *evaluate)


def test_a_node_without_a_model_or_a_federation_says_so(run: Run) -> None:
    node = made(federation())
    assert "has no model yet" in error(run, ExitCode.STORAGE, "evaluate", "--config", "node.toml")
    node.store.close()
    Path("node.toml").write_text('state = "other"\n[data]\ntrain = "gone.csv"\n')
    Store.open(Path("other"), IDENTITY).close()
    assert "not joined" in error(
        run, ExitCode.STORAGE, "evaluate", "--config", "node.toml", "--data", "data.csv"
    )


# -- predict
def predictions(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_predict_keeps_every_row_and_needs_no_label(run: Run, node: Node) -> None:
    Path("new.csv").write_text('sex,age,note\nf,20,"a, b"\nm,?,x\nm,80,\n')
    status, out, err = run("predict", "--config", "node.toml", "--data", "new.csv")
    assert (status, err) == (0, "")
    rows = predictions(out)
    assert [row["note"] for row in rows] == ["a, b", "x", ""]
    assert [row["positive"] for row in rows] == ["1", "", "0"]
    assert float(rows[0]["probability"]) == pytest.approx(node.probability(20), abs=1e-6)
    assert rows[1]["probability"] == ""
    status, nothing, _ = run("predict", "--config", "node.toml", "--data", "new.csv", "--out", "out.csv")
    assert (status, nothing) == (0, "")
    assert Path("out.csv").read_text() == out
    assert Path("out.csv").stat().st_mode & 0o777 == 0o600


def test_predict_reads_a_table_as_training_does(run: Run, node: Node) -> None:
    task = federation().task
    labelled, unlabelled = load_table(Path("data.csv"), task), load_unlabelled(Path("data.csv"), task)
    assert np.array_equal(labelled.features, unlabelled.table.features)
    assert unlabelled.whole == (True, True, False, True, True)
    assert unlabelled.header == ("id", "age", "sex", "y")


def test_predict_writes_no_file_over_another(run: Run, node: Node) -> None:
    key = Path("identity.key").read_bytes()
    words = ("predict", "--config", "node.toml", "--data", "data.csv", "--out")
    assert "identity.key exists already" in error(run, ExitCode.STORAGE, *words, "identity.key")
    assert Path("identity.key").read_bytes() == key
    assert run(*words, "new.csv")[0] == 0


def test_predict_nothing(run: Run, node: Node) -> None:
    Path("new.csv").write_text("sex,age\nm,?\n")
    assert (
        run("predict", "--config", "node.toml", "--data", "new.csv")[1]
        == "sex,age,probability,positive\nm,?,,\n"
    )
    Path("new.csv").write_text("sex,age\n")
    words = error(run, ExitCode.DATA, "predict", "--config", "node.toml", "--data", "new.csv")
    assert "new.csv: no records, so there is nothing to predict" in words


def test_predictions_of_predictions_have_columns_of_their_own(run: Run, node: Node) -> None:
    predict = ("predict", "--config", "node.toml", "--data")
    Path("new.csv").write_text("sex,age\nm,80\n")
    for added in ("probability,positive", "predicted_probability,predicted_positive"):
        out = run(*predict, "new.csv")[1]
        assert out.splitlines()[0].endswith(added)
        Path("new.csv").write_text(out)
    names = run(*predict, "new.csv")[1].splitlines()[0].split(",")
    assert len(names) == len(set(names)) == 8


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "the file is empty"),
        ("age;sex\n1;f\n", "separated by semicolons"),
        ("age\n1\n", "column sex: missing from the header"),
        ("age,age,sex\n1,1,f\n", "column age: there more than once"),
        ("age,sex\n1\n", "line 2: 1 cells, but the header has 2"),
        ("age,sex\n\n1,x\n", "line 3, column sex: 'x' is not a declared level"),
        ("age,sex\nold,f\n", "line 2, column age: 'old' is not a number"),
        ("age,sex\n1_0,f\n", "is not a number"),
        ("age,sex\nnan,f\n", "is not a number"),
        ('age,sex\n"1,f\n', "not valid CSV"),
    ],
)
def test_what_predict_cannot_read_is_named(run: Run, node: Node, content: str, words: str) -> None:
    Path("new.csv").write_text(content)
    assert words in error(run, ExitCode.DATA, "predict", "--config", "node.toml", "--data", "new.csv")


# -- privacy
def test_privacy_is_what_the_ledger_says(run: Run) -> None:
    node = made(NOISED)
    assert "epsilon spent: 0.000 of 5" in run("privacy", "--config", "node.toml")[1]
    group = NOISED.groups.thresholds
    costs = []
    for round, stage in enumerate(["statistics", "training", "training"]):
        node.store.charge(round, stage_plan(NOISED, stage, dimension(NOISED, stage)).mechanism(group))
        costs.append(json.loads(run("privacy", "--config", "node.toml", "--json")[1])["epsilon"])
    assert 0 < costs[0] < costs[1] < costs[2] < 5
    out = run("privacy", "--config", "node.toml")[1]
    assert f"epsilon spent: {costs[2]:.3f} of 5, at delta 0.0001" in out
    assert re.search(rf"if 1 of a group collude: +{costs[2]:.3f} +[\d.]+  \(assumed\)", out)
    ladder = json.loads(run("privacy", "--config", "node.toml", "--json")[1])["ladder"]
    assert [rung["colluders"] for rung in ladder] == [1, 2, 3]


PEERS = tuple(Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2, 3, 4))


def lived(node: Node) -> None:
    """Statistics, a round of training that was lost, one that a crash cut off, and one without records."""
    group = NOISED.groups.thresholds
    for round, stage in enumerate(["statistics", "training", "training"]):
        plan = stage_plan(NOISED, stage, dimension(NOISED, stage))
        node.store.charge(round, plan.mechanism(group), PEERS if round else ())
    node.store.charge(3, None, PEERS[:3])
    ended = [("statistics", PEERS, ""), ("training", (), "too few"), None, ("training", PEERS[:3], "")]
    for round, end in enumerate(ended):
        if end is not None:
            stage, members, reason = end
            node.store.record_round(RoundOutcome(round, stage, members, members, reason, True, 0))


@pytest.mark.parametrize(
    ("damage", "refused"),
    [
        ("UPDATE peers SET addresses = x'00'", set()),
        ("UPDATE meta SET value = x'00' WHERE key = 'released'", {"privacy", "predict"}),
    ],
)
def test_each_command_refuses_only_the_rows_that_it_needs(run: Run, damage: str, refused: set[str]) -> None:
    node = made(NOISED)
    lived(node)
    node.release(NOISED)
    node.store.remember_peer(PEERS[0], ["/ip4/127.0.0.1/tcp/1"])
    node.store.close()
    with closing(sqlite3.connect(Path("state") / DATABASE, isolation_level=None)) as connection:
        assert connection.execute(damage).rowcount == 1
    commands: dict[str, tuple[str, ...]] = {"privacy": (), "predict": ("--data", "data.csv")}
    for command, more in commands.items():
        status = run(command, "--config", "node.toml", *more)[0]
        assert status == (ExitCode.STORAGE if command in refused else ExitCode.OK), command


def test_the_ledger_says_what_was_told_and_to_whom(run: Run) -> None:
    lived(made(NOISED))
    status, out, _ = run("privacy", "--config", "node.toml", "--ledger")
    assert status == 0
    header, *rows = out[out.index("  round  ") :].splitlines()
    assert " ".join(header.split()) == "round noise sample times what was told, and to whom"
    whom = " ".join(f"…{peer[-6:]}" for peer in PEERS)
    assert [row.split(maxsplit=4) for row in rows] == [
        ["0", "4.0000", "1", "1", f"statistics: {TOLD['statistics']}, to {whom}"],
        ["1", "2.0000", "0.5", "1", f"training: {TOLD['training']}, to {whom} (the round was lost)"],
        ["2", "2.0000", "0.5", "1", f"training: {TOLD['training']}, to {whom} (the round was lost)"],
        ["3", "-", "-", "-", f"training: nothing about records, to {' '.join(whom.split()[:3])}"],
    ]
    assert "told" not in run("privacy", "--config", "node.toml")[1]
    assert "--ledger needs --config" in error(run, ExitCode.USAGE, "privacy", "--federation", "x", "--ledger")


TOLD = {
    "statistics": "count, sums and squares of numeric columns, over all training records",
    "training": "clipped gradients of sampled training records",
}


def test_anybody_can_compute_epsilon_again_from_the_ledger(run: Run) -> None:
    lived(made(NOISED))
    report = json.loads(run("privacy", "--config", "node.toml", "--json")[1])
    charged = [release for release in report["releases"] if "noise_multiplier" in release]
    assert [release["round"] for release in charged] == [0, 1, 2]
    assert charged[2]["recipients"] == list(PEERS)
    assert [release["completed"] for release in report["releases"]] == [True, False, False, True]
    history = [(one["noise_multiplier"], one["sampling_rate"], one["count"]) for one in charged]
    assert report["epsilon_rdp"] == pytest.approx(renyi.epsilon(history, report["delta"]), rel=0.01)
    assert 0.8 * report["epsilon_rdp"] < report["epsilon"] < report["epsilon_rdp"]


def test_the_script_of_the_page_on_privacy_does_it_with_opacus(run: Run) -> None:
    pytest.importorskip("opacus")
    page = (Path(__file__).parent.parent.parent / "docs" / "privacy.md").read_text(encoding="utf-8")
    [script] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    lived(made(NOISED))
    text = run("privacy", "--config", "node.toml", "--json")[1]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = {tuple(line.split()[:2]): float(line.split()[2]) for line in done.stdout.splitlines()}
    report = json.loads(text)
    assert found.keys() == {("train", "prv"), ("train", "rdp")}
    assert found["train", "prv"] - 0.02 <= report["epsilon"] <= found["train", "prv"]
    assert report["epsilon_rdp"] == pytest.approx(found["train", "rdp"], rel=1e-3)


def test_of_the_last_round_so_far_and_at_the_end(run: Run) -> None:
    lived(made(NOISED))
    report = json.loads(run("privacy", "--config", "node.toml", "--json")[1])
    assert report["latest"]["round"] == 2
    assert 0 < report["latest"]["epsilon"] < report["epsilon"] <= report["epsilon_at_the_end"] < 5
    assert report["rounds_without_records"] == 0
    out = run("privacy", "--config", "node.toml")[1]
    for name, key in (("so far", "epsilon"), ("at the planned end", "epsilon_at_the_end")):
        rdp = report[key.replace("epsilon", "epsilon_rdp")]
        assert re.search(rf"  {name}: +{report[key]:.3f} +{rdp:.3f}\n", out), name
    assert re.search(rf"  the last round, 2 \(training\): +{report['latest']['epsilon']:.3f} ", out)


def test_a_budget_that_ends_first_is_said(run: Run) -> None:
    node = made(NOISED)
    plan = stage_plan(NOISED, "statistics", 3)
    for round in range(24):
        node.store.charge(round, plan.mechanism(NOISED.groups.thresholds))
    report = json.loads(run("privacy", "--config", "node.toml", "--json")[1])
    assert report["rounds_without_records"] > 0
    assert report["epsilon_at_the_end"] <= 5
    assert "the budget will end first" in run("privacy", "--config", "node.toml")[1]


def test_mode_none_has_no_epsilon(run: Run, node: Node) -> None:
    assert "mode: none: there is no epsilon" in run("privacy", "--config", "node.toml")[1]
    assert json.loads(run("privacy", "--config", "node.toml", "--json")[1]) == {
        "mode": "none",
        "epsilon": None,
        "carried": [],
        "releases": [],
    }


def test_an_edited_ledger_is_refused(run: Run) -> None:
    node = made(NOISED)
    node.store.charge(0, stage_plan(NOISED, "statistics", 3).mechanism(NOISED.groups.thresholds))
    node.store.close()
    with sqlite3.connect(Path("state") / DATABASE) as connection:
        connection.execute("UPDATE journal SET body = x'00'")
    assert "was changed" in error(run, ExitCode.STORAGE, "privacy", "--config", "node.toml")


def test_a_ledger_that_was_emptied_is_refused_and_not_reported_as_unspent(run: Run) -> None:
    node = made(NOISED)
    node.store.charge(0, stage_plan(NOISED, "statistics", 3).mechanism(NOISED.groups.thresholds))
    node.store.close()
    with sqlite3.connect(Path("state") / DATABASE) as connection:
        connection.execute("DELETE FROM journal")
    assert "removed" in error(run, ExitCode.STORAGE, "privacy", "--config", "node.toml")
