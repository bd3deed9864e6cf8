"""What came of a scenario: a row of whole numbers, tables for people, and what changed since another time."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from p2pfl.gossip.wire import Limits
from p2pfl.simulation.protocol_engine import ProtocolFederation, Sums
from p2pfl.simulation.protocol_nodes import identities, manifest_of
from p2pfl.simulation.scenario import SHIPPED, Scenario, names, read
from p2pfl.simulation.trace import Recorder
from p2pfl.tables import aligned, megabytes

BASELINE: Final = SHIPPED / "baseline.json"
LARGEST_IN_TABLE: Final = 64
"""Nodes of the largest scenario that belongs to the table of all: crowds are run by name."""
Row = dict[str, int]


@dataclass(frozen=True, slots=True)
class NodeEnd:
    """What became of one node. ``missed``: rounds that it neither completed nor skipped: it was away, or had
    no group. ``finished_ms``: when it was done with all rounds, None if never.
    """

    node: int
    byzantine: bool
    starts: int
    completed: int
    skipped: int
    missed: int
    finished_ms: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a scenario. Times are simulated.

    ``finished``: whether all honest nodes that were there at the end did all rounds; ``ended_ms``: when the
    last of them was done, or when the simulation was stopped. ``messages``, ``bytes``: sent, by kind.
    ``skips``: reasons of honest nodes. ``wrong``: sums that were not those of their survivors, or not the
    same for two members. ``accused``: against whom how many hold signed evidence; ``excluded`` of them by a
    proof for everybody. ``refused``: messages that broke the protocol, of which there is no more than that.
    """

    about: str
    finished: bool
    ended_ms: int
    rounds: int
    epochs: int
    nodes: tuple[NodeEnd, ...]
    messages: Mapping[str, int]
    bytes: Mapping[str, int]
    skips: Mapping[str, int]
    wrong: tuple[str, ...]
    accused: Mapping[int, int]
    excluded: tuple[int, ...]
    refused: int

    @property
    def row(self) -> Row:
        """The report in whole numbers, rounds of honest nodes only."""
        honest = [node for node in self.nodes if not node.byzantine]
        return {
            "finished": int(self.finished),
            "ended_ms": self.ended_ms,
            "completed": sum(node.completed for node in honest),
            "skipped": sum(node.skipped for node in honest),
            "missed": sum(node.missed for node in honest),
            "wrong": len(self.wrong),
            "epochs": self.epochs,
            "messages": sum(self.messages.values()),
            "bytes": sum(self.bytes.values()),
            "accused": len(self.accused),
            "excluded": len(self.excluded),
            "refused": self.refused,
        }

    @property
    def table(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def perform(scenario: Scenario, *, trace: Recorder | None = None, base: Path = Path()) -> Report:
    """Run ``scenario``; paths in it are relative to ``base``.

    Raises FieldError or TopologyError for a scenario that does not fit together.
    """
    sums = Sums(scenario, [identity.peer_id for identity in identities(scenario.nodes)])
    limits, manifest = Limits(scenario.elements), manifest_of(scenario)
    federation = ProtocolFederation(scenario, sums, manifest, limits, trace=trace, base=base).run()
    return _report(federation, sums)


def _report(federation: ProtocolFederation, sums: Sums) -> Report:
    honest, net = federation.honest, federation.net
    rounds = federation.scenario.rounds
    numbers = {node.number for node in honest}
    times = [node.finished_at for node in honest if node.finished_at is not None]
    ended = max(times) if federation.finished else net.now
    against: dict[int, set[int]] = {}
    for holder, accused, _ in federation.evidence:
        if holder in numbers:
            against.setdefault(accused, set()).add(holder)
    ends = tuple(
        NodeEnd(
            node.number,
            node.number not in numbers,
            node.lives,
            len(node.completed),
            len(node.skipped),
            max(0, rounds - len({*node.completed, *(round for round, _ in node.skipped)})),
            None if node.finished_at is None else round(1000 * node.finished_at),
        )
        for node in federation.nodes
    )
    return Report(
        federation.scenario.about,
        federation.finished,
        round(1000 * ended),
        rounds,
        max(node.epochs for node in honest),
        ends,
        dict(sorted(net.messages.items())),
        dict(sorted(net.bytes.items())),
        dict(Counter(reason for node in honest for _, reason in node.skipped).most_common()),
        tuple(sums.wrong),
        {accused: len(holders) for accused, holders in sorted(against.items())},
        tuple(sorted({federation.number_of(peer) for node in honest for peer in node.accusations})),
        len(net.errors),
    )


def lines(report: Report) -> Iterator[str]:
    """One report for people."""
    row = report.row
    yield report.about
    yield ""
    yield from aligned(
        [
            ["node", "rounds completed", "skipped", "missed", "starts", "done after", ""],
            *([*map(str, _cells(node)), "byzantine" if node.byzantine else ""] for node in report.nodes),
        ]
    )
    yield ""
    yield from aligned(
        [
            ["kind", "messages", "bytes"],
            *(
                [kind, f"{report.messages[kind]:,}", megabytes(report.bytes[kind])]
                for kind in report.messages
            ),
            ["all", f"{row['messages']:,}", megabytes(row["bytes"])],
        ]
    )
    yield ""
    yield from _sentences(report)


def _cells(node: NodeEnd) -> Sequence[object]:
    done = "never" if node.finished_ms is None else f"{node.finished_ms / 1000:.1f} s"
    return node.node, node.completed, node.skipped, node.missed, node.starts, done


def _sentences(report: Report) -> Iterator[str]:
    how = "all who could be were done" if report.finished else "it was stopped, not all were done"
    yield f"after {report.ended_ms / 1000:.1f} simulated seconds and {report.epochs} epochs {how}"
    for reason, count in report.skips.items():
        yield f"skipped {count} times: {reason}"
    for accused, holders in report.accused.items():
        what = "is excluded" if accused in report.excluded else "is accused"
        yield f"node {accused} {what}: {holders} honest nodes hold what it signed"
    if report.refused:
        yield f"{report.refused} messages broke the protocol and were refused"
    if report.wrong:
        yield f"{len(report.wrong)} sums were wrong: {', '.join(report.wrong[:5])}"
    else:
        yield "every sum was that of its survivors, the same for all members"


def in_table() -> tuple[str, ...]:
    """Shipped scenarios that are run together."""
    return tuple(name for name in names() if read(name).nodes <= LARGEST_IN_TABLE)


def table_lines(rows: Mapping[str, Row]) -> Iterator[str]:
    """Rows of several scenarios, for people."""
    head = ["scenario", *next(iter(rows.values()))]
    yield from aligned([head, *([name, *map(str, row.values())] for name, row in rows.items())])


def baseline() -> dict[str, Row]:
    """The rows as they were when the table was last written. Raises OSError or ValueError without any."""
    stored: dict[str, Row] = json.loads(BASELINE.read_text(encoding="utf-8"))
    return stored


def changes(before: Mapping[str, Row], after: Mapping[str, Row]) -> Iterator[str]:
    """What is different, a line for each number."""
    for name in sorted({*before, *after}):
        if name not in after or name not in before:
            yield f"{name}: {'is gone' if name not in after else 'is new'}"
            continue
        one, other = before[name], after[name]
        for key in {**one, **other}:
            was, now = one.get(key), other.get(key)
            if was != now:
                by = f" ({100 * (now - was) / was:+.1f} %)" if was and now is not None else ""
                yield f"{name}: {key} was {was}, is {now}{by}"
