"""What this node can be watched by, in the form of Prometheus: docs/metrics.md lists every name.

Counters of rounds begin with what the journal knows, so they do not fall at a restart. What is not known at
the moment is left out rather than shown as a number that it is not.
"""

import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import trio
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from p2pfl.node.monitoring.status import PHASES, Status
from p2pfl.node.storage.database import DATABASE
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.transport.types import Traffic

STEPS = ("train", "form", "contribute", "sum", "apply")
"""Of a round, one after the other: local training, forming the group, encoding with noise and the ledger,
the secure sum itself, taking the result over."""
_STEP_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second family for each counter, which says when this process began
_DELAY_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the figures come from that nobody counts.

    ``queued``: bytes waiting for peers; ``backlog``: events waiting for the protocol; ``ticket_expires``: in
    seconds since 1970, None if never; ``standstill``: for how many seconds the protocol has taken none of the
    events that wait; ``worst_delay``: of the event loop lately, in seconds; ``epsilon``: what the ledger
    comes to now, None if that is not known.
    """

    status: Status
    directory: Path
    connected: Callable[[], int]
    excluded: Callable[[], int]
    traffic: Callable[[], Traffic]
    queued: Callable[[], int]
    backlog: Callable[[], int]
    standstill: Callable[[], float]
    ticket_expires: Callable[[], float | None]
    worst_delay: Callable[[], float]
    epsilon: Callable[[], float | None]


class Metrics:
    """One node's figures, in a registry of their own."""

    def __init__(self, sources: Sources) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_Live(sources))
        ProcessCollector(registry=registry)
        self.completed = Counter(
            "p2pfl_rounds_completed",
            "Rounds completed here, by what they were for.",
            ("stage",),
            registry=registry,
        )
        self.skipped = Counter(
            "p2pfl_rounds_skipped",
            "Rounds skipped here; after_sending: masked data had left, so the ledger stays charged.",
            ("stage", "after_sending"),
            registry=registry,
        )
        self.steps = Histogram(
            "p2pfl_round_step_seconds",
            "How long the steps of a round took here.",
            ("step",),
            buckets=_STEP_SECONDS,
            registry=registry,
        )
        for step in STEPS:
            self.steps.labels(step)
        self.last_completed = Gauge(
            "p2pfl_last_completed_round_timestamp_seconds",
            "When a round was last completed here, in seconds since 1970; 0: not since the start.",
            registry=registry,
        )
        self.ledger_rows = Gauge(
            "p2pfl_ledger_rows", "Contributions written down in the ledger.", registry=registry
        )
        self.loop_delay = Histogram(
            "p2pfl_event_loop_delay_seconds",
            "How late the event loop woke up, measured twenty times a second.",
            buckets=_DELAY_SECONDS,
            registry=registry,
        )

    def recall(self, outcomes: Iterable[RoundOutcome], charges: int) -> None:
        """Count what happened before this start."""
        self.ledger_rows.set(charges)
        for outcome in outcomes:
            if outcome.completed:
                self.completed.labels(outcome.stage).inc()
            else:
                self.count_skipped(outcome.stage, outcome.sent_masked)

    def count_skipped(self, stage: str, after_sending: bool) -> None:
        """One more round was skipped; ``stage`` is empty if it was over before we had trained."""
        self.skipped.labels(stage or "unknown", "yes" if after_sending else "no").inc()

    def text(self) -> bytes:
        """All of them, in Prometheus' text form."""
        return generate_latest(self._registry)

    def families(self) -> Iterator[Metric]:
        """All of them."""
        return iter(self._registry.collect())


class _Live(Collector):
    """What is looked up when somebody asks."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        status = self._sources.status
        yield _labelled("p2pfl_info", "Who this is.", ("version", "peer", "federation", "privacy_mode"), [
            ((own_version(), status.peer, status.federation, status.privacy_mode), 1.0)
        ])  # fmt: skip
        yield _labelled("p2pfl_phase", "1 for the phase that the node is in.", ("phase",), [
            ((phase,), float(phase == status.phase)) for phase in PHASES
        ])  # fmt: skip
        yield _labelled("p2pfl_evaluation", "The federation's last evaluation that counts.", ("figure",), [
            ((figure,), float(value)) for figure, value in sorted(status.evaluation.items())
        ])  # fmt: skip
        for name, text, value in self._gauges():
            yield GaugeMetricFamily(name, text, value)
        traffic = self._sources.traffic()
        sent, received = "Bytes sent to peers, on the wire.", "Bytes received from peers, on the wire."
        yield CounterMetricFamily("p2pfl_sent_bytes", sent, traffic.wire_sent)
        yield CounterMetricFamily("p2pfl_received_bytes", received, traffic.wire_received)

    def _gauges(self) -> Iterator[tuple[str, str, float | None]]:
        sources, status = self._sources, self._sources.status
        expires, disk = sources.ticket_expires(), shutil.disk_usage(sources.directory)
        days = None if expires is None else (expires - time.time()) / 86_400
        for name, text, value in (
            ("epoch", "The epoch; -1 before the first.", status.epoch),
            ("round", "The round begun last; -1 before the first.", status.round),
            ("training_rounds_planned", "Training rounds of the agreement.", status.rounds_total),
            ("training_rounds_completed", "Of these, completed here.", status.training_completed),
            ("epsilon", "Privacy spent, by the ledger as it is now.", sources.epsilon()),
            ("epsilon_budget", "What the agreement allows.", status.epsilon_budget),
            ("epsilon_at_the_end", "Privacy spent at the planned end.", status.epsilon_at_the_end),
            ("delta", "The delta that goes with epsilon.", status.delta),
            ("connected_peers", "Members connected.", sources.connected()),
            ("excluded_peers", "Members that this node refuses for good.", sources.excluded()),
            ("outbox_bytes", "Messages waiting to be sent.", sources.queued()),
            ("backlog_events", "Events waiting for the protocol.", sources.backlog()),
            (
                "protocol_standstill_seconds",
                "For how long the protocol has taken none of the events that wait; 0 if none does.",
                sources.standstill(),
            ),
            (
                "event_loop_delay_worst_seconds",
                "The latest wake-up of the last minute or two.",
                sources.worst_delay(),
            ),
            ("trio_tasks", "Tasks of the event loop.", trio.lowlevel.current_statistics().tasks_living),
            ("threads", "Threads that Python knows of.", threading.active_count()),
            ("ticket_days_left", "Until the ticket expires; absent without one.", days),
            ("database_bytes", "Size of the journal and what is beside it.", _size(sources.directory)),
            ("disk_free_bytes", "Room left on the disk of the state directory.", disk.free),
        ):
            yield f"p2pfl_{name}", text, value


def _labelled(
    name: str, text: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _size(directory: Path) -> int:
    files = (directory / f"{DATABASE}{end}" for end in ("", "-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def open_files() -> int:
    """Descriptors of this process that are open: files, sockets, pipes."""
    return len(os.listdir("/proc/self/fd"))


@cache
def own_version() -> str:
    """The release of this p2pfl."""
    return version("p2pfl-node")
