"""Epsilon computed by another process: the same numbers, whenever they are asked for."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfl.node import epsilons
from p2pfl.node.accountant import Mechanism, computed_by, epsilon
from p2pfl.node.epsilon_process import EpsilonProcess
from p2pfl.node.errors import PrivacyError

RELEASES = ((0.7, 0.5, 3), (1.3, 1.0, 1))


@pytest.fixture
def process() -> Iterator[EpsilonProcess]:
    process = EpsilonProcess(idle_seconds=0.0)
    yield process
    process.close()


def test_it_says_what_this_process_would_and_may_end_between_questions(process: EpsilonProcess) -> None:
    """With no patience at all it ends after every answer, and another takes its place."""
    assert process.pld(RELEASES, 1e-4, 1e-4) == epsilons.pld(RELEASES, 1e-4, 1e-4)
    assert process.rdp(RELEASES, 1e-4) == epsilons.rdp(RELEASES, 1e-4)


def test_it_imports_nothing_from_where_the_node_was_started(
    process: EpsilonProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy.py").write_text("raise SystemExit(7)")
    monkeypatch.chdir(tmp_path)
    assert process.pld(RELEASES, 1e-4, 1e-4) > 0


def test_it_ends_without_a_word_if_the_node_is_gone(process: EpsilonProcess) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([*process._command[:-1], "300"], stdin=pipe, stdout=pipe, stderr=pipe) as alone:
        assert alone.stdin is not None
        assert alone.stdout is not None
        assert alone.stderr is not None
        alone.stdout.close()
        alone.stdin.write(b'["rdp", [[0.7, 0.5, 3]], 1e-4]\n')
        alone.stdin.close()
        assert alone.stderr.read() == b""


def test_what_it_cannot_compute_is_no_small_number(process: EpsilonProcess) -> None:
    with pytest.raises(PrivacyError, match="its process ended with status 1"):
        process.rdp((), 1e-4)


def test_the_accountant_asks_whoever_is_to_compute() -> None:
    class Fixed:
        def pld(self, releases: epsilons.Releases, delta: float, interval: float) -> float:
            return 1.25

        def rdp(self, releases: epsilons.Releases, delta: float) -> float:
            return 2.5

    once = Mechanism("training", "train", "distributed", 1.2345, 0.125, 1, 4, 3, 1)
    with computed_by(Fixed()):
        spent = epsilon([once], 1e-3)
    assert (spent.pld, spent.rdp) == (1.25, 2.5)
    other = epsilon([once], 1e-4)
    assert 0 < other.pld != 1.25
