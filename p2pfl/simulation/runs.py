"""Many runs: on all cores, on disk as they finish, and never done twice.

A journal has a line for each finished run: its key, a text that says all that its result depends on, and the
result, which is JSON.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from p2pfl.node.errors import StorageError, reason_of

Task = TypeVar("Task")
Result = TypeVar("Result")


def carry_out(
    work: Callable[[Task], Result],
    tasks: Mapping[str, Task],
    journal: Path,
    executor: Executor,
    tell: Callable[[str], None],
) -> dict[str, Result]:
    """What ``work`` makes of each of ``tasks``, which come by their keys, the first ones first.

    ``tell`` hears the key of each that has finished, once it is in ``journal``. Raises what a run raises,
    after those that had been begun, which are kept; and StorageError.
    """
    if not tasks:
        return {}
    done: dict[str, Result] = {}
    failed: BaseException | None = None
    with _appended(journal) as lines:
        running = {executor.submit(work, task): key for key, task in tasks.items()}
        try:
            for future in as_completed(running):
                if future.cancelled():
                    continue
                if error := future.exception():
                    failed = failed or error
                    _cancel(running)
                    continue
                key = running[future]
                done[key] = future.result()
                _append(lines, key, done[key])
                tell(key)
        finally:
            _cancel(running)
    if failed is not None:
        raise failed
    return done


def finished(journal: Path) -> dict[str, Any]:
    """The results in ``journal``, by key. A line that was cut off, by a crash or a full disk, is no run."""
    try:
        text = journal.read_text(encoding="utf-8") if journal.exists() else ""
    except OSError as error:
        raise StorageError(
            f"{journal}: cannot be read: {reason_of(error)}", "check its permissions"
        ) from None
    return dict(_results(text.splitlines()))


@contextmanager
def cores(count: int | None = None) -> Iterator[Executor]:
    """A process for each of ``count`` cores, None: all; each with one thread."""
    workers = count or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=one_thread) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def one_thread() -> None:
    """Leave the other cores to other runs."""
    import torch

    torch.set_num_threads(1)


def _results(lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    for line in lines:
        try:
            found = json.loads(line)
            yield found["key"], found["result"]
        except (ValueError, KeyError, TypeError):
            continue


def _cancel(futures: Iterable[Future[Result]]) -> None:
    for future in futures:
        future.cancel()


@contextmanager
def _appended(journal: Path) -> Iterator[BinaryIO]:
    """Open at its end, on a line of its own."""
    try:
        lines = journal.open("ab+")
    except OSError as error:
        raise _unwritten(journal, error) from None
    with lines:
        if lines.tell():
            lines.seek(-1, os.SEEK_END)
            if lines.read(1) != b"\n":
                lines.write(b"\n")
        yield lines


def _append(lines: BinaryIO, key: str, result: object) -> None:
    try:
        lines.write(json.dumps({"key": key, "result": result}).encode() + b"\n")
        lines.flush()
    except OSError as error:
        raise _unwritten(Path(lines.name), error) from None


def _unwritten(journal: Path, error: OSError) -> StorageError:
    return StorageError(f"{journal}: cannot be written: {reason_of(error)}", "make room, and run it again")
