"""``p2pfl privacy``: epsilon, spent or planned, and what is left of it if more members collude than was
assumed.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pfl.gossip.manifest import Manifest
    from p2pfl.node.accountant import Spent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl privacy``."""
    parser.description = (
        "Say what this node has spent of its privacy budget, from its ledger; or, with --federation, what a"
        " manifest will cost before anybody runs it. The ladder shows epsilon if more members of a group"
        " pool what they know than was assumed."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="FILE", type=Path, help="a node's TOML: report its ledger")
    what.add_argument("--federation", metavar="FILE", type=Path, help="a manifest: report what it will cost")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    report = _planned(options.federation) if options.federation is not None else _spent(options.config)
    if options.json:
        print(json.dumps(report.as_dict(), indent=1))
        return 0
    for line in report.lines():
        print(line)
    return 0


@dataclass(frozen=True, slots=True)
class _Report:
    """``verb`` is "spent" or "planned"; ``rungs`` are (colluders, epsilon)."""

    manifest: "Manifest"
    verb: str
    total: "Spent"
    rungs: "Sequence[tuple[int, Spent]]"

    def as_dict(self) -> dict[str, object]:
        """For JSON: an infinite epsilon is null."""
        privacy = self.manifest.privacy
        if privacy.mode == "none":
            return {"mode": "none", "epsilon": None}
        return {
            "mode": privacy.mode,
            "delta": privacy.delta,
            "budget": privacy.epsilon,
            "epsilon": _finite(self.total.pld),
            "epsilon_rdp": _finite(self.total.rdp),
            "colluders": self.manifest.groups.colluders,
            "ladder": [
                {"colluders": colluders, "epsilon": _finite(cost.pld), "epsilon_rdp": _finite(cost.rdp)}
                for colluders, cost in self.rungs
            ],
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        from p2pfl.terminal import alarm

        privacy = self.manifest.privacy
        yield f"federation: {self.manifest.name} ({self.manifest.federation_id[:12]}…)"
        if privacy.mode == "none":
            yield f"mode: {alarm('none: there is no epsilon', sys.stdout)}"
            return
        yield f"mode: {privacy.mode}, for every single record"
        yield (
            f"epsilon {self.verb}: {self.total.pld:.3f} of {privacy.epsilon:g}, at delta {privacy.delta:g}"
            f" (Rényi accounting, a looser bound and a cross-check: {self.total.rdp:.3f})"
        )
        for colluders, cost in self.rungs:
            mark = "  (assumed)" if colluders == self.manifest.groups.colluders else ""
            yield f"  if {colluders} of a group collude: {cost.pld:.3f}{mark}"
        groups = self.manifest.groups
        sizes = f"for the worst group of {groups.minimum} to {2 * groups.size - 1} members"
        yield f"the ladder is {sizes if self.verb == 'planned' else 'for the groups that there were'};"
        yield "  it stops rising where only this node's own noise is counted any more"


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def _planned(path: Path) -> _Report:
    from p2pfl.node.accountant import epsilon
    from p2pfl.node.manifest_file import read_manifest
    from p2pfl.planning import planned_ladder, planned_mechanisms

    manifest = read_manifest(path)
    total = epsilon(planned_mechanisms(manifest), manifest.privacy.delta)
    return _Report(manifest, "planned", total, planned_ladder(manifest))


def _spent(path: Path) -> _Report:
    from p2pfl.node.accountant import epsilon, ladder
    from p2pfl.opened import opened_state

    with opened_state(path) as state:
        mechanisms, delta = state.store.mechanisms(), state.manifest.privacy.delta
        return _Report(state.manifest, "spent", epsilon(mechanisms, delta), ladder(mechanisms, delta))
