"""What there is to compute, and its order: several processes, how long it will take, and going on after an
interruption.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from p2pfl.progress import Progress
from p2pfl.simulation import runs as kept
from p2pfl.terminal import note

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


def carry_out(runs: Sequence[Run], measure: Measure, journal: Path, jobs: int) -> dict[Run, Figures]:
    """What ``measure`` finds for each of ``runs``, ``jobs`` at a time, the longest first.

    ``measure`` must be picklable. Each result is in ``journal`` as soon as it is there, and what is there
    already is not computed again.
    """
    found = kept.finished(journal)
    left = {run.key: run for run in sorted(runs, key=lambda run: -run.work) if run.key not in found}
    if len(left) < len(runs):
        note(f"{len(runs) - len(left)} of {len(runs)} runs are in {journal} already")
    journal.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(sum(run.work for run in left.values()))

    def tell(key: str) -> None:
        progress.step(left[key].work)
        progress.begin(str(left[key]))

    try:
        with kept.cores(jobs) as pool:
            found |= kept.carry_out(measure, left, journal, pool, tell)
    finally:
        progress.end()
    return {run: found[run.key] for run in runs}
