"""``p2pfl topology audit``: what curious members learn who pool what they see, and who must not fail."""

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from p2pfl.commands.topology_show import cut_off
from p2pfl.topology_options import Asked, add_topology, asked, explained, in_groups

if TYPE_CHECKING:
    from p2pfl.topologies.audit import Audit, Coalitions

_SCHEMES = ("gossip", "sums", "groups")
_NAMED = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl topology audit``."""
    parser.description = (
        "Whose update a pool of curious members can compute, and how much of one they see otherwise: its"
        " leverage, 1 if they see it whole. Noise of standard deviation s protects against them as"
        " s / sqrt(leverage). Three ways to mix: gossip (models as they are), sums (a secure sum in each"
        " neighbourhood) and groups (a secure sum in each group)."
    )
    add_topology(parser)
    parser.add_argument(
        "--colluders", metavar="C", type=int, default=1, help="pools of up to C members (default: 1)"
    )
    parser.add_argument("--scheme", choices=_SCHEMES, help="only this way to mix (default: all that fit)")
    parser.add_argument("--rounds", metavar="T", type=int, default=1, help="they watch for (default: 1)")
    parser.add_argument("--public", action="store_true", help="what if all sums become known")
    parser.add_argument(
        "--limit", metavar="N", type=int, default=3000, help="pools examined, of each size (default: 3000)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the audit."""
    with explained(options):
        (found,) = asked(options)
        audits = _audits(found, options)
    if options.json:
        print(json.dumps([audit.row() for audit in audits], indent=1))
        return 0
    _print(found, audits)
    return 0


def _audits(found: Asked, options: argparse.Namespace) -> "list[Audit]":
    """One for each way to mix. Groups are the ones asked for, else of four where the graph has any."""
    from p2pfl.topologies.audit import audit

    schemes = _SCHEMES if options.scheme is None else (options.scheme,)
    grouped = found.topology if found.topology.groups else in_groups(found)
    return [
        audit(
            (grouped or found.topology) if scheme == "groups" else found.below,
            options.colluders,
            scheme=scheme,
            mixing=None if scheme == "groups" else found.mixing,
            rounds=options.rounds,
            public=options.public,
            limit=max(1, options.limit),
            seed=found.seed,
        )
        for scheme in schemes
        if scheme != "groups" or grouped or options.scheme
    ]


def _print(found: Asked, audits: "Sequence[Audit]") -> None:
    from p2pfl.tables import aligned

    rounds = f"{audits[0].rounds} rounds" if audits[0].rounds > 1 else "one round"
    print(f"{found.below.name}, {len(found.below.nodes)} nodes, {rounds}\n")
    table = [["mixing", "pool of", "examined", "pools that learn an update", "leverage", "worst pool"]]
    for audit in audits:
        table += [[_way(audit), *_cells(each)] for each in audit.coalitions]
    for line in aligned(table):
        print(line)
    print()
    cuts = audits[0].cut_vertices
    for cut in cuts[:_NAMED]:
        print(f"If {cut.node} fails, this cuts off {cut_off(cut)}.")
    if len(cuts) > _NAMED:
        print(f"{len(cuts) - _NAMED} more nodes cut others off if they fail.")
    for audit in audits:
        print(f"{_way(audit).capitalize()}: {_advice(audit, said=audit is not audits[0] or bool(cuts))}")


def _way(audit: "Audit") -> str:
    return audit.name if audit.scheme == "groups" else audit.scheme


def _cells(found: "Coalitions") -> list[str]:
    examined = f"all {found.total:,}" if found.exact else f"{found.examined:,} of {found.total:,}, drawn"
    worst = ", ".join(found.coalition)
    if found.exposed:
        more = f" and {len(found.exposed) - 1} more" if len(found.exposed) > 1 else ""
        worst += f" → {found.exposed[0]}{more}"
    return [str(found.size), examined, f"{found.exposing:.1%}", f"{found.leverage:.3f}", worst]


def _advice(audit: "Audit", *, said: bool) -> str:
    """The advice; without the sentence about a failing node where that was ``said`` before."""
    if not (said and audit.cut_vertices):
        return audit.advice
    return audit.advice.partition(f" If {audit.cut_vertices[0].node} fails")[0]
