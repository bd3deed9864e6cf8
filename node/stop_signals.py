"""The signals that end a node, from its first moment on: SIGTERM, SIGINT, SIGHUP (its terminal closed)."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType

WORDS = "stopping; what was committed is kept"
STOP_SECONDS = 8.0


def stop_signals() -> tuple[signal.Signals, ...]:
    """Those that end this process. Without SIGHUP if whoever started it has it ignored, as nohup does."""
    stop = (signal.SIGTERM, signal.SIGINT)
    return stop if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*stop, signal.SIGHUP)


def end_at_once_on_stop() -> None:
    """For the time before the daemon listens to signals itself: end with status 0 and one line.

    An exception would do as well, if it did not have to find its way out of a half-imported library.
    """
    for number in stop_signals():
        signal.signal(number, _end)


def end_soon() -> None:
    """See to it that stopping takes seconds, whatever a peer, a disk or a gradient does meanwhile.

    What is committed is on disk at every moment, so simply ending is as good as a tidy goodbye.
    """
    watchdog = threading.Timer(STOP_SECONDS, os._exit, (0,))
    watchdog.daemon = True
    watchdog.start()


def _end(number: int, _frame: FrameType | None) -> None:
    with suppress(OSError):  # the terminal may be gone
        os.write(2, f"p2pfl: {signal.Signals(number).name}: {WORDS}\n".encode())
    os._exit(0)
