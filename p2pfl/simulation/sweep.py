"""Runs all of a sweep on all cores, and forgets nothing: what is finished is on disk, and is not run again.

``runs.jsonl`` has a line for each finished run: its key, a digest of everything that decides its rows, and
the rows.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from p2pfl.gossip.records import plain
from p2pfl.node.errors import StorageError, reason_of
from p2pfl.simulation.experiment import Experiment, Sweep
from p2pfl.simulation.running import Row, run

FORMAT: Final = 1
RUNS: Final = "runs.jsonl"
Tell = Callable[[int, int], None]
"""Told how many runs are finished, of how many."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run of a sweep."""

    experiment: Experiment
    seed: int

    @property
    def key(self) -> str:
        """Equal for runs that come to the same rows."""
        setting = asdict(self.experiment.setting)
        said = [FORMAT, plain(self.experiment.manifest), setting, dict(self.experiment.varied), self.seed]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def tasks(sweep: Sweep) -> list[Task]:
    """All runs, in the order in which their rows are written."""
    return [Task(experiment, seed) for experiment in sweep.experiments for seed in range(sweep.seeds)]


def perform(sweep: Sweep, directory: Path, executor: Executor, tell: Tell) -> list[Row]:
    """Run what is not finished in ``directory`` yet; the rows of all runs, in order.

    Raises what a run raises, after those that had been begun; what is finished stays.
    """
    wanted = tasks(sweep)
    finished = {key: rows for key, rows in _finished(directory / RUNS) if rows}
    missing = [task for task in wanted if task.key not in finished]
    tell(len(wanted) - len(missing), len(wanted))
    running: dict[Future[list[Row]], Task] = {executor.submit(_rows, task): task for task in missing}
    failed: BaseException | None = None
    try:
        for future in as_completed(running):
            if future.cancelled():
                continue
            if error := future.exception():
                failed = failed or error
                _cancel(running)
                continue
            key = running[future].key
            finished[key] = future.result()
            _append(directory / RUNS, key, finished[key])
            tell(sum(task.key in finished for task in wanted), len(wanted))
    finally:
        _cancel(running)
    if failed is not None:
        raise failed
    return [row for task in wanted for row in finished[task.key]]


def _cancel(futures: Iterable[Future[list[Row]]]) -> None:
    for future in futures:
        future.cancel()


@contextmanager
def cores(count: int | None = None) -> Iterator[Executor]:
    """A process for each of ``count`` cores, None: all; each with one thread."""
    workers = count or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_one_thread) as pool:
        yield pool


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _rows(task: Task) -> list[Row]:
    return list(run(task.experiment, task.seed))


def _finished(file: Path) -> Iterator[tuple[str, list[Row]]]:
    """A last line that was cut off, by a crash or a full disk, is no run."""
    try:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
    except OSError as error:
        raise StorageError(f"{file}: cannot be read: {reason_of(error)}", "check its permissions") from None
    for line in text.splitlines():
        try:
            found = json.loads(line)
            yield found["key"], found["rows"]
        except (ValueError, KeyError, TypeError):
            continue


def _append(file: Path, key: str, rows: Sequence[Mapping[str, object]]) -> None:
    line = json.dumps({"key": key, "rows": rows}) + "\n"
    try:
        fresh = not file.exists() or file.read_bytes().endswith(b"\n") or file.stat().st_size == 0
        with file.open("a", encoding="utf-8") as written:
            written.write(line if fresh else "\n" + line)
    except OSError as error:
        raise StorageError(
            f"{file}: cannot be written: {reason_of(error)}", "make room, and run it again"
        ) from None
