"""`p2pfl privacy attack`: what attacks come to, beside what is claimed."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from p2pfl import cli
from p2pfl.attacks.measures import Estimate, Success
from p2pfl.attacks.membership import Result
from p2pfl.attacks.report import Mode, Report, claims
from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import Manifest, canonical_bytes, from_toml
from p2pfl.node.errors import ExitCode, PrivacyError
from p2pfl.node.training.table import Table
from p2pfl.progress import Progress

TOML = f"""
name = "small"
issuers = ["{Identity.from_seed(bytes(32)).peer_id}"]
[task]
label = "y"
positive = ["1"]
[[task.columns]]
name = "a"
kind = "numeric"
low = 0
high = 1
[model]
kind = "logistic"
[training]
rounds = 2
learning_rate = 1.0
sampling_rate = 0.5
expected_batch = 4
[privacy]
mode = "distributed"
epsilon = 3.0
delta = 1e-2
noise_multiplier = 2.0
statistics_noise_multiplier = 4.0
evaluation_noise_multiplier = 4.0
[groups]
size = 3
minimum = 3
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    (tmp_path / "small.manifest").write_bytes(canonical_bytes(from_toml(TOML)))
    for number in range(4):
        rows = [f"{k / 10},{(k + number) % 2}" for k in range(8 + number)]
        (tmp_path / f"{number}.csv").write_text("\n".join(["a,y", *rows]))

    def call(*words: str, members: int = 3) -> tuple[int, str, str]:
        data = [str(tmp_path / f"{number}.csv") for number in range(members)]
        file = str(tmp_path / "small.manifest")
        status = cli.main(["privacy", "attack", "--federation", file, "--data", *data, *words])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def test_every_attack_in_every_mode_is_reported_and_repeatable(run: Run) -> None:
    status, out, err = run("--trials", "6", "--json")
    assert (status, err.count("p2pfl: mode ")) == (0, 6)
    found = json.loads(out)
    assert (found["members"], found["colluders"], found["records"]) == (3, 1, 8 + 9)
    assert list(found["modes"]) == ["none", "local", "distributed"]
    for mode, one in found["modes"].items():
        assert len(one["attacks"]) == 4
        assert one["canaries"]["trials"] == 6 * 512
        assert (one["epsilon"] is None) == (one["canaries"]["epsilon_claimed"] is None) == (mode == "none")
    assert found["modes"]["none"]["canaries"]["epsilon_at_least"] > 4
    private = found["modes"]["distributed"]
    assert 0 < private["canaries"]["epsilon_at_least"] < private["canaries"]["epsilon_claimed"]
    assert private["canaries"]["epsilon_claimed"] < private["epsilon"]
    assert private["found_allowed"] == pytest.approx(0.01 * np.exp(private["epsilon"]) + 0.01)
    assert json.loads(run("--trials", "6", "--json")[1]) == found


def test_for_people(run: Run) -> None:
    status, out, _ = run("--trials", "4", "--seed", "1")
    assert status == 0
    for mode in ("none", "local", "distributed"):
        for sees in ("model", "insider"):
            row = rf"  {mode} +{sees} +likelihood ratio +[01]\.\d+ \([01]\.\d+ … [01]\.\d+\) +\d+\.\d % \("
            assert re.search(row, out), (mode, sees)
        assert re.search(rf"  {mode} +\d+\.\d+ +(none|\d+\.\d+) +2,048\n", out)
    assert all(len(line) <= 110 for line in out.splitlines())


@pytest.mark.parametrize(
    ("words", "members", "status", "said"),
    [
        (("--trials", "3"), 3, ExitCode.USAGE, "--trials must be from 4"),
        (("--trials", "x"), 3, ExitCode.USAGE, "--trials"),
        ((), 2, ExitCode.USAGE, "--data needs 3 to 5 members"),
    ],
)
def test_what_makes_no_sense_is_named(
    run: Run, words: tuple[str, ...], members: int, status: ExitCode, said: str
) -> None:
    found, out, err = run(*words, members=members)
    assert (found, out) == (status, "")
    assert said in err


def test_data_needs_a_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["privacy", "attack", "--data", "x.csv"]) == ExitCode.USAGE
    assert "--federation and --data go together" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["organisation", "none"])
def test_what_a_manifest_hides_is_what_is_looked_for(run: Run, tmp_path: Path, mode: str) -> None:
    text = TOML.replace("distributed", mode)
    if mode == "none":
        text = re.sub(r"\w*noise_multiplier = .*\n|epsilon = 3.0\n|delta = 1e-2\n", "", text)
    (tmp_path / "small.manifest").write_bytes(canonical_bytes(from_toml(text)))
    status, out, _ = run("--trials", "20", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["hidden"] == {"organisation": "organisation", "none": "record"}[mode]
    assert list(found["modes"]) == (["none"] if mode == "none" else ["none", "organisation"])
    if mode == "organisation":
        claims = found["modes"]["organisation"]
        assert 0 <= claims["canaries"]["epsilon_at_least"] < claims["canaries"]["epsilon_claimed"]
        assert claims["canaries"]["trials"] == 8 * 20 * 2


def test_another_unit_can_be_asked_for_and_takes_more_trials(run: Run) -> None:
    status, out, err = run("--trials", "19", "--hidden", "organisation")
    assert (status, out, "--trials must be from 20" in err) == (ExitCode.USAGE, "", True)
    out = run("--trials", "20", "--hidden", "organisation")[1]
    assert "every one of 2 others with all its records or none" in out
    assert out.count("\n  organisation ") == 5


def report(at_least: float) -> Report:
    manifest: Manifest = from_toml(TOML)
    estimate = Estimate(0.5, 0.4, 0.6)
    result = Result("model", "loss threshold", Success(estimate, estimate))
    mode = Mode("distributed", 1e-2, [result], *claims(manifest), at_least, 100)
    return Report(manifest, [Table(np.zeros((1, 1)), np.zeros(1))] * 3, 4, 0, [mode])


def test_a_claim_that_canaries_refute_is_an_error() -> None:
    claim = claims(from_toml(TOML))[1]
    report(claim).check()
    with pytest.raises(PrivacyError, match=f"mode distributed: epsilon is at least {claim + 1:.3f}"):
        report(claim + 1).check()
    none = replace(from_toml(TOML), privacy=from_toml(TOML).privacy.with_mode("none"))
    assert claims(none) == (float("inf"), float("inf"))


def test_progress_knows_what_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 30.0, 300.0])
    progress = Progress(4, lambda: next(now))
    progress.begin("first")
    progress.step()
    progress.begin("second")
    progress.step()
    progress.begin("third")
    progress.end()
    lines = ["first", "second, 90 s left", "third, 5 min left"]
    assert capsys.readouterr().err.splitlines() == [f"p2pfl: {line}" for line in lines]
