"""One daemon a state directory: locks that the kernel drops when the process dies, however it dies.

The directory itself is locked, since whoever removes a file in it would remove the lock with it; and a file
in it, for file systems that lock no directories (NFS).
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from p2pfl.node.errors import StorageError, reason_of


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold ``directory`` for this process. Raises StorageError if another process holds it or it cannot be
    written.
    """
    with ExitStack() as stack:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, file)
            whole = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, whole)
        except OSError as error:
            reason = reason_of(error)
            raise StorageError(
                f"cannot use {directory}: {reason}", "check the path and its permissions"
            ) from error
        if not (_lock(file, fcntl.LOCK_EX) and _lock(whole, fcntl.LOCK_EX)):
            raise StorageError(
                f"another p2pfl process is using {directory}",
                "stop it first, or give this node a state directory of its own",
            )
        yield


def is_locked(directory: Path) -> bool:
    """Whether some process holds ``directory`` now. Changes nothing, and needs to be able to read only."""
    return any(_is_held(path) for path in (directory, directory / "lock"))


def _is_held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not _lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    """Whether nobody else holds it; so too where the file system has no such locks."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
