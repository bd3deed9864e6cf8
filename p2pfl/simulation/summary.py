"""A sweep in a few lines: how each point of it ended, over its seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from p2pfl.simulation.running import Row
from p2pfl.tables import aligned

_MEASURED = (
    "accuracy",
    "accuracy_mean",
    "accuracy_least",
    "loss",
    "consensus",
    "epsilon",
    "bytes",
    "seconds",
)


@dataclass(frozen=True, slots=True)
class Point:
    """The end of all runs of one point. ``means`` and ``deviations`` by column, over ``runs`` of them."""

    varied: Mapping[str, object]
    runs: int
    means: Mapping[str, float | None]
    deviations: Mapping[str, float]


def points(rows: Sequence[Row], axes: Sequence[str]) -> list[Point]:
    """The points in the order of ``rows``, each from the last row of every seed."""
    last: dict[str, dict[object, Row]] = {}
    for row in rows:
        point = repr([row[axis] for axis in axes])
        last.setdefault(point, {})[row["seed"]] = row
    return [_point(list(runs.values()), axes) for runs in last.values()]


def _point(runs: Sequence[Row], axes: Sequence[str]) -> Point:
    found = {name: [row[name] for row in runs] for name in _MEASURED if name in runs[0]}
    numbers = {
        name: [float(value) for value in values if isinstance(value, int | float)]
        for name, values in found.items()
    }
    return Point(
        {axis: runs[0][axis] for axis in axes},
        len(runs),
        {name: fmean(values) if values else None for name, values in numbers.items()},
        {name: stdev(values) if len(values) > 1 else 0.0 for name, values in numbers.items()},
    )


def lines(rows: Sequence[Row], axes: Sequence[str]) -> Iterator[str]:
    """For people: a line for each point, best accuracy first where several were tried; then remarks."""
    yield from aligned(table(rows, axes))
    yield from remarks(rows)


def remarks(rows: Sequence[Row]) -> Iterator[str]:
    """What accuracy is to be compared with, and what was left out of the data."""
    guesses = [guess for row in rows if isinstance(guess := row.get("baseline"), int | float)]
    if guesses:
        ends = dict.fromkeys(f"{guess:.3f}" for guess in (min(guesses), max(guesses)))
        yield f"always the same answer would have accuracy {' to '.join(ends)}"
    for left_out in dict.fromkeys(row["left_out"] for row in rows if "left_out" in row):
        yield f"left out of the data: {left_out}"


def table(rows: Sequence[Row], axes: Sequence[str]) -> list[list[str]]:
    """The cells of :func:`lines`, the head first."""
    found = sorted(points(rows, axes), key=lambda point: -(point.means["accuracy"] or 0.0))
    cells = [[*axes, "accuracy", "worst node", "consensus", "epsilon", "MB sent"]]
    for point in found:
        means = point.means
        spread = f" ± {point.deviations['accuracy']:.3f}" if point.runs > 1 else ""
        epsilon = "none" if means["epsilon"] is None else f"{means['epsilon']:.3g}"
        cells.append(
            [
                *(shown(value) for value in point.varied.values()),
                f"{means['accuracy']:.3f}{spread}",
                f"{means['accuracy_least']:.3f}",
                f"{means['consensus']:.1e}",
                epsilon,
                f"{(means['bytes'] or 0) / 1e6:.3g}",
            ]
        )
    return cells


def shown(value: object) -> str:
    """A varied value as people wrote it."""
    if isinstance(value, float):
        return f"{value:g}"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
