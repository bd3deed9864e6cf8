"""One daemon a state directory: a lock that the kernel drops when the process dies, however it dies."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2pfl.node.errors import StorageError, reason_of


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold ``directory`` for this process. Raises StorageError if another process holds it or it cannot be
    written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        reason = reason_of(error)
        raise StorageError(
            f"cannot use {directory}: {reason}", "check the path and its permissions"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StorageError(
            f"another p2pfl process is using {directory}",
            "stop it first, or give this node a state directory of its own",
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


def is_locked(directory: Path) -> bool:
    """Whether some process holds ``directory`` now. Changes nothing, and needs to be able to read only."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
