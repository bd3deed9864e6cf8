"""What systemd is told of this process: that it is ready, that it lives, that it ends (sd_notify(3)).

A datagram to the socket that NOTIFY_SOCKET names; without one, nobody is told anything.
"""

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

import trio

_TELL_SECONDS = 10.0
_SECONDS = 0.5
"""How long one datagram may wait for room in systemd's queue, while the event loop waits with it."""


class Notifier:
    """Tells whoever started this process, if it asked to be told.

    ``watchdog_seconds``: it ends the process after so long without a sign of life; None if it does not.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        name = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + name[1:] if name.startswith("@") else name  # an abstract name, see unix(7)
        microseconds = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_seconds = int(microseconds) / 1e6 if microseconds.isdigit() and ours and name else None

    def ready(self) -> None:
        """The node listens."""
        self._say("READY=1")

    def stopping(self) -> None:
        """The end has begun."""
        self._say("STOPPING=1")

    async def keep_telling(self, status: Callable[[], str]) -> None:
        """Show that the event loop runs, and ``status`` for `systemctl status`, until cancelled."""
        if not self._address:
            return
        while True:
            self._say(f"STATUS={status()}\nWATCHDOG=1")
            await trio.sleep(_TELL_SECONDS if self.watchdog_seconds is None else self.watchdog_seconds / 3)

    def _say(self, line: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(OSError):
            sender.settimeout(_SECONDS)
            sender.sendto(line.encode(), self._address)
