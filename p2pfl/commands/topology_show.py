"""``p2pfl topology show``: what a topology costs, how fast it mixes, and who must not fail."""

import argparse
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from p2pfl.topology_options import add_parameters, add_topology, asked, explained

if TYPE_CHECKING:
    from p2pfl.topologies.analysis import Report
    from p2pfl.topologies.reach import CutVertex

_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl topology show``."""
    parser.description = (
        "A topology in numbers: degree, diameter, spectral gap beside its formula, rounds to consensus (a"
        " millionth of the squared distance), bytes, and who is cut off if a node fails."
    )
    add_topology(parser)
    add_parameters(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    from p2pfl.topologies.analysis import report
    from p2pfl.topologies.registry import entries

    with explained(options):
        (found,) = asked(options)
        told = report(found.topology, mixing=found.mixing, parameters=options.parameters, seed=found.seed)
    entry = entries().get(found.topology.family or "")
    formula, paper = (entry.formula, entry.paper) if entry else ("", "")
    if options.json:
        print(json.dumps({**told.row(), "formula": formula, "paper": paper}, indent=1, ensure_ascii=False))
        return 0
    print(told.name)
    for name, text in _lines(told):
        print(f"  {name:<20}{text}".rstrip())
    if formula:
        print(f"  {'theory':<20}{formula}" + (f" ({paper})" if paper else ""))
    return 0


def _lines(told: "Report") -> Iterator[tuple[str, str]]:
    from p2pfl.tables import megabytes, optional

    arcs = "links, one way" if told.directed else "links"
    repeats = {1: "always the same", None: "new every round"}.get(told.period, f"repeats after {told.period}")
    yield "nodes", f"{told.nodes}, {told.edges} {arcs}, {repeats}"
    yield "degree", f"{told.degree_mean:.3g} (from {told.degree_least:g} to {told.degree_most:g})"
    yield "diameter", "not connected" if told.diameter is None else str(told.diameter)
    yield from _speed(told)
    never = "never agree on the mean" if not told.keeps_mean else "not within 2000"
    measured = never if told.rounds_measured is None else str(told.rounds_measured)
    yield (
        "rounds to 10⁻⁶",
        f"{measured} (by theory {optional(told.rounds_predicted)}; weights: {told.mixing})",
    )
    busiest = (
        ""
        if told.bytes_most <= 1.01 * told.bytes_mean
        else f", {megabytes(told.bytes_most)} MB by the busiest"
    )
    yield (
        "sent in a round",
        f"{megabytes(told.bytes_mean)} MB by a node{busiest} ({told.parameters:,} parameters)",
    )
    if told.rounds_measured is not None:
        yield "sent to 10⁻⁶", f"{megabytes(told.bytes_mean * told.rounds_measured)} MB by a node"
    if told.seconds is not None:
        yield "time of a round", f"{told.seconds:.3g} s, by the slowest node's bandwidth and latency"
    if not told.cut_vertices:
        connected = (
            "the others stay connected" if told.diameter is not None else "none cuts others off further"
        )
        yield "if a node fails", connected
    for cut in told.cut_vertices[:_SHOWN]:
        yield "if a node fails", f"{cut.node} cuts off {cut_off(cut)}"
    if len(told.cut_vertices) > _SHOWN:
        yield "", f"and {len(told.cut_vertices) - _SHOWN} more that cut others off"


def cut_off(cut: "CutVertex") -> str:
    """Who has nobody left, in words."""
    named = ", ".join(cut.isolated[:_SHOWN])
    more = len(cut.isolated) - _SHOWN
    return named + (f" and {more} more" if more > 0 else "")


def _speed(told: "Report") -> Iterator[tuple[str, str]]:
    if told.second_eigenvalue is not None and told.spectral_gap is not None:
        form = told.closed_form
        beside = "no closed form" if form is None else f"by the closed form {max(0.0, 1 - form):.6f}"
        yield "spectral gap", f"{told.spectral_gap:.6f} ({beside})"
    if told.contraction is not None:
        form = told.contraction_formula
        beside = "no formula" if form is None else f"by the formula {form:.4f}"
        yield "left after a round", f"{told.contraction:.4f} of the squared distance ({beside})"
