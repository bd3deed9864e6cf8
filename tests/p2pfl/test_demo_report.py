"""What `p2pfl demo` prints at its end, from statuses made up here."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from p2pfl import demo_report
from p2pfl.crypto.identity import Identity
from p2pfl.demo_report import print_report
from p2pfl.gossip.manifest import Manifest, from_toml
from p2pfl.heart_disease import FEDERATION_TOML, HOSPITALS, write_hospital
from p2pfl.node.privacy import dimension, noise, stage_plan

STATUS: dict[str, Any] = {
    "phase": "done",
    "completed": 42,
    "skipped": 1,
    "bytes_sent": 9_508_051,
    "epsilon": 0.9999,
    "epsilon_rdp": 1.121,
    "ladder": [[1, 0.9999], [2, 1.509], [3, 1.509]],
    "model": "run/cleveland/state/model-00000040.safetensors",
    "evaluation": {"correct": 200.0, "total": 250.0, "loss": 120.0, "accuracy": 0.8},
    "own_evaluation": {"correct": 12.0, "total": 16.0, "loss": 9.0, "accuracy": 0.75},
}


@pytest.fixture
def manifest() -> Manifest:
    draft = from_toml(FEDERATION_TOML.read_text().replace("ISSUER", Identity.from_seed(bytes(32)).peer_id))
    privacy = replace(
        draft.privacy,
        noise_multiplier=3.0,
        statistics_noise_multiplier=11.0,
        evaluation_noise_multiplier=5.0,
    )
    return replace(draft, training=replace(draft.training, rounds=2), privacy=privacy)


Mode = Literal["distributed", "local", "organisation", "none"]
Printed = Callable[..., list[str]]


@pytest.fixture
def printed(tmp_path: Path, manifest: Manifest, capsys: pytest.CaptureFixture[str]) -> Printed:
    """The lines of the report on statuses that differ from STATUS by what is given."""
    for name in HOSPITALS:
        (tmp_path / name).mkdir()
        write_hospital(tmp_path / name, name)

    def lines(mode: Mode = "distributed", failed: str = "", **changed: Any) -> list[str]:
        statuses = {name: {} if name == failed else STATUS | changed for name in HOSPITALS}
        privacy = (
            manifest.privacy.with_mode("none") if mode == "none" else replace(manifest.privacy, mode=mode)
        )
        print_report(replace(manifest, privacy=privacy), statuses, tmp_path)
        return capsys.readouterr().out.splitlines()

    return lines


def cells(lines: list[str], name: str) -> list[str]:
    (line,) = (line for line in lines if line.startswith(name))
    return line[39:].split()


def test_every_row_stands_under_its_titles_within_a_hundred_columns(printed: Printed) -> None:
    lines = printed()
    tables = lines[: lines.index("", lines.index("", 1) + 1)]
    assert max(map(len, tables)) <= 100
    assert len(lines) <= 32
    assert cells(lines, "(test records)") == ["104", "89", "16", "45", "254"]
    for name in HOSPITALS:
        assert len(cells(lines, f"trained alone (no privacy): {name}")) == 6
    assert cells(lines, "this federation (epsilon 1)") == ["0.750"] * 6
    assert cells(lines, "  published federated averaging [1]")[-2:] == ["0.685", "0.748"]
    assert cells(lines, "  published pooled training [1]")[-2:] == ["0.735", "0.795"]
    assert cells(lines, "rounds, with statistics and evaluation") == ["42"] * 4
    assert cells(lines, "bytes sent since the node's last start") == ["9,508,051"] * 4


def test_the_ladder_says_why_rungs_are_equal(printed: Printed) -> None:
    lines = printed()
    assert cells(lines, "epsilon spent of 1 (1 colluding)") == ["1.000"] * 4
    assert cells(lines, "  if 2 of a group collude [2]") == ["1.509"] * 4
    assert cells(lines, "  if 3 of a group collude [2]") == ["1.509"] * 4
    assert "[2] equal: so many could open two sums, and then only the node's own noise is counted" in lines


def test_rungs_that_differ_need_no_reason(printed: Printed) -> None:
    lines = printed(ladder=[[1, 1.0], [2, 1.2], [3, 1.5]])
    assert cells(lines, "  if 3 of a group collude") == ["1.500"] * 4
    assert not [line for line in lines if "[2]" in line]


def test_in_mode_local_rungs_are_equal_for_another_reason(printed: Printed) -> None:
    lines = printed("local", ladder=[[1, 1.0], [2, 1.0], [3, 1.0]])
    assert "[2] equal: every node adds all of the noise by itself" in lines


def test_in_mode_organisation_it_says_that_a_whole_hospital_is_hidden(printed: Printed) -> None:
    lines = printed("organisation")
    assert (
        "at delta 0.0001, for all records of a hospital together, added or removed; mode organisation"
        in lines
    )
    assert "[2] equal: so many could open two sums, and then only the node's own noise is counted" in lines


def test_without_privacy_there_is_no_epsilon(printed: Printed) -> None:
    lines = printed("none")
    assert len(cells(lines, "this federation (no privacy)")) == 6
    assert "epsilon    NONE: mode none was asked for, no privacy is promised" in lines
    assert "the federation's own evaluation, one secure sum: 0.800" in lines


def test_a_hospital_that_failed_has_dashes_and_hides_nobody_elses_figures(printed: Printed) -> None:
    lines = printed(failed="cleveland")
    assert cells(lines, "this federation") == ["-", "0.750", "0.750", "0.750", "-", "-"]
    assert cells(lines, "  if 3 of a group collude") == ["-", "1.509", "1.509", "1.509"]
    assert any(line.startswith(f"model      {STATUS['model']}") for line in lines)


def test_a_sum_with_so_much_noise_that_it_has_no_accuracy_is_left_out(printed: Printed) -> None:
    lines = printed(evaluation={"correct": 3.0, "total": -1.0, "loss": 2.0})
    assert not [line for line in lines if "own evaluation" in line]


def test_the_evaluations_noise_is_what_the_members_really_add(manifest: Manifest) -> None:
    plan = stage_plan(manifest, "evaluation", dimension(manifest, "evaluation"))
    group = manifest.groups.thresholds
    draw = np.random.default_rng(5).bytes
    drawn = np.array([sum(noise(plan, group, draw) for _ in range(4)) for _ in range(400)])
    correct, total = (np.array([2000.0, 2500.0]) + np.ldexp(drawn, -plan.encoding.fraction_bits)[:, :2]).T
    said = demo_report._evaluation(manifest, {"accuracy": 0.8, "total": 2500.0})
    assert said.startswith("0.800 ± ")
    assert float(said.split()[2]) == pytest.approx(np.std(correct / total), rel=0.15)


# -- the command to try
def test_the_command_to_try_can_be_pasted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "my tools"
    folder.mkdir()
    program = folder / "p2pfl"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "argv", [".venv/bin/p2pfl", "demo"])
    assert demo_report._program() == ".venv/bin/p2pfl"
    monkeypatch.setattr(sys, "argv", [str(program), "demo"])
    assert demo_report._program() == f"'{program}'"
    monkeypatch.setenv("PATH", str(folder))
    assert demo_report._program() == "p2pfl"
    monkeypatch.setattr(sys, "argv", ["/somewhere/p2pfl/__main__.py", "demo"])
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    assert demo_report._program() == "/usr/bin/python3 -m p2pfl"


def test_rounds_that_went_by_without_a_node_are_shown_if_there_are_any(printed: Printed) -> None:
    """The programme of this manifest has four: statistics, two of training, evaluation."""
    title = "rounds missed"
    assert not any(line.startswith(title) for line in printed(completed=4, skipped=0))
    [line] = [line for line in printed(completed=1, skipped=1) if line.startswith(title)]
    assert line.split()[-4:] == ["2"] * 4
