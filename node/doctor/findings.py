"""What a check found, in one line."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Literal, TypeVar

from p2pfl.node.errors import ExitCode, UserError

State = Literal["ok", "warning", "failure", "skipped"]
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Finding:
    """Check ``name`` ended in ``state``: ``said`` is what was found, ``hint`` what to do about it. A failure
    is worth the exit status ``exit_code``; anything else 0.
    """

    name: str
    state: State
    said: str
    hint: str = ""
    exit_code: int = 0

    def as_dict(self) -> Mapping[str, object]:
        return {
            "check": self.name,
            "state": self.state,
            "said": self.said,
            "hint": self.hint,
            "exit_code": self.exit_code,
        }


def ok(name: str, said: str) -> Finding:
    return Finding(name, "ok", said)


def warning(name: str, said: str, hint: str) -> Finding:
    return Finding(name, "warning", said, hint)


def failure(name: str, said: str, hint: str, exit_code: ExitCode) -> Finding:
    return Finding(name, "failure", said, hint, int(exit_code))


def skipped(name: str, why: str) -> Finding:
    return Finding(name, "skipped", why)


def looked(name: str, look: Callable[[], Finding]) -> Finding:
    """What ``look`` finds; a failure if it raises what the operator can put right."""
    try:
        return look()
    except UserError as error:
        return failure(name, error.what, error.hint, error.exit_code)


def within(seconds: float, findings: Iterable[_T]) -> Iterator[_T]:
    """Those that are made in ``seconds``, on a thread of its own, which is abandoned then. Raises
    TimeoutError there, and what making them raises.
    """
    queue: SimpleQueue[tuple[_T | None, BaseException | None]] = SimpleQueue()

    def make() -> None:
        try:
            for finding in findings:
                queue.put((finding, None))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
            queue.put((None, error))
        else:
            queue.put((None, None))

    Thread(target=make, daemon=True).start()
    end = monotonic() + seconds
    while True:
        try:
            finding, error = queue.get(timeout=max(0.0, end - monotonic()))
        except Empty:
            raise TimeoutError from None
        if error is not None:
            raise error
        if finding is None:
            return
        yield finding
