"""How far a long computation is, on standard error."""

import sys
import time
from collections.abc import Callable

from p2pfl.terminal import note

_WIDTH = 30


class Progress:
    """A line that is redrawn on a terminal; elsewhere a message whenever something else begins.

    ``total``: work of all steps, in any unit: their number, if they take about as long each.
    """

    def __init__(self, total: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock, self._began = total, clock, clock()
        self._done, self._what = 0.0, ""
        self._terminal = sys.stderr.isatty()

    def begin(self, what: str) -> None:
        """What the next steps are about."""
        self._what = what
        if not self._terminal:
            note(f"{what}{self._left()}")

    def step(self, work: float = 1) -> None:
        """So much more is done."""
        self._done += work
        if self._terminal:
            filled = int(_WIDTH * min(self._done, self._total) / self._total)
            bar = "█" * filled + "·" * (_WIDTH - filled)
            print(f"\r\x1b[K{bar}  {self._what}{self._left()}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the terminal as it was."""
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _left(self) -> str:
        """The time that the rest will take, if it goes on like this."""
        if self._done == 0:
            return ""
        each = (self._clock() - self._began) / self._done
        seconds = max(0.0, each * (self._total - self._done))
        return f", {seconds:.0f} s left" if seconds < 120 else f", {seconds / 60:.0f} min left"
