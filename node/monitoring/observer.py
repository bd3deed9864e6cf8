"""How a running node is watched: status pages, metrics, the event loop's watchdog, what systemd is told.

Looks at the node, and changes nothing in it.
"""

import json
import logging
import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from p2pfl.crypto.identity import PeerId
from p2pfl.node.config import NodeConfig
from p2pfl.node.examination import examine
from p2pfl.node.membership.admission import FederationAdmission
from p2pfl.node.monitoring.metered import Metered
from p2pfl.node.monitoring.metrics import Metrics, Sources, open_files, resident_bytes
from p2pfl.node.monitoring.notify import Notifier
from p2pfl.node.monitoring.status import Status
from p2pfl.node.monitoring.status_server import Page, StatusServer, read_token
from p2pfl.node.monitoring.watchdog import STALLED_SECONDS, Watchdog, tell_of_standstill
from p2pfl.node.shell import Work
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.transport.network import Transport

if TYPE_CHECKING:  # libp2p's requirements bring stubs of trio that do not know trio.TaskStatus
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

EPSILON_SECONDS = 3.0
"""How long a page waits for the accountant before it goes without epsilon."""
EXAMINATION_SECONDS = 4.0
"""Until a page says which members have not answered; less than status pages may take."""
_STALLED = Page(b"stalled\n", status=503)
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


class Observer:
    """Everything that looks at one node; of these pages, config decides where and to whom."""

    def __init__(
        self,
        config: NodeConfig,
        status: Status,
        directory: Path,
        transport: Transport,
        admission: FederationAdmission,
    ) -> None:
        """Raises ConfigError if the token file cannot be used."""
        token = None if config.status_token_file is None else read_token(config.status_token_file)
        self._endpoint = config.status_listen
        self._status = status
        self._transport = transport
        self._backlog: Callable[[], int] = lambda: 0
        self._spent: Callable[[], float] | None = None
        self._accountant = trio.CapacityLimiter(1)
        self._epsilon: float | None = None
        self.notifier = Notifier()
        sources = Sources(
            status=status,
            directory=directory,
            connected=lambda: len(transport.connected),
            excluded=lambda: len(admission.excluded),
            traffic=transport.traffic,
            queued=lambda: transport.queued,
            backlog=self._waiting,
            standstill=lambda: transport.standstill,
            ticket_expires=lambda: admission.expires,
            worst_delay=lambda: self._watchdog.worst,
            epsilon=lambda: self._epsilon,
        )
        self._metrics = Metrics(sources)
        self._watchdog = Watchdog(self._metrics.loop_delay.observe)
        pages = {
            "/metrics": self._show_metrics,
            "/status": self._show_status,
            "/examination": self._show_examination,
        }
        self._server = StatusServer(
            {**pages, "/health": self._show_health, "/ready": self._show_ready}, token
        )

    async def run(self, *, task_status: "TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Watch until cancelled. Raises NetworkError if the status pages cannot be served."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watchdog.run)
            nursery.start_soon(tell_of_standstill, lambda: self._transport.standstill, self._waiting)
            nursery.start_soon(self.notifier.keep_telling, self._in_one_line)
            if self._endpoint is not None:
                where = await nursery.start(self._server.run, self._endpoint)
                self._status.status_at = [where.host, where.port]
                log.info("status pages at http://%s", where)
            task_status.started()

    def metered(
        self, work: Work, outcomes: Iterable[RoundOutcome], charges: int, spent: Callable[[], float] | None
    ) -> Work:
        """``work``, counted and timed from now on; ``outcomes`` and ``charges`` are what was before.

        ``spent`` computes epsilon, on another thread; None in a mode without one.
        """
        self._spent = spent
        self._metrics.recall(outcomes, charges)
        return Metered(work, self._metrics)

    def watch_backlog(self, backlog: Callable[[], int]) -> None:
        """``backlog`` counts the events that wait for the protocol, beside those in the transport."""
        self._backlog = backlog

    def _waiting(self) -> int:
        return self._transport.waiting + self._backlog()

    @property
    def _stalled(self) -> bool:
        return self._transport.standstill > STALLED_SECONDS

    async def _show_metrics(self) -> Page:
        self._epsilon = await self._epsilon_now()
        return Page(self._metrics.text(), _EXPOSITION)

    async def _show_status(self) -> Page:
        traffic, epsilon = self._transport.traffic(), await self._epsilon_now()
        live = {
            "connected": len(self._transport.connected),
            "bytes_sent": traffic.wire_sent,
            "bytes_received": traffic.wire_received,
            "epsilon": None if epsilon is None or math.isinf(epsilon) else epsilon,
            "process": {
                "resident_bytes": resident_bytes(),
                "open_files": open_files(),
                "tasks": trio.lowlevel.current_statistics().tasks_living,
                "threads": threading.active_count(),
                "loop_delay_worst_seconds": self._watchdog.worst,
            },
        }
        text = json.dumps({**asdict(self._status), **live}, allow_nan=False)
        return Page(text.encode(), "application/json")

    async def _show_examination(self) -> Page:
        """What `p2pfl doctor` asks a running node for: a look at everybody who is connected, now."""
        status, peers = self._status, self._transport.connected
        seconds = EXAMINATION_SECONDS
        found = await examine(
            self._ask, peers, bytes.fromhex(status.federation), PeerId(status.peer), seconds=seconds
        )
        return Page(json.dumps([one.as_dict() for one in found]).encode(), "application/json")

    async def _ask(self, peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        return await self._transport.request(
            peer, name, body, max_response=most, seconds=2 * EXAMINATION_SECONDS
        )

    async def _show_health(self) -> Page:
        return _STALLED if self._stalled else Page(b"ok\n")

    async def _show_ready(self) -> Page:
        if self._stalled:
            return _STALLED
        phase = self._status.phase
        return Page(f"{phase}\n".encode(), status=503 if phase == "starting" else 200)

    async def _epsilon_now(self) -> float | None:
        """What the ledger comes to, as of the moment of asking; None if that takes too long."""
        if self._status.epsilon is not None or self._spent is None:
            return self._status.epsilon
        with trio.move_on_after(EPSILON_SECONDS):
            # What it computed is remembered there, so that the next one who asks may have it.
            return await trio.to_thread.run_sync(  # type: ignore[call-arg]  # the stubs are of an older trio
                self._spent, abandon_on_cancel=True, limiter=self._accountant
            )
        return None  # type: ignore[unreachable]  # they do not know that a scope can end early, either

    def _in_one_line(self) -> str:
        status, here = self._status, len(self._transport.connected)
        where = f"round {status.round}, " if status.phase == "learning" else ""
        phase = "stalled" if self._stalled else status.phase
        return f"{phase}, {where}{here} members connected"
