"""A sweep on a Ray cluster: what it comes to here, and sentences for what may be amiss."""

import socket
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from p2pfl.cli import main
from p2pfl.node.errors import NetworkError, UsageError
from p2pfl.simulation import ray_cluster
from p2pfl.simulation.experiment import read
from p2pfl.simulation.partitions import PartitionError
from p2pfl.simulation.runs import carry_out
from p2pfl.simulation.sweep import RUNS

torch.set_num_threads(1)
WORDS = ["simulate", "--nodes", "4,6", "--mode", "none", "--rounds", "3", "--seeds", "2"]


def must_be_4(number: int) -> int:
    if number != 4:
        raise PartitionError(f"{number} is not 4")
    return number


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (the extra `ray`)")
def test_a_cluster_comes_to_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert main([*WORDS, "--output", str(tmp_path / "here")]) == 0
    assert main([*WORDS, "--output", str(tmp_path / "ray"), "--engine", "ray", "--jobs", "2"]) == 0
    for name in ("results.csv", "results.parquet"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    runs = [set((tmp_path / where / RUNS).read_text().splitlines()) for where in ("here", "ray")]
    assert runs[0] == runs[1]  # so that either goes on where the other was interrupted

    tasks = {str(number): number for number in (4, 5, 4, 4)}
    with pytest.raises(PartitionError, match=r"^5 is not 4$"), ray_cluster.cluster(count=1) as executor:
        carry_out(must_be_4, tasks, tmp_path / "some.jsonl", executor, lambda _: None)


def test_without_ray_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="not installed") as raised, ray_cluster.cluster():
        pass
    assert "p2pfl-node[ray]" in raised.value.hint


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (the extra `ray`)")
def test_a_cluster_that_is_not_there_is_named_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    for given in (address, f"ray://{address}", "somewhere:else"):
        with pytest.raises(NetworkError, match=f"{given} cannot be reached"), ray_cluster.cluster(given):
            pass
    with pytest.raises(UsageError, match="--jobs"), ray_cluster.cluster(address, 2):
        pass


def test_a_run_that_the_cluster_lost_is_no_result() -> None:
    ours: Future[int] = Future()
    theirs: Future[tuple[Any, Exception | None]] = Future()
    theirs.set_exception(RuntimeError("the worker died\nand here is why"))
    ray_cluster._hand_over(ours, theirs)
    with pytest.raises(NetworkError, match=r"the worker died$"):
        ours.result()
    nobody: Future[int] = Future()
    nobody.cancel()
    ray_cluster._hand_over(nobody, theirs)
    assert nobody.cancelled()


def test_ray_is_where_runs_are_done_and_no_engine_of_an_experiment() -> None:
    with pytest.raises(ValueError, match="engine"):
        read('[simulation]\nengine = "ray"', Path())
