"""The node's end of :mod:`.handover`: holds out a model, and waits, up to a deadline, for what comes back.

It listens in the state directory, for this machine's user only (mode 0600). One training loop is served at a
time; the newest, so that one which hangs can be replaced by starting another. Nothing that a loop does or
leaves undone keeps :meth:`LoopSocket.ask` beyond its deadline.
"""

import logging
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from p2pfl.node.errors import StorageError, reason_of
from p2pfl.node.training.handover import SOCKET, Header, MisspokenError, address_in, read_frame, send_frame

log = logging.getLogger(__name__)

Judge = Callable[[Header, bytearray], Header]
"""Takes an answer and says what to reply. Raises ValueError, with a reason for its sender, to refuse it."""


@dataclass(slots=True, eq=False)
class _Offer:
    """What is held out; ``open`` until it is answered, declined or withdrawn."""

    number: int
    header: Header
    payload: bytes
    judge: Judge
    open: bool = True
    answered: bool = False


class LoopSocket:
    """Thread safe. ``welcome``: what every loop is told first. ``most``: bytes of an answer at most."""

    def __init__(self, directory: Path, welcome: Header, most: int) -> None:
        """Raises StorageError if there can be no socket in ``directory``."""
        self._welcome, self._most = dict(welcome), most
        self._changed = threading.Condition()
        self._offer: _Offer | None = None
        self._end: _Offer | None = None
        self._numbers = 0
        self._served: socket.socket | None = None
        self._closed = False
        self._path = directory / SOCKET
        self._listener = _listen(directory)
        threading.Thread(target=self._accept, name="training loops", daemon=True).start()

    def ask(self, header: Header, payload: bytes, seconds: float, judge: Judge) -> str:
        """Hold out a model until ``judge`` has taken an answer, or for ``seconds``. Empty if it has, else why
        not, in words.
        """
        with self._changed:
            offer = self._offer = self._numbered(header, payload, judge)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not offer.open or self._closed, seconds)
            offer.open = False
            if offer.answered:
                return ""
            if self._served is None:
                return f"no training loop is connected to {self._path}"
            return (
                "the training loop went on without" if self._offer is None else f"none within {seconds:g} s"
            )

    def end(self, header: Header, payload: bytes) -> None:
        """The programme is over: tell every loop that asks, from now on."""
        with self._changed:
            self._end = self._numbered(header, payload, _too_late)
            self._changed.notify_all()

    def close(self) -> None:
        """Stop listening, and let whoever waits in :meth:`ask` go."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._path.unlink(missing_ok=True)
            for each in (self._listener, self._served):
                _hang_up(each)

    def _numbered(self, header: Header, payload: bytes, judge: Judge) -> _Offer:
        self._numbers += 1
        return _Offer(self._numbers, header, payload, judge)

    # -- threads of their own
    def _accept(self) -> None:
        with self._listener:
            while (connection := self._next_connection()) is not None:
                self._take_over(connection)

    def _next_connection(self) -> socket.socket | None:
        try:
            return self._listener.accept()[0]
        except OSError:
            return None  # closed

    def _take_over(self, connection: socket.socket) -> None:
        with self._changed:
            _hang_up(self._served)
            self._served = connection
            self._changed.notify_all()
        threading.Thread(target=self._serve, args=(connection,), name="a training loop", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._converse(connection)
        except MisspokenError as error:
            log.warning("hung up on the training loop: %s", error)
        except OSError as error:
            log.debug("lost the training loop: %s", error)
        finally:
            with self._changed:
                if self._served is connection:
                    self._served = None
                    log.info("the training loop is gone")

    def _converse(self, connection: socket.socket) -> None:
        header, _ = read_frame(connection, 0)
        if header["kind"] != "hello":
            raise MisspokenError("no hello")
        send_frame(connection, self._welcome)
        log.info("a training loop is connected")
        handed: _Offer | None = None
        while True:
            header, payload = read_frame(connection, self._most)
            if header["kind"] != "next":
                send_frame(connection, self._judged(handed, header, payload))
                continue
            handed = self._next(connection, handed)
            if handed is None:
                return
            send_frame(connection, handed.header, handed.payload)

    def _next(self, connection: socket.socket, handed: _Offer | None) -> _Offer | None:
        """What to hand out after ``handed``, once it is there; None if ``connection`` is over by then."""
        with self._changed:
            if handed is not None and handed is self._offer:
                handed.open, self._offer = False, None
                self._changed.notify_all()
            while not self._closed and self._served is connection:
                if self._offer is not None and self._offer.open:
                    return self._offer
                if self._end is not None:
                    return self._end
                self._changed.wait()
        return None

    def _judged(self, handed: _Offer | None, header: Header, payload: bytearray) -> Header:
        with self._changed:
            if handed is None or not handed.open:
                return {"kind": "late"}
            try:
                reply = handed.judge(header, payload)
            except ValueError as error:
                return {"kind": "refused", "reason": str(error)}
            handed.open, handed.answered = False, True
            self._changed.notify_all()
            return reply


def _too_late(_header: Header, _payload: bytearray) -> Header:
    return {"kind": "late"}


def _listen(directory: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = directory / SOCKET
    try:
        path.unlink(missing_ok=True)  # left by a process that was killed; the directory is ours
        with address_in(directory) as address:
            listener.bind(address)
        path.chmod(0o600)
        listener.listen(4)  # from here on, and no earlier, anybody can connect
    except OSError as error:
        listener.close()
        what = f"cannot listen for a training loop at {path}: {reason_of(error)}"
        raise StorageError(what, "the state directory must be on a file system with sockets") from None
    return listener


def _hang_up(connection: socket.socket | None) -> None:
    if connection is None:
        return
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # gone already
