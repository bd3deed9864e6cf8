"""`p2pfl demo` from nothing to its table, with a hospital killed on the way."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from real_federation import wait_until

from p2pfl.heart_disease import HOSPITALS

SMALL = ("--rounds", "8")


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "p2pfl", "demo", "--directory", str(directory), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def node_of(directory: Path, name: str) -> psutil.Process | None:
    wanted = str(directory / name / "node.toml")
    for process in psutil.process_iter(["cmdline"]):
        if wanted in (process.info["cmdline"] or []):
            return process
    return None


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("demo") / "run"
    demo = start(directory, *SMALL)
    log = directory / "va" / "node.log"
    wait_until(lambda: log.exists() and "round 2 " in log.read_text(), 240, "three rounds")
    victim = node_of(directory, "va")
    assert victim is not None
    victim.send_signal(signal.SIGKILL)
    output, _ = demo.communicate(timeout=600)
    assert demo.returncode == 0, output
    assert all(node_of(directory, name) is None for name in HOSPITALS)
    return output


def test_a_killed_hospital_is_started_again_and_all_finish(printed: str) -> None:
    assert "va was killed (SIGKILL); starting it again" in printed
    assert re.search(r"finished in \d+ s; restarts: 1", printed)


def test_accuracy_stands_beside_what_is_published(printed: str) -> None:
    rows = {line[:38].strip(): line[38:].split() for line in printed.splitlines()}
    assert rows["published pooled training"][-2:] == ["0.735", "0.795"]
    assert rows["published federated averaging"][-2:] == ["0.685", "0.748"]
    for name in (
        "this federation",
        "all records pooled, no privacy",
        *(f"trained alone: {h}" for h in HOSPITALS),
    ):
        assert len(rows[name]) == 6
        assert all(0 <= float(figure) <= 1 for figure in rows[name])


def test_rounds_bytes_epsilon_and_the_ladder_are_there(printed: str) -> None:
    rows = {line[:38].strip(): line[38:].split() for line in printed.splitlines()}
    assert len(rows["rounds completed"]) == len(rows["bytes sent"]) == 4
    assert all(0 < float(figure) <= 1 for figure in rows["epsilon spent of 1"])
    assumed = [float(figure) for figure in rows["if 1 of a group collude (assumed)"]]
    assert all(
        two > one for one, two in zip(assumed, map(float, rows["if 2 of a group collude"]), strict=True)
    )
    model = next(line.split()[1] for line in printed.splitlines() if line.startswith("model"))
    assert os.path.exists(model)


def test_somebody_elses_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    demo = start(tmp_path, *SMALL)
    output, _ = demo.communicate(timeout=240)
    assert demo.returncode == 9
    assert "not an earlier demo" in output
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
