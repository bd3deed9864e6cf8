"""How late the event loop is, and what kept it; and whether the protocol handles what comes.

Training, SQLite and long sums run on other threads, but all of them share Python's lock, and one long call on
the loop keeps everybody waiting: deadlines, peers, health checks. A task measures how late it wakes; a thread
that does not depend on the loop looks where the loop is while it stands still.
"""

import gc
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import trio

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.05
LATE_SECONDS = 0.25
"""From here on the log says what ran."""
SWITCH_SECONDS = 0.001
"""How long a thread may keep Python's lock while another one waits. Python's own 5 ms make every wake-up of
the loop as late as that while a thread computes in Python, such as the accountant's."""
STALLED_SECONDS = 30.0
"""From here on a protocol that takes no event although one waits counts as dead."""
_LOOK_SECONDS = 1.0
_MINUTE = 60.0
_LOOP = "trio._core._run"


def spare_the_collector() -> None:
    """Take all that there is now out of what Python's garbage collector looks through: libraries are 350,000
    objects, and a full collection stops every thread for as long as that takes, a fifth of a second or more.
    To be called when what stays has been imported or made.
    """
    gc.freeze()


class Watchdog:
    """Measures the event loop that runs :meth:`run`; ``observe`` is told every delay, in seconds."""

    def __init__(self, observe: Callable[[float], None], late: float = LATE_SECONDS) -> None:
        self._observe = observe
        self._late = late
        self._beat = time.monotonic()
        self._since = self._beat
        self._worst = self._worst_before = 0.0
        self._stopped = threading.Event()

    @property
    def worst(self) -> float:
        """The longest delay of the last minute or two, in seconds."""
        return max(self._worst, self._worst_before)

    async def run(self) -> None:
        """Measure until cancelled."""
        thread = threading.Thread(target=self._look_on, args=(threading.get_ident(),), daemon=True)
        thread.start()
        try:
            while True:
                self._beat = time.monotonic()
                await trio.sleep(INTERVAL_SECONDS)
                self._note(max(0.0, time.monotonic() - self._beat - INTERVAL_SECONDS))
        finally:
            self._stopped.set()

    def _note(self, delay: float) -> None:
        now = time.monotonic()
        if now - self._since >= _MINUTE:
            self._since, self._worst_before, self._worst = now, self._worst, 0.0
        self._worst = max(self._worst, delay)
        self._observe(delay)

    def _look_on(self, loop: int) -> None:
        """On a thread of its own: say once of every standstill where the loop is."""
        told = 0.0
        while not self._stopped.wait(INTERVAL_SECONDS):
            beat = self._beat
            delay = time.monotonic() - beat - INTERVAL_SECONDS
            if delay > self._late and beat != told:
                told = beat
                log.warning("the event loop has stood still for %.2f s: %s", delay, _what_runs(loop))


async def tell_of_standstill(standstill: Callable[[], float], waiting: Callable[[], int]) -> None:
    """Say once of every ``standstill`` of the protocol, in seconds, that it lasts too long, and once that it
    is over; until cancelled. ``waiting``: events that wait meanwhile.
    """
    stalled = False
    while True:
        await trio.sleep(_LOOK_SECONDS)
        before, stalled = stalled, standstill() > STALLED_SECONDS
        if stalled and not before:
            log.error(
                "the protocol has handled nothing for %.0f s although %d events wait: this node takes part in"
                " no round; if it does not recover, restart it, and report what the log says",
                standstill(),
                waiting(),
            )
        if before and not stalled:
            log.warning("the protocol handles events again")


def _what_runs(loop: int) -> str:
    frames = sys._current_frames()
    here = threading.get_ident()
    others = [_place(frame) for thread, frame in frames.items() if thread not in (loop, here)]
    beside = "; ".join(sorted({place for place in others if place}))
    place = _place(frames[loop]) or "no task runs; it waits for its turn"
    return f"{place}; other threads: {beside}" if beside else place


def _place(frame: FrameType | None) -> str:
    """The innermost of our own lines under ``frame``; empty if there is none, or none in a task if that is
    trio's loop.
    """
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name == _LOOP and frame.f_code.co_name in ("run", "unrolled_run"):
            return ""  # what is further out called it, and waits for it to end
        if name.startswith("p2pfl.") and name != __name__:
            return f"{name.removeprefix('p2pfl.')}.{frame.f_code.co_name}, line {frame.f_lineno}"
        frame = frame.f_back
    return ""
