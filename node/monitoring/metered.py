"""The node's side of every round, with a stop watch."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

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
from p2pfl.node.monitoring.log_fields import about_round
from p2pfl.node.monitoring.metrics import Metrics
from p2pfl.node.shell import Work


class Metered:
    """Does what ``work`` does, and counts and times it in ``metrics``. Implements
    :class:`p2pfl.node.shell.Work`.
    """

    def __init__(self, work: Work, metrics: Metrics) -> None:
        self._work = work
        self._metrics = metrics
        self._lap = 0.0

    async def prepare(self, effect: Begin) -> Prepared | None:
        with about_round(effect.round), self._timed("train"):
            return await self._work.prepare(effect)

    async def contribute(self, effect: Contribute) -> Contribution:
        self._observe("form")
        with about_round(effect.round), self._timed("contribute"):
            contribution = await self._work.contribute(effect)
        self._metrics.ledger_rows.inc()
        return contribution

    async def completed(self, effect: Completed) -> None:
        self._observe("sum")
        with about_round(effect.round), self._timed("apply"):
            await self._work.completed(effect)
        self._metrics.completed.labels(effect.stage).inc()
        self._metrics.last_completed.set(time.time())

    async def agreed(self, effect: Agreed) -> None:
        with about_round(effect.round):
            await self._work.agreed(effect)

    async def skipped(self, effect: Skipped) -> None:
        with about_round(effect.round):
            await self._work.skipped(effect)
        self._metrics.count_skipped(effect.stage, effect.sent_masked)

    async def evidence(self, effect: Evidence) -> None:
        await self._work.evidence(effect)

    def epoch_began(self, effect: EpochBegan) -> None:
        self._work.epoch_began(effect)

    def waiting(self, effect: Waiting) -> None:
        self._work.waiting(effect)

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        self._lap = time.monotonic()
        yield
        self._observe(step)

    def _observe(self, step: str) -> None:
        """``step`` ends now; it began when the last one ended."""
        now = time.monotonic()
        self._metrics.steps.labels(step).observe(now - self._lap)
        self._lap = now
