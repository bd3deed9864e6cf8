"""docs/parties.svg: accuracy against the number of parties. The same rows give the same file."""

import io
from collections.abc import Sequence
from typing import Any, Final

from reproduce import parties
from reproduce.rows import Row, chosen

STYLES: Final = {
    "none": ("no privacy", "#444444", "o"),
    "distributed": ("distributed noise", "#0b6e4f", "s"),
    "local": ("local noise", "#c8553d", "^"),
}
_FIXED: Final[dict[Any, Any]] = {"svg.hashsalt": "p2pfl", "svg.fonttype": "path", "font.size": 10}


def draw(rows: Sequence[Row]) -> str | None:
    """A panel for each data set that there are ``rows`` of; None without one.

    Raises ModuleNotFoundError without matplotlib: the extra `plots`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    panels = [name for name in (parties.HEARTS, parties.DIGITS) if chosen(rows, name)]
    if not panels:
        return None
    with mpl.rc_context(_FIXED):
        figure = Figure(figsize=(4.6 * len(panels), 3.4), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _panel(axes, name, chosen(rows, name))
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in svg.getvalue().splitlines()) + "\n"


def _panel(axes: Any, name: str, rows: Sequence[Row]) -> None:
    for mode, (label, colour, marker) in STYLES.items():
        line = sorted(chosen(rows, name, mode=mode), key=lambda row: int(row.case["parties"]))
        numbers = [int(row.case["parties"]) for row in line]
        means = [row.mean["accuracy"] for row in line]
        spreads = [row.deviation["accuracy"] for row in line]
        axes.errorbar(
            numbers, means, spreads, label=label, color=colour, marker=marker, ms=4, capsize=2, lw=1.4
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks([2, 4, 8, 16, 32], ["2", "4", "8", "16", "32"])
    axes.set_xlabel("parties that the records are dealt to")
    axes.set_ylabel("test accuracy")
    axes.set_title(f"{name.partition(', ')[2]}, ε = {parties.EPSILON[name]:g}", fontsize=10)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(loc="lower left", frameon=False)
