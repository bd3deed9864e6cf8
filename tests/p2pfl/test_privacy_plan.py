"""`p2pfl privacy plan`: from a promise to noise, and to what it costs."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from p2pfl import cli
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.accountant import Mechanism, calibrate, epsilon
from p2pfl.node.errors import ExitCode
from p2pfl.noise_cost import best_possible

ASKED = "--epsilon 1 --delta 1e-4 --records 160 --rounds 20 --members 8 --rate 0.25"

Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(words: str) -> tuple[int, str, str]:
        status = cli.main(["privacy", "plan", *words.split()])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def planned(run: Run, words: str) -> dict[str, Any]:
    status, out, err = run(f"{words} --json")
    assert (status, err) == (0, "")
    found: dict[str, Any] = json.loads(out)
    return found


def test_the_noise_is_the_least_that_keeps_the_promise(run: Run) -> None:
    found = planned(run, ASKED)
    assert found["asked"]["sampling_rate"] == 0.25
    noise = calibrate(1.0, 1e-4, 20, 0.25)
    for mode in ("distributed", "local"):
        assert found["modes"][mode]["noise_multiplier"] == noise.training
        assert found["modes"][mode]["statistics_noise_multiplier"] == noise.statistics
        assert found["modes"][mode]["evaluation_noise_multiplier"] == noise.evaluation
    whole = calibrate(1.0, 1e-4, 20, 1.0, "organisation")
    assert found["modes"]["organisation"]["noise_multiplier"] == whole.training
    for mode in found["modes"].values():
        assert 0.99 < mode["epsilon"] <= 1 < mode["epsilon_rdp"]
        assert mode["ladder"][0]["epsilon"] == mode["epsilon"]
    ladder = found["modes"]["distributed"]["ladder"]
    assert [rung["colluders"] for rung in ladder] == [1, 2, 3, 4, 5, 6]
    group = (7, thresholds(7, 1).minimum_survivors, 1)
    entries = [
        Mechanism("statistics", "train", "distributed", noise.statistics, 1.0, 1, *group),
        Mechanism("training", "train", "distributed", noise.training, 0.25, 20, *group),
        Mechanism("evaluation", "test", "distributed", noise.evaluation, 1.0, 2, *group),
    ]
    assert ladder[-1]["epsilon"] == epsilon(entries, 1e-4, 6).pld
    assert len({rung["epsilon"] for rung in found["modes"]["local"]["ladder"]}) == 1


def test_more_evaluations_take_more_noise_of_their_own(run: Run) -> None:
    often = planned(run, ASKED.replace("--rate", "--evaluate-every 5 --rate"))["modes"]["distributed"]
    noise = calibrate(1.0, 1e-4, 20, 0.25, evaluations=3 + 2)
    assert often["evaluation_noise_multiplier"] == noise.evaluation > 6
    assert often["noise_multiplier"] == noise.training == calibrate(1.0, 1e-4, 20, 0.25).training


def test_the_cost_in_accuracy_is_measured_and_said_of_what(run: Run) -> None:
    found = planned(run, ASKED)
    free, modes = found["measured"], found["modes"]
    assert free["best_possible"] == best_possible() > free["accuracy"] > 0.8
    for mode in modes.values():
        assert mode["accuracy_cost"] == pytest.approx(free["accuracy"] - mode["accuracy"])
    assert modes["distributed"]["noise_of_mean"] < modes["local"]["noise_of_mean"]
    assert modes["distributed"]["signal_to_noise"] > modes["local"]["signal_to_noise"]
    assert modes["organisation"]["accuracy_cost"] > 0.1 > modes["distributed"]["accuracy_cost"]


def test_for_people(run: Run) -> None:
    status, out, err = run(ASKED.replace("--rate 0.25", "--batch 40"))
    assert (status, err) == (0, "")
    assert "step: every record with probability 0.25, about 40 records of a member" in out
    assert re.search(r"  distributed +[\d.]+ +[\d.]+ +[\d.]+\n", out)
    assert re.search(r"  if 1 of a group collude +0\.9\d+ +1\.\d+  \(assumed\)\n", out) or "1.000" in out
    row = r"  {} +[\d.]+ +[\d.]+ +0\.\d{{3}} ± 0\.\d{{3}} +-?0\.\d{{3}}\n"
    for mode in ("distributed", "local", "organisation"):
        assert re.search(row.format(mode), out), mode
    assert "logistic regression on 20 features" in out
    assert all(len(line) <= 110 for line in out.splitlines())
    assert "delta is not below" not in out


def test_a_delta_that_gives_records_away_is_said(run: Run) -> None:
    out = run(ASKED.replace("--records 160", "--records 20000 --features 1"))[1]
    assert "delta is not below 1 / 20000" in out


def test_what_takes_too_long_to_try_out_is_planned_all_the_same(run: Run) -> None:
    words = ASKED.replace("--records 160", "--records 9000 --features 10000")
    found = planned(run, words)
    assert found["measured"] is None
    assert "accuracy" not in found["modes"]["distributed"]
    assert found["modes"]["distributed"]["noise_multiplier"] > 1
    assert "not tried out" in run(words)[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("--epsilon 1", "--epsilon 0"), "--epsilon must be above 0"),
        (("--epsilon 1", "--epsilon nan"), "--epsilon must be above 0"),
        (("1e-4", "1"), "--delta must be above 0 and below 1"),
        (("160", "0"), "--records must be from 1"),
        (("--rate 0.25", "--rate 1.5"), "--rate must be above 0 and at most 1"),
        (("--rate 0.25", "--batch 161"), "--batch / --records must be above 0 and at most 1"),
        (("--rate 0.25", ""), "one of the arguments --batch --rate is required"),
        (("--members 8", "--members 2"), "--members must be at least 3"),
        (("--rate", "--group 2 --rate"), "--group must be at least 3"),
        (("--rate", "--group 99 --rate"), "at most 16, not 99"),
        (("--rate", "--colluders 0 --rate"), "--colluders must be at least 1"),
        (("--rate", "--colluders 3 --rate"), "--group must be at least 5"),
        (("--rounds 20", "--rounds x"), "--rounds"),
        (("--rate", "--evaluate-every 20 --rate"), "--evaluate-every must be at least 0 and below --rounds"),
    ],
)
def test_what_makes_no_sense_is_named(run: Run, change: tuple[str, str], words: str) -> None:
    status, out, err = run(ASKED.replace(*change))
    assert (status, out) == (ExitCode.USAGE, "")
    assert words in err
    assert "p2pfl privacy plan --help" in err
