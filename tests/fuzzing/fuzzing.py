"""The fuzzer: mutates inputs, keeps those that end where none had ended before, stops at a finding.

What an input "covers" is where it ended: accepted, or the lines of the traceback of the exception it was
refused with. That costs nothing beside the decoding, and decoders refuse in a great many places.
"""

import hashlib
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from traceback import walk_tb
from types import FrameType
from typing import Final, NamedTuple

from finding_targets import FINDING_TARGETS
from message_targets import MESSAGE_TARGETS
from mutations import LONGEST, mutated
from record_targets import RECORD_TARGETS
from stream_targets import STREAM_TARGETS
from target import Target

CORPUS: Final = Path(__file__).parents[1] / "corpus"
TARGETS: Final = (*RECORD_TARGETS, *STREAM_TARGETS, *FINDING_TARGETS, *MESSAGE_TARGETS)
MOST_PER_BYTE: Final = 200
"""Bytes of memory for a byte of input: the shortest list is one byte, and Python keeps 70 for it, in a value
and in the copy that it is checked with."""
MOST_BESIDES: Final = 3 << 19
"""Bytes of memory for an input however short: msgpack makes room for 10 240 items ahead, at each depth."""
WEIGH_EVERY: Final = 8
"""Inputs to each of which the memory is measured; to those with a new end it always is."""
MOST_SECONDS: Final = 10
MOST_WORDS: Final = 4096
"""Characters of what an exception says."""

Outcome = tuple[object, ...]


class Finding(Exception):  # noqa: N818 - what the fuzzer looks for
    """A decoder did what it may not do with ``data``; the message says what."""

    def __init__(self, data: bytes, what: str) -> None:
        super().__init__(what)
        self.data = data


class _TooSlow(BaseException):
    """Not an Exception: a decoder that catches too much must not catch this."""


class Campaign(NamedTuple):
    """``kept`` inputs ended where none of those before them had."""

    executions: int
    kept: list[bytes]


def attempt(target: Target, data: bytes, *, weigh: bool) -> Outcome:
    """Where ``data`` ends. Raises Finding; for too much memory only if told to ``weigh``, which makes it
    several times slower. :func:`interruptible` must be in force.
    """
    if weigh:
        tracemalloc.start()
    try:
        outcome = _outcome(target, data)
        used = tracemalloc.get_traced_memory()[1]  # the peak; 0 if it is not traced
    except _TooSlow:
        raise Finding(data, f"not decoded after {MOST_SECONDS} s") from None
    except Exception as error:
        raise Finding(data, f"{type(error).__name__}: {error}") from error
    finally:
        tracemalloc.stop()
    if used > MOST_PER_BYTE * len(data) + MOST_BESIDES:
        raise Finding(data, f"{used} bytes of memory for an input of {len(data)} bytes")
    return outcome


def _outcome(target: Target, data: bytes) -> Outcome:
    signal.alarm(MOST_SECONDS)
    try:
        target.decode(data)
    except target.allowed as error:
        words = str(error)
        assert words.isprintable() or not target.printable, "what is said cannot be printed"
        assert len(words) <= MOST_WORDS, f"{len(words)} characters are said"
        return tuple(_places(error))
    finally:
        signal.alarm(0)
    return ("accepted",)


def _places(error: BaseException | None) -> Iterator[object]:
    """The lines at which ``error`` and what had caused it passed."""
    while error is not None:
        yield type(error)
        yield from ((frame.f_code, line) for frame, line in walk_tb(error.__traceback__))
        error = error.__cause__ or error.__context__


@contextmanager
def interruptible() -> Iterator[None]:
    """What takes too long is interrupted. In the main thread only."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise _TooSlow

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, previous)


def campaign(target: Target, seed: str, goes_on: Callable[[int], bool]) -> Campaign:
    """Try inputs while ``goes_on(executions)``: all that is known first, then mutations of what is kept.

    Equal seeds try equal inputs. Raises Finding.
    """
    random = Random(f"{seed}/{target.name}")
    pool = list(known(target))
    seen, kept, executions = set[Outcome](), list[bytes](), 0
    with interruptible():
        for data in pool:
            seen.add(attempt(target, data, weigh=True))
        while goes_on(executions):
            data = _next(target, pool, random)
            outcome = attempt(target, data, weigh=executions % WEIGH_EVERY == 0)
            executions += 1
            if outcome not in seen:
                attempt(target, data, weigh=True)
                seen.add(outcome)
                pool.append(data)
                kept.append(data)
    return Campaign(executions, kept)


def _next(target: Target, pool: list[bytes], random: Random) -> bytes:
    data = random.choice(pool)
    if random.random() < 0.3:
        return mutated(data, pool, random)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        data = target.reshape(data, random)
    return data[:LONGEST]


def known(target: Target) -> tuple[bytes, ...]:
    """The seeds, then the corpus."""
    files = sorted((CORPUS / target.name).glob("*"))
    return tuple(dict.fromkeys((*target.seeds, *(file.read_bytes() for file in files))))


def keep(target: Target, data: bytes, kind: str) -> Path:
    """Write ``data`` into the corpus. ``kind`` begins the name of its file."""
    path = CORPUS / target.name / f"{kind}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
