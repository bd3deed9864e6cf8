"""The course of a sweep in pictures: what is measured against rounds, and against simulated time where an
engine knows it. A line for each point of the sweep, the mean over its seeds, in a band of one deviation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Final

from p2pfl.figures import COLOURS, data, literal, panels, styled
from p2pfl.simulation.running import Row
from p2pfl.simulation.summary import points, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LINES: Final = len(COLOURS)


@dataclass(frozen=True, slots=True)
class Measure:
    """A column that is plotted: ``label`` with its unit, ``scale`` from the column to that."""

    column: str
    label: str
    scale: float = 1.0
    logarithmic: bool = False


MEASURES: Final = (
    Measure("accuracy", "accuracy of the mean model"),
    Measure("consensus", "consensus distance", logarithmic=True),
    Measure("epsilon", "epsilon"),
    Measure("bytes", "MB sent by a node", 1e-6),
)
ALONG: Final = (Measure("round", "rounds"), Measure("seconds", "simulated seconds"))


@dataclass(frozen=True, slots=True)
class Curve:
    """Of one point: ``mean`` and ``deviation`` over its seeds at each of ``along``."""

    label: str
    along: Sequence[float]
    mean: Sequence[float]
    deviation: Sequence[float]


@dataclass(frozen=True, slots=True)
class Plot:
    """``svg``: one measure; ``name``: of its file; ``title``: what it shows, in words."""

    name: str
    title: str
    svg: bytes


def plots(rows: Sequence[Row], axes: Sequence[str]) -> Iterator[Plot]:
    """Every measure that ``rows`` hold, against everything that they can be seen against."""
    kept = _best(rows, axes)
    for along in ALONG:
        for measure in MEASURES:
            found = curves(kept, axes, along, measure)
            if found:
                title = f"{measure.label} against {along.label}"
                yield Plot(f"{measure.column}-by-{along.column}.svg", title, _svg(found, along, measure))


def curves(rows: Sequence[Row], axes: Sequence[str], along: Measure, measure: Measure) -> list[Curve]:
    """A curve for each point, in the order of ``rows``; none for one without such numbers."""
    at: dict[str, dict[object, list[tuple[float, float]]]] = {}
    for row in rows:
        x, y = row.get(along.column), row.get(measure.column)
        rounds = at.setdefault(_label(row, axes), {})
        if isinstance(x, int | float) and isinstance(y, int | float):
            rounds.setdefault(row["round"], []).append((x * along.scale, y * measure.scale))
    return [_curve(label, list(rounds.values())) for label, rounds in at.items() if rounds]


def _curve(label: str, rounds: Sequence[Sequence[tuple[float, float]]]) -> Curve:
    values = [[y for _, y in seeds] for seeds in rounds]
    return Curve(
        label,
        [fmean(x for x, _ in seeds) for seeds in rounds],
        [fmean(each) for each in values],
        [stdev(each) if len(each) > 1 else 0.0 for each in values],
    )


def _best(rows: Sequence[Row], axes: Sequence[str]) -> Sequence[Row]:
    """Of a sweep of more points than lines can be told apart, those that ended with the best accuracy."""
    found = points(rows, axes)
    if len(found) <= MOST_LINES:
        return rows
    best = sorted(found, key=lambda point: -(point.means["accuracy"] or 0.0))[:MOST_LINES]
    wanted = {_label(point.varied, axes) for point in best}
    return [row for row in rows if _label(row, axes) in wanted]


def _label(row: Mapping[str, object], axes: Sequence[str]) -> str:
    return ", ".join(f"{axis.rpartition('.')[2]} {shown(row[axis])}" for axis in axes)


def _svg(found: Sequence[Curve], along: Measure, measure: Measure) -> bytes:
    with styled():
        (axes,) = panels(1, width=6.0, height=3.2)
        for number, curve in enumerate(found):
            _draw(axes, curve, COLOURS[number % len(COLOURS)])
        axes.set(xlabel=along.label, ylabel=measure.label)
        axes.margins(x=0.01)
        if measure.logarithmic and any(value > 0 for curve in found for value in curve.mean):
            axes.set_yscale("log", nonpositive="mask")
        figure = axes.get_figure(root=True)
        assert figure is not None
        if len(found) > 1:
            figure.legend(loc="outside right upper")
        return data(figure, ".svg")


def _draw(axes: "Axes", curve: Curve, colour: str) -> None:
    axes.plot(curve.along, curve.mean, color=colour, label=literal(curve.label), linewidth=1.4)
    if any(curve.deviation):
        low, high = (
            [mean + sign * off for mean, off in zip(curve.mean, curve.deviation, strict=True)]
            for sign in (-1, 1)
        )
        axes.fill_between(curve.along, low, high, color=colour, alpha=0.2, linewidth=0)
