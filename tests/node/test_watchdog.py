"""The event loop's watchdog: it measures, and says what keeps the loop."""

import gc
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import pytest
import trio
import trio.testing

from p2pfl.gossip.events import Waiting
from p2pfl.node.monitoring.metered import Metered
from p2pfl.node.monitoring.metrics import Metrics
from p2pfl.node.monitoring.status_server import Page, StatusServer
from p2pfl.node.monitoring.watchdog import Watchdog, _what_runs, spare_the_collector
from p2pfl.node.shell import Work

LATE = 0.02


class Bell(logging.Handler):
    """Rung by the first line of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.rung = threading.Event()
        self.said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said = self.said or record.getMessage()
        self.rung.set()


@pytest.fixture
def bell() -> Iterator[Bell]:
    handler, logger = Bell(), logging.getLogger("p2pfl.node.monitoring.watchdog")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@dataclass
class Stubborn:
    """A page that keeps the loop until the bell rings."""

    bell: Bell

    async def show(self) -> Page:
        assert self.bell.rung.wait(30)
        return Page(b"at last")


def test_a_standstill_is_measured_and_what_keeps_the_loop_is_named(bell: Bell) -> None:
    delays: list[float] = []
    watchdog = Watchdog(delays.append, late=LATE)
    server = StatusServer({"/health": Stubborn(bell).show}, None)

    async def stand_still() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watchdog.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(server.serve, theirs)
            await ours.send_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            while not delays or max(delays) < LATE:
                await trio.testing.wait_all_tasks_blocked(0.001)
            nursery.cancel_scope.cancel()

    trio.run(stand_still)
    assert "the event loop has stood still for 0." in bell.said
    assert "node.monitoring.status_server._answer, line " in bell.said
    assert watchdog.worst == max(delays)


class Host:
    """Runs a loop that has nothing to do but to ask from a thread what it does."""

    def __init__(self) -> None:
        self.said = ""

    def waiting(self, _effect: Waiting) -> None:
        self.said = trio.run(trio.to_thread.run_sync, _what_runs, threading.get_ident())


def test_what_called_the_loop_is_not_what_keeps_it() -> None:
    host = Host()
    ours_below_the_loop = Metered(cast(Work, host), cast(Metrics, None))
    ours_below_the_loop.waiting(Waiting("for others"))
    assert host.said.startswith("no task runs; it waits for its turn")


def test_what_is_there_is_not_looked_through_again() -> None:
    try:
        spare_the_collector()
        assert gc.get_freeze_count() > 10_000
        assert len(gc.get_objects()) < 1_000
    finally:
        gc.unfreeze()
