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

from p2pfl.commands import privacy_attack, privacy_plan
from p2pfl.node.errors import UsageError

if TYPE_CHECKING:
    from p2pfl.gossip.manifest import Manifest
    from p2pfl.node.accountant import Spent
    from p2pfl.node.storage.carried import Carried
    from p2pfl.releases import Release


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl privacy``."""
    parser.description = (
        "Say what this node has spent of its privacy budget, from its ledger; or, with --federation, what a"
        " manifest will cost before anybody runs it; or, with plan, what noise a promise takes before there"
        " is a manifest. The ladder shows epsilon if more members of a group pool what they know than was"
        " assumed."
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--config", metavar="FILE", type=Path, help="a node's TOML: report its ledger")
    what.add_argument("--federation", metavar="FILE", type=Path, help="a manifest: report what it will cost")
    parser.add_argument("--ledger", action="store_true", help="list every release, with --config")
    parser.add_argument("--json", action="store_true", help="print JSON, always with every release")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    plan = commands.add_parser(
        "plan", help="from a promise to the noise it takes, and its cost in accuracy", allow_abbrev=False
    )
    privacy_plan.add_arguments(plan)
    plan.set_defaults(run=privacy_plan.run, parser=plan)
    attack = commands.add_parser(
        "attack", help="guess who was in the data, and bound epsilon from below", allow_abbrev=False
    )
    privacy_attack.add_arguments(attack)
    attack.set_defaults(run=privacy_attack.run, parser=attack)


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    if options.ledger and options.config is None:
        raise UsageError("--ledger needs --config", "a manifest has no ledger: name the config of a node")
    if options.federation is not None:
        report: _Planned | _Spent | _Used = _planned(options.federation)
    elif options.config is not None:
        report = _spent(options.config, options.ledger)
    else:
        hint = "see `p2pfl privacy --help`, or `p2pfl privacy plan --help`"
        raise UsageError("one of the arguments --config --federation is required", hint)
    if options.json:
        print(json.dumps(report.as_dict(), indent=1))
        return 0
    for line in report.lines():
        print(line)
    return 0


@dataclass(frozen=True, slots=True)
class _Planned:
    """What a manifest will cost. ``rungs`` are (colluders, epsilon)."""

    manifest: "Manifest"
    total: "Spent"
    rungs: "Sequence[tuple[int, Spent]]"

    def as_dict(self) -> dict[str, object]:
        """For JSON: an infinite epsilon is null."""
        if self.manifest.privacy.mode == "none":
            return {"mode": "none", "epsilon": None}
        return _common(self.manifest, self.total, self.rungs)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from _heading(self.manifest)
        if self.manifest.privacy.mode == "none":
            return
        yield _epsilon(self.manifest, "planned", self.total)
        groups = self.manifest.groups
        yield _COLUMNS
        yield from _ladder(groups.colluders, self.rungs)
        yield f"the ladder is for the worst group of {groups.minimum} to {2 * groups.size - 1} members;"
        yield _STOPS


@dataclass(frozen=True, slots=True)
class _Spent:
    """What a node has spent. ``latest``: epsilon of the last round that cost anything, by itself. ``end``: if
    the rounds to come are as planned, of which ``without`` will be without this node's records. ``voted``:
    whether the members voted to end before, so that it is ``end`` that holds, for ``rungs`` too. ``carried``:
    from earlier federations, each with what that cost.
    """

    manifest: "Manifest"
    releases: "Sequence[Release]"
    latest: "tuple[Release, Spent] | None"
    total: "Spent"
    end: "Spent"
    without: int
    rungs: "Sequence[tuple[int, Spent]]"
    voted: bool
    carried: "Sequence[tuple[Carried, Spent]]"
    list_all: bool

    @property
    def holds(self) -> "Spent":
        """The epsilon that the node may count on: no less than at the planned end, once there was a vote."""
        return self.end if self.voted else self.total

    def as_dict(self) -> dict[str, object]:
        """For JSON: an infinite epsilon is null."""
        latest = None
        if self.latest is not None:
            release, cost = self.latest
            latest = {"round": release.round, "epsilon": _finite(cost.pld), "epsilon_rdp": _finite(cost.rdp)}
        return {
            **_common(self.manifest, self.holds, self.rungs),
            "latest": latest,
            "epsilon_so_far": _finite(self.total.pld),
            "epsilon_rdp_so_far": _finite(self.total.rdp),
            "epsilon_at_the_end": _finite(self.end.pld),
            "epsilon_rdp_at_the_end": _finite(self.end.rdp),
            "rounds_without_records": self.without,
            "ended_by_vote": self.voted,
            "carried": [
                {
                    "federation": one.federation.hex(),
                    "name": one.name,
                    "epsilon": _finite(cost.pld),
                    "epsilon_rdp": _finite(cost.rdp),
                }
                for one, cost in self.carried
            ],
            "releases": [release.as_dict() for release in self.releases],
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from _heading(self.manifest)
        yield _epsilon(self.manifest, "at the planned end" if self.voted else "spent", self.holds)
        yield _COLUMNS
        for one, cost in self.carried:
            yield _row(f"carried over from {one.federation.hex()[:12]}…", cost) + f"  ({one.name})"
        if self.latest is not None:
            release, cost = self.latest
            yield _row(f"the last round, {release.round} ({release.stage})", cost)
        yield _row("so far", self.total)
        yield _row("at the planned end", self.end)
        if self.without:
            yield f"the budget will end first: {self.without} rounds will be without this node's records"
        if self.voted:
            yield "a vote has ended the federation: what holds is epsilon at the planned end, because when to"
            yield "  stop was read off what had been released, and the figure so far knows nothing of that"
        yield from _ladder(self.manifest.groups.colluders, self.rungs)
        more = ", and those to the planned end" if self.voted else ""
        yield f"the ladder is for the groups that there were{more};"
        yield _STOPS
        if self.list_all:
            yield from _listed(self.releases)


@dataclass(frozen=True, slots=True)
class _Used:
    """What a node has contributed where nothing is promised; ``carried``: from earlier federations."""

    manifest: "Manifest"
    releases: "Sequence[Release]"
    carried: "Sequence[Carried]"
    list_all: bool

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "mode": "none",
            "epsilon": None,
            "carried": [{"federation": one.federation.hex(), "name": one.name} for one in self.carried],
            "releases": [release.as_dict() for release in self.releases],
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        yield from _heading(self.manifest)
        for one in self.carried:
            yield f"records were used before, in {one.name} ({one.federation.hex()[:12]}…), mode {one.mode};"
            yield "  `p2pfl privacy` on that node's directory says what it cost"
        if self.list_all:
            yield from _listed(self.releases)


def _listed(releases: "Sequence[Release]") -> Iterator[str]:
    from p2pfl.releases import HEADER

    yield HEADER
    yield from (release.line() for release in releases)


_COLUMNS = f"{'':40}{'by PLD':>10}{'by RDP':>10}"
_STOPS = "  it stops rising where only this node's own noise is counted any more"


def _common(manifest: "Manifest", total: "Spent", rungs: "Sequence[tuple[int, Spent]]") -> dict[str, object]:
    privacy = manifest.privacy
    return {
        "mode": privacy.mode,
        "delta": privacy.delta,
        "budget": privacy.epsilon,
        "epsilon": _finite(total.pld),
        "epsilon_rdp": _finite(total.rdp),
        "colluders": manifest.groups.colluders,
        "ladder": [
            {"colluders": colluders, "epsilon": _finite(cost.pld), "epsilon_rdp": _finite(cost.rdp)}
            for colluders, cost in rungs
        ],
    }


def _heading(manifest: "Manifest") -> Iterator[str]:
    from p2pfl.terminal import alarm

    yield f"federation: {manifest.name} ({manifest.federation_id[:12]}…)"
    mode = manifest.privacy.mode
    if mode == "none":
        yield f"mode: {alarm('none: there is no epsilon', sys.stdout)}"
        return
    unit = "all records of an organisation together" if mode == "organisation" else "every single record"
    yield f"mode: {mode}, for {unit}"


def _epsilon(manifest: "Manifest", verb: str, total: "Spent") -> str:
    privacy = manifest.privacy
    return (
        f"epsilon {verb}: {total.pld:.3f} of {privacy.epsilon:g}, at delta {privacy.delta:g}"
        f" (by PLD, which counts; RDP, a looser bound beside it: {total.rdp:.3f})"
    )


def _ladder(assumed: int, rungs: "Sequence[tuple[int, Spent]]") -> Iterator[str]:
    for colluders, cost in rungs:
        mark = "  (assumed)" if colluders == assumed else ""
        yield _row(f"if {colluders} of a group collude", cost) + mark


def _row(name: str, cost: "Spent") -> str:
    return f"  {name + ':':38}{cost.pld:10.3f}{cost.rdp:10.3f}"


def _finite(epsilon: float) -> float | None:
    return epsilon if math.isfinite(epsilon) else None


def _planned(path: Path) -> _Planned:
    from p2pfl.node.accountant import epsilon
    from p2pfl.node.outlook import planned_mechanisms
    from p2pfl.node.storage.manifest_file import read_manifest
    from p2pfl.planning import planned_ladder

    manifest = read_manifest(path)
    total = epsilon(planned_mechanisms(manifest), manifest.privacy.delta)
    return _Planned(manifest, total, planned_ladder(manifest))


def _spent(path: Path, list_all: bool) -> _Spent | _Used:
    from p2pfl.node.accountant import epsilon, ladder
    from p2pfl.node.outlook import holding, is_voted, outlook
    from p2pfl.opened import opened_state
    from p2pfl.releases import carried_releases, releases

    with opened_state(path) as state:
        manifest, delta = state.manifest, state.manifest.privacy.delta
        charges, outcomes, mechanisms = state.store.charges(), state.store.rounds(), state.store.mechanisms()
        place, carried = state.store.place, state.store.carried()
        listed = releases(manifest, charges, outcomes)
        if manifest.privacy.mode == "none":
            return _Used(manifest, [*carried_releases(carried), *listed], carried, list_all)
        ahead = outlook(manifest, charges, outcomes, place, carried)
        paid = [(one, one.mechanism) for one in listed if one.mechanism is not None]
        return _Spent(
            manifest,
            [*carried_releases(carried), *listed],
            (paid[-1][0], epsilon([paid[-1][1]], delta)) if paid else None,
            epsilon(mechanisms, delta),
            epsilon(ahead.mechanisms, delta),
            ahead.without_records,
            ladder(holding(manifest, state.store), delta),
            is_voted(manifest, state.store),
            [(one, epsilon(one.mechanisms, delta)) for one in carried],
            list_all,
        )
