"""What there is to compute, and its order: several processes, how long it will take, and going on after an
interruption.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO, TypeAlias

import torch

Form: TypeAlias = Literal["any", "short", "full"]
Setting: TypeAlias = str | int | float
Figures: TypeAlias = dict[str, float]


@dataclass(frozen=True, slots=True)
class Run:
    """One ``case`` of an ``experiment`` with one ``seed``.

    ``form``: of which form of the experiment it is a part; "any" if both have it. ``work``: about how many
    seconds it takes a core.
    """

    experiment: str
    form: Form
    case: tuple[tuple[str, Setting], ...]
    seed: int
    work: float

    @property
    def key(self) -> str:
        """What it is known by in the journal."""
        return json.dumps([self.experiment, self.form, dict(self.case), self.seed])

    def __str__(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in self.case)
        return f"{self.experiment}: {settings}, seed {self.seed}"


Measure: TypeAlias = Callable[[Run], Figures]


def carry_out(
    runs: Sequence[Run], measure: Measure, journal: Path, jobs: int, out: TextIO
) -> dict[Run, Figures]:
    """What ``measure`` finds for each of ``runs``, ``jobs`` at a time, the longest first.

    ``measure`` must be picklable. Each result is in ``journal`` as soon as it is there, and what is there
    already is not computed again.
    """
    found = _read(journal)
    left = sorted((run for run in runs if run.key not in found), key=lambda run: -run.work)
    done = {run: found[run.key] for run in runs if run.key in found}
    if done:
        out.write(f"{len(done)} of {len(runs)} runs are in {journal} already\n")
    journal.parent.mkdir(parents=True, exist_ok=True)
    progress = _Progress(left, out)
    with journal.open("a", encoding="utf-8") as lines, _processes(jobs) as pool:
        waiting = {pool.submit(measure, run): run for run in left}
        for future in as_completed(waiting):
            run = waiting[future]
            done[run] = future.result()
            lines.write(json.dumps([run.key, done[run]]) + "\n")
            lines.flush()
            progress.finished(run)
    return done


def _read(journal: Path) -> Mapping[str, Figures]:
    """Complete lines only: the last one may have been cut off."""
    if not journal.exists():
        return {}
    lines = journal.read_text(encoding="utf-8").split("\n")[:-1]
    return dict(map(json.loads, lines))


@contextmanager
def _processes(jobs: int) -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _one_thread, (os.getpriority(os.PRIO_PROCESS, 0),)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread(priority: int) -> None:
    torch.set_num_threads(1)
    os.setpriority(os.PRIO_PROCESS, 0, priority)


class _Progress:
    """A line for every run that is done, with the time that the rest will take."""

    def __init__(self, runs: Sequence[Run], out: TextIO) -> None:
        self._out, self._start = out, time.monotonic()
        self._runs, self._finished = len(runs), 0
        self._work, self._done = sum(run.work for run in runs), 0.0

    def finished(self, run: Run) -> None:
        self._finished += 1
        self._done += run.work
        left = (time.monotonic() - self._start) * (self._work / self._done - 1)
        about = f"about {left / 60:.0f} min left" if left >= 90 else f"about {left:.0f} s left"
        self._out.write(f"{self._finished}/{self._runs}  {about}  {run}\n")
        self._out.flush()
