"""Rows of docs/results.json: each case of an experiment, its figures over the seeds."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from reproduce.runs import Figures, Form, Run, Setting


@dataclass(frozen=True, slots=True)
class Row:
    """``mean`` and standard ``deviation`` (0 of a single run) of every figure over ``seeds`` runs."""

    experiment: str
    form: Form
    case: Mapping[str, Setting]
    seeds: int
    mean: Figures
    deviation: Figures


def summarised(results: Mapping[Run, Figures]) -> list[Row]:
    """A row for every case, sorted."""
    cases: dict[tuple[str, Form, tuple[tuple[str, Setting], ...]], list[Figures]] = {}
    for run in sorted(results, key=lambda run: (run.experiment, run.form, str(run.case), run.seed)):
        cases.setdefault((run.experiment, run.form, run.case), []).append(results[run])
    return [
        Row(experiment, form, dict(case), len(every), *_summary(every))
        for (experiment, form, case), every in cases.items()
    ]


def _summary(every: Sequence[Figures]) -> tuple[Figures, Figures]:
    columns = {name: [figures[name] for figures in every] for name in every[0]}
    means = {name: round(statistics.fmean(values), 6) for name, values in columns.items()}
    if len(every) == 1:
        return means, dict.fromkeys(means, 0.0)
    return means, {name: round(statistics.stdev(values), 6) for name, values in columns.items()}


def merged(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """``new``, and of ``old`` the experiments and forms that ``new`` has nothing of."""
    fresh = {(row.experiment, row.form) for row in new}
    kept = [row for row in old if (row.experiment, row.form) not in fresh]
    return sorted([*kept, *new], key=lambda row: (row.experiment, row.form))


def load(path: Path) -> list[Row]:
    """None if there is no such file."""
    if not path.exists():
        return []
    return [Row(**fields) for fields in json.loads(path.read_text(encoding="utf-8"))]


def dump(rows: Sequence[Row]) -> str:
    """A line for each row, so that differences read well."""
    return "[\n" + ",\n".join(json.dumps(asdict(row)) for row in rows) + "\n]\n"


def chosen(rows: Sequence[Row], experiment: str, **case: Setting) -> list[Row]:
    """Those of ``experiment`` whose case has all of ``case``."""
    return [row for row in rows if row.experiment == experiment and case.items() <= row.case.items()]
