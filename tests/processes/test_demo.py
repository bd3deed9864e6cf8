"""`p2pfl demo` from nothing to its table, with hospitals killed on the way, and the demo itself."""

import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from real_federation import wait_until

from p2pfl.heart_disease import HOSPITALS

SMALL = ("--rounds", "8")
LONG = ("--rounds", "400")  # not over before a test is done with it, however slow the machine


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "p2pfl", "demo", "--directory", str(directory), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def node_of(directory: Path, name: str) -> psutil.Process | None:
    wanted = str(directory / name / "node.toml")
    for process in psutil.process_iter(["cmdline"]):
        if wanted in (process.info["cmdline"] or []):
            return process
    return None


def nodes_of(directory: Path) -> list[psutil.Process]:
    return [node for name in HOSPITALS if (node := node_of(directory, name)) is not None]


def kill_node(directory: Path, name: str, when: str) -> None:
    """Kill the node of hospital ``name`` as soon as its log says ``when``."""
    log = directory / name / "node.log"
    wait_until(lambda: log.exists() and when in log.read_text(), 240, f"{when} in {log}")
    victim = node_of(directory, name)
    if victim is not None:  # after the last round the demo stops its nodes, and may be faster
        victim.kill()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A demo's directory and what it printed."""
    directory = tmp_path_factory.mktemp("demo") / "run"
    demo = start(directory, *SMALL)
    kill_node(directory, "va", "round 2 ")
    kill_node(directory, "hungarian", "the programme is over")
    output, _ = demo.communicate(timeout=600)
    assert demo.returncode == 0, output
    assert not nodes_of(directory)
    return directory, output


@pytest.fixture(scope="module")
def rows(run: tuple[Path, str]) -> dict[str, list[str]]:
    return {line[:39].strip(): line[39:].split() for line in run[1].splitlines()}


def test_a_killed_hospital_is_started_again_and_all_finish(run: tuple[Path, str]) -> None:
    assert "va was killed (SIGKILL); starting it again" in run[1]
    assert re.search(r"^finished in \d+ s; restarts: [12]$", run[1], re.M)


def test_accuracy_stands_beside_what_is_published(rows: dict[str, list[str]]) -> None:
    assert rows["published pooled training [1]"][-2:] == ["0.735", "0.795"]
    assert rows["published federated averaging [1]"][-2:] == ["0.685", "0.748"]
    for name in (
        "this federation (epsilon 1)",
        "all records pooled (no privacy)",
        *(f"trained alone (no privacy): {h}" for h in HOSPITALS),
    ):
        assert len(rows[name]) == 6
        assert all(0 <= float(figure) <= 1 for figure in rows[name])


def test_rounds_bytes_epsilon_and_the_ladder_are_there(rows: dict[str, list[str]]) -> None:
    assert len(rows["rounds, with statistics and evaluation"]) == 4
    assert len(rows["bytes sent since the node's last start"]) == 4
    assumed = [float(figure) for figure in rows["epsilon spent of 1 (1 colluding)"]]
    assert all(0 < figure <= 1 for figure in assumed)
    ladder = map(float, rows["if 2 of a group collude [2]"])
    assert all(two > one for one, two in zip(assumed, ladder, strict=True))


def test_the_model_is_where_it_says_and_can_be_tried(run: tuple[Path, str]) -> None:
    last = {words[0]: words[1] for line in run[1].splitlines() if len(words := line.split(maxsplit=1)) > 1}
    assert Path(last["model"].split()[0]).exists()
    done = subprocess.run(shlex.split(last["try"]), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].endswith(",probability,positive")


@contextmanager
def running(directory: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A demo that goes on for long, and its four nodes."""
    demo = start(directory, *LONG)
    try:
        wait_until(lambda: len(nodes_of(directory)) == len(HOSPITALS), 240, "four nodes")
        yield demo, nodes_of(directory)
    finally:
        demo.kill()
        demo.communicate()


def gone(node: psutil.Process) -> bool:
    try:
        return not node.is_running() or node.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_nodes_end_with_a_demo_that_is_asked_to_stop_and_nobody_else_gets_its_directory(
    tmp_path: Path,
) -> None:
    with running(tmp_path / "run") as (demo, nodes):
        second = start(tmp_path / "run")
        output, _ = second.communicate(timeout=240)
        assert second.returncode == 9
        assert output.startswith(f"p2pfl: error: another demo is running in {tmp_path / 'run'}\n")
        assert not any(map(gone, nodes))
        demo.terminate()
        assert demo.wait(60) == 128 + signal.SIGTERM
        assert all(map(gone, nodes))


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="only setpriv ties a node to its demo")
def test_the_nodes_end_with_a_demo_that_is_killed(tmp_path: Path) -> None:
    with running(tmp_path / "run") as (demo, nodes):
        demo.kill()
        wait_until(lambda: all(map(gone, nodes)), 30, "the end of all nodes")
