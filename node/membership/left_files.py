"""What is left for a running node in files: renewed tickets, and statements of issuers.

Both are looked for on threads that nothing else waits for. A mount whose server is gone keeps whoever looks,
for hours perhaps: it must cost neither a round nor the end of the node.
"""

import logging
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.events import Delivered, Event, Renewed
from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.revocations import Revocation
from p2pfl.node.config import NodeConfig
from p2pfl.node.errors import TicketProblem
from p2pfl.node.membership.admission import WARN_SECONDS, FederationAdmission, read_tickets
from p2pfl.node.membership.statements import FOLDER, delivered
from p2pfl.node.monitoring.status import Status

log = logging.getLogger(__name__)

STATEMENT_SECONDS = 1.0
TICKET_SECONDS = 2.0
HANGING_SECONDS = 30.0
"""How long a look may take until the log says so."""
_DAY = 86_400.0

_T = TypeVar("_T")


class LeftFiles:
    """Looks at the ticket and the statements of the node of ``config``, and hands what is new to ``feed``."""

    def __init__(
        self,
        config: NodeConfig,
        status: Status,
        admission: FederationAdmission,
        feed: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._config = config
        self._status = status
        self._admission = admission
        self._feed = feed

    async def take_statements(self, manifest: Manifest) -> None:
        """What issuers state, and the operator delivers; a file goes when its content is in the journal."""
        state, look = self._config.state, _Look(self._config.state / FOLDER)
        while True:
            for path, lines in await look(lambda: [*delivered(state, manifest, manifest.digest)]) or ():
                if self._admission.is_proved_against(lines[0].peer):
                    await look(partial(path.unlink, missing_ok=True))
                else:
                    await self._feed(Delivered(Revocation(PeerId(self._status.peer), lines)))
            await trio.sleep(STATEMENT_SECONDS)

    async def watch_ticket(self) -> None:
        """Take a renewed ticket from the file, and warn before the one in use expires."""
        path, warned = self._config.ticket, -math.inf
        look, seen = _Look(path), None  # so the first look takes what was renewed while the node started
        while True:
            expires = self._status.ticket_expires = self._admission.expires
            left = math.inf if expires is None else expires - time.time()
            if left < WARN_SECONDS and trio.current_time() >= warned + _DAY:
                warned = trio.current_time()
                log.warning("this node's ticket expires in %.1f days: ask an issuer for another", left / _DAY)
            await trio.sleep(TICKET_SECONDS)
            if path is not None:
                stamp = await look(partial(_stamp, path))
                if stamp != seen and await self._renew_ticket(path, look):
                    seen = stamp

    async def _renew_ticket(self, path: Path, look: "_Look") -> bool:
        """Whether the file could be looked at, whatever is in it."""
        try:
            tickets = await look(partial(read_tickets, path))
            renewed = tickets is not None and self._admission.renew(tickets)
        except TicketProblem as error:
            log.error("%s; this node goes on with the ticket that it had", error.what)
            return True
        if renewed:
            log.info("the ticket was renewed")
            await self._feed(Renewed(self._admission.shown_ticket))
        return tickets is not None


class _Look:
    """Looks at ``path``, on one thread at a time, which is left behind if the node ends meanwhile."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._one = trio.CapacityLimiter(1)
        self._hangs = False

    async def __call__(self, look: Callable[[], _T]) -> _T | None:
        """What ``look`` returns; None if that is not known within HANGING_SECONDS. Raises what it raises."""
        found: _T | None = None
        with trio.move_on_after(HANGING_SECONDS) as scope:
            found = await trio.to_thread.run_sync(  # type: ignore[call-arg]  # the stubs are of an older trio
                look, abandon_on_cancel=True, limiter=self._one
            )
        if scope.cancelled_caught and not self._hangs:
            log.error(
                "%s: no answer for %g s, its mount hangs: the node goes on without",
                self._path,
                HANGING_SECONDS,
            )
        self._hangs = scope.cancelled_caught
        return found


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a file does."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
