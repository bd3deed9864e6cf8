"""The figures that a node shows: every one documented, each what happened, none that is not known."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import trio
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.events import (
    Agreed,
    Begin,
    Completed,
    Contribute,
    Contribution,
    EpochBegan,
    Evidence,
    Prepared,
    Skipped,
    Waiting,
)
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.monitoring.metered import Metered
from p2pfl.node.monitoring.metrics import STEPS, Metrics, Sources
from p2pfl.node.monitoring.status import Status
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.transport.types import Traffic

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
GROUP = (PeerId("A"), PeerId("B"), PeerId("C"))
DONE = RoundOutcome(0, "training", GROUP, GROUP, "", True, 0)


def sources(directory: Path, status: Status) -> Sources:
    return Sources(
        status=status,
        directory=directory,
        connected=lambda: 3,
        excluded=lambda: 0,
        traffic=lambda: Traffic(wire_sent=7, wire_received=8),
        queued=lambda: 9,
        backlog=lambda: 1,
        standstill=lambda: 0.0,
        ticket_expires=lambda: None,
        worst_delay=lambda: 0.25,
        epsilon=lambda: status.epsilon,
    )


@pytest.fixture
def status() -> Status:
    return Status(PeerId("A"), "f" * 64, phase="waiting", privacy_mode="none")


@pytest.fixture
def metrics(tmp_path: Path, status: Status) -> Metrics:
    return Metrics(sources(tmp_path, status))


def shown(metrics: Metrics) -> dict[str, float]:
    """Samples by name and labels, as a scrape reads them."""

    async def scrape() -> bytes:
        return metrics.text()

    text = trio.run(scrape).decode()
    return {
        sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def rows(families: Iterator[Metric]) -> Iterator[str]:
    for family in families:
        if family.name.startswith("p2pfl_"):
            name = family.name + "_total" * (family.type == "counter")
            labels = LABELS.get(family.name, "")
            yield f"| `{name}` | {family.type} | {labels} | {family.documentation} |"


LABELS = {
    "p2pfl_info": "`version`, `peer`, `federation`, `privacy_mode`",
    "p2pfl_phase": "`phase`: `starting`, `waiting`, `learning`, `done`",
    "p2pfl_evaluation": "`figure`: as the task measures",
    "p2pfl_rounds_completed": "`stage`",
    "p2pfl_rounds_skipped": "`stage`, `after_sending`: `yes`, `no`",
    "p2pfl_round_step_seconds": "`step`: " + ", ".join(f"`{step}`" for step in STEPS),
}


def test_every_figure_is_in_the_table(metrics: Metrics) -> None:
    async def collect() -> list[str]:
        return list(rows(metrics.families()))

    table = PAGE.read_text(encoding="utf-8").partition("| name | type |")[2].partition("\n\n")[0]
    assert table.splitlines()[2:] == trio.run(collect)


def test_what_is_shown_is_what_is_and_nothing_that_is_not_known(metrics: Metrics, status: Status) -> None:
    seen = shown(metrics)
    assert seen["p2pfl_phase waiting"] == 1
    assert seen["p2pfl_phase learning"] == 0
    assert seen["p2pfl_connected_peers"] == 3
    assert seen["p2pfl_sent_bytes_total"] == 7
    assert seen["p2pfl_trio_tasks"] >= 1
    assert seen["process_open_fds"] > 0
    assert not {"p2pfl_epsilon", "p2pfl_ticket_days_left"} & seen.keys()
    status.epsilon, status.evaluation = 0.5, {"accuracy": 0.75}
    seen = shown(metrics)
    assert (seen["p2pfl_epsilon"], seen["p2pfl_evaluation accuracy"]) == (0.5, 0.75)


def test_counters_go_on_where_the_journal_is(metrics: Metrics) -> None:
    lost = replace(DONE, survivors=(), reason="why not")
    metrics.recall([DONE, DONE, lost, replace(lost, stage="", sent_masked=False)], 3)
    seen = shown(metrics)
    assert seen["p2pfl_rounds_completed_total training"] == 2
    assert seen["p2pfl_rounds_skipped_total yes training"] == 1
    assert seen["p2pfl_rounds_skipped_total no unknown"] == 1
    assert seen["p2pfl_ledger_rows"] == 3


@dataclass
class Asked:
    """The node's side of a round; notes what it was asked."""

    names: list[str] = field(default_factory=list)

    async def prepare(self, effect: Begin) -> Prepared | None:
        self.names.append("prepare")
        return Prepared(effect.round, "training", 3, bytes(32))

    async def contribute(self, effect: Contribute) -> Contribution:
        self.names.append("contribute")
        return Contribution(effect.round, np.zeros(3, dtype=np.uint32))

    async def completed(self, effect: Completed) -> None:
        self.names.append("completed")

    async def agreed(self, effect: Agreed) -> None:
        self.names.append("agreed")

    async def skipped(self, effect: Skipped) -> None:
        self.names.append("skipped")

    async def evidence(self, effect: Evidence) -> None:
        self.names.append("evidence")

    def epoch_began(self, effect: EpochBegan) -> None:
        self.names.append("epoch_began")

    def waiting(self, effect: Waiting) -> None:
        self.names.append("waiting")


def test_work_is_passed_on_counted_and_timed(metrics: Metrics) -> None:
    asked, terms = Asked(), thresholds(3, 1)
    work = Metered(asked, metrics)

    async def live() -> None:
        work.epoch_began(EpochBegan(0, 0, GROUP))
        assert await work.prepare(Begin(1, GROUP)) == Prepared(1, "training", 3, bytes(32))
        assert (await work.contribute(Contribute(1, 0, GROUP, terms))).round == 1
        await work.completed(Completed(1, "training", np.zeros(3, np.uint32), GROUP, GROUP, terms))
        await work.agreed(Agreed(1, ()))
        await work.prepare(Begin(2, GROUP))
        await work.skipped(Skipped(2, "training", "why not", False))
        await work.evidence(Evidence(GROUP[1], "no", ()))
        work.waiting(Waiting("for others"))

    trio.run(live)
    round = "prepare contribute completed agreed"
    assert " ".join(asked.names) == f"epoch_began {round} prepare skipped evidence waiting"
    seen = shown(metrics)
    counts = {step: seen[f"p2pfl_round_step_seconds_count {step}"] for step in STEPS}
    assert counts == {"train": 2, "form": 1, "contribute": 1, "sum": 1, "apply": 1}
    assert seen["p2pfl_rounds_completed_total training"] == 1
    assert seen["p2pfl_rounds_skipped_total no training"] == 1
    assert seen["p2pfl_ledger_rows"] == 1
    assert seen["p2pfl_last_completed_round_timestamp_seconds"] > 1.7e9
