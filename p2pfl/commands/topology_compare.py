"""``p2pfl topology compare``: several topologies in one table and one plot."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.topology_options import Asked, add_parameters, add_topology, asked, explained

if TYPE_CHECKING:
    from p2pfl.topologies.analysis import Report

_LONGEST = 300
"""Rounds in the plot at most: the slowest would hide all others."""
_LINES = ("-", "--", ":")
_HEAD = [
    "topology",
    "nodes",
    "degree",
    "diameter",
    "spectral gap",
    "left a round",
    "rounds",
    "MB a round",
    "MB to agree",
    "cut vertices",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl topology compare``."""
    parser.description = (
        "Several topologies in one table, and how fast they agree against rounds and bytes in one plot."
        " Rounds: until the squared distance from the mean is a millionth of what it was."
    )
    add_topology(parser, several=True)
    add_parameters(parser)
    parser.add_argument("--plot", metavar="PICTURE", help="draw a plot: .svg or .png")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the table, draw the plot."""
    from p2pfl.figures import picture
    from p2pfl.tables import aligned
    from p2pfl.topologies.analysis import report

    path = None if options.plot is None else picture(options.plot)
    with explained(options):
        found = asked(options)
        told = [
            report(each.topology, mixing=each.mixing, parameters=options.parameters, seed=each.seed)
            for each in found
        ]
        if path is not None:
            _draw(found, told, path)
    if options.json:
        print(json.dumps([each.row() for each in told], indent=1, ensure_ascii=False))
        return 0
    for line in aligned([_HEAD, *map(_cells, told)]):
        print(line)
    for each in told:
        if not each.keeps_mean:
            print(f"{each.name}: nodes do not agree on the mean")
    return 0


def _cells(told: "Report") -> list[str]:
    from p2pfl.tables import megabytes, optional

    rounds = told.rounds_measured
    return [
        told.name,
        str(told.nodes),
        f"{told.degree_mean:.3g}",
        optional(told.diameter),
        optional(told.spectral_gap, ".3f"),
        optional(told.contraction, ".3f"),
        optional(rounds),
        megabytes(told.bytes_mean),
        "-" if rounds is None else megabytes(told.bytes_mean * rounds),
        str(len(told.cut_vertices)),
    ]


def _draw(found: Sequence[Asked], told: "Sequence[Report]", path: Path) -> None:
    """The squared distance from the mean, against rounds and against what a node has sent."""
    import numpy as np

    from p2pfl.figures import COLOURS, literal, panels, save, styled
    from p2pfl.topologies.consensus import errors

    longest = min(_LONGEST, max(each.rounds_measured or _LONGEST for each in told))
    least = told[0].tolerance
    with styled():
        by_rounds, by_bytes = axes = panels(2, width=4.5, height=3.6)
        for number, (one, its) in enumerate(zip(found, told, strict=True)):
            left = np.maximum(errors(one.topology, longest, mixing=one.mixing, seed=one.seed), least / 10)
            shown = int(np.argmax(left <= least)) or longest
            colour, style = COLOURS[number % len(COLOURS)], _LINES[number // len(COLOURS) % len(_LINES)]
            rounds = np.arange(1, shown + 1)
            sent = rounds * its.bytes_mean / 1e6
            by_rounds.plot(rounds, left[rounds], color=colour, ls=style, label=literal(its.name))
            by_bytes.plot(sent, left[rounds], color=colour, ls=style)
        for own, what in zip(axes, ("rounds", "MB sent by a node"), strict=True):
            own.set(xlabel=what, xscale="log", yscale="log", ylim=(least, 1.5))
        by_rounds.set_ylabel("squared distance left")
        by_rounds.figure.legend(loc="outside right upper")
        save(by_rounds, path)
