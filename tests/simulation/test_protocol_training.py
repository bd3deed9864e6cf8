"""Experiments on the engine `protocol`: the nodes' own learners, with sums by the real machines."""

import pickle
from itertools import pairwise
from pathlib import Path

import pytest

from p2pfl.cli import main
from p2pfl.gossip.records import FieldError
from p2pfl.node.errors import ConfigError, DataError, ExitCode
from p2pfl.simulation.experiment import read
from p2pfl.simulation.running import Row, run

FULL_BATCHES = """
[training]
rounds = 6
learning_rate = 0.5
sampling_rate = 1.0
[privacy]
mode = "none"
[simulation]
nodes = 6
evaluate_every = 3
"""


def rows(engine: str, more: str = "", seed: int = 0) -> list[Row]:
    sweep = read(f"{FULL_BATCHES}engine = '{engine}'\n{more}", Path())
    return [row for experiment in sweep.experiments for row in run(experiment, seed)]


def test_without_chance_it_learns_what_the_vectorised_engine_learns() -> None:
    ours, theirs = rows("protocol"), rows("vectorised")
    assert [row["round"] for row in ours] == [row["round"] for row in theirs] == [0, 3, 6]
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("accuracy", "loss"):
            assert mine[name] == pytest.approx(other[name], abs=1e-4)
        assert mine["consensus"] == 0.0  # one group: everybody holds the very same sum
    times = [row["seconds"] for row in ours]
    assert all(float(str(first)) < float(str(second)) for first, second in pairwise(times))
    assert "seconds" not in theirs[0]


def test_under_a_scenario_everybody_gets_the_model_in_the_end() -> None:
    more = 'scenario = "churn"\nnodes = 8'
    found = rows("protocol", more.partition("\n")[0])
    assert found == rows("protocol", more.partition("\n")[0])
    assert found[-1]["consensus"] == 0.0
    assert float(str(found[-1]["accuracy"])) > 0.7


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ('averaging = "neighbours"', "simulation.averaging"),
        ('sampling = "fixed"', "simulation.sampling"),
        ('attackers = 1\nattack = "labels"', "simulation.attack"),
        ('topology = "barabasi_albert"', "simulation.topology"),
        ('scenario = "wan"', "network.regions"),
    ],
)
def test_what_it_does_not_do_is_refused_by_field(more: str, field: str) -> None:
    with pytest.raises(FieldError) as error:
        rows("protocol", more)
    assert error.value.field == field


def test_a_scenario_belongs_to_this_engine() -> None:
    with pytest.raises(FieldError) as error:
        rows("vectorised", 'scenario = "churn"')
    assert error.value.field == "simulation.scenario"


def test_what_a_run_is_refused_for_is_said_by_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """It is found out in another process."""
    words = (
        "simulate --engine protocol --nodes 6 --mode none --rounds 2 --jobs 1 --set simulation.scenario=chrun"
    )
    assert main(words.split()) == ExitCode.CONFIG
    assert "did you mean churn?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [FieldError("a.b", "wrong"), DataError("what", "hint"), ConfigError("field", "reason", "hint")]
)
def test_errors_cross_to_another_process(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))
