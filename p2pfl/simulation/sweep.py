"""Runs all of a sweep, and forgets nothing: what is finished is in ``runs.jsonl``, and is not run again."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from p2pfl.gossip.records import plain
from p2pfl.simulation.experiment import Experiment, Sweep
from p2pfl.simulation.running import Row, run
from p2pfl.simulation.runs import carry_out, finished

FORMAT: Final = 3
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
        own = self.experiment
        terms = [plain(own.manifest), own.batch_given, asdict(own.setting), dict(own.varied)]
        said = [FORMAT, *terms, self.seed]
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def tasks(sweep: Sweep) -> list[Task]:
    """All runs, in the order in which their rows are written."""
    return [Task(experiment, seed) for experiment in sweep.experiments for seed in range(sweep.seeds)]


def perform(sweep: Sweep, directory: Path, executor: Executor, tell: Tell) -> list[Row]:
    """Run what is not finished in ``directory`` yet; the rows of all runs, in order.

    Raises what a run raises, after those that had been begun; what is finished stays.
    """
    wanted = [(task.key, task) for task in tasks(sweep)]
    times = Counter(key for key, _ in wanted)
    journal = directory / RUNS
    rows: dict[str, list[Row]] = {key: found for key, found in finished(journal).items() if times[key]}
    missing = {key: task for key, task in wanted if key not in rows}
    done = sum(times[key] for key in rows)
    tell(done, len(wanted))

    def one_more(key: str) -> None:
        nonlocal done
        done += times[key]
        tell(done, len(wanted))

    rows |= carry_out(_rows, missing, journal, executor, one_more)
    return [row for key, _ in wanted for row in rows[key]]


def _rows(task: Task) -> list[Row]:
    return list(run(task.experiment, task.seed))
