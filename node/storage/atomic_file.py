"""Files that are there whole or not at all, whatever kills the process or fills the disk."""

import errno
import os
import re
from contextlib import suppress
from pathlib import Path

from p2pfl.node.errors import StorageError, reason_of

_TEMPORARY = re.compile(r"\..+\.([0-9]{1,7})\.([0-9a-f]{8}|copy(-journal)?)")


def write_atomically(path: Path, data: bytes, mode: int = 0o600, *, exclusive: bool = False) -> None:
    """Write ``data`` under a temporary name beside ``path``, flush it to the disk, then give it its name.

    The file gets exactly ``mode``, whatever the umask. With ``exclusive`` an existing ``path`` is left alone
    and FileExistsError raised, without a moment in which two writers both succeed. Raises StorageError if the
    directory cannot be written or the disk is full; ``path`` then holds what it held before and no temporary
    file is left.
    """
    if path.exists() and not path.is_file():
        raise StorageError(
            f"cannot write {path}: not a regular file", "name a file, or leave --out away to print"
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        try:
            _write_new(temporary, data, mode)
            if exclusive:
                os.link(temporary, path)
                temporary.unlink()
            else:
                os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
    except FileExistsError:
        raise
    except OSError as error:
        raise _explain(path, error) from error


def write_output(path: Path, data: bytes, mode: int) -> None:
    """What a command was asked to write: a new file, like :func:`write_atomically`; never over another one,
    which might be a key.
    """
    try:
        write_atomically(path, data, mode, exclusive=True)
    except FileExistsError:
        raise StorageError(
            f"{path} exists already, and is never overwritten", "choose another name, or remove it first"
        ) from None


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(data)
        file.flush()
        os.fsync(descriptor)


def remove_leftovers(directory: Path) -> None:
    """Remove temporary files that a process left here which was killed while it wrote."""
    for path in directory.glob(".*.*.*"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and not _runs(int(found[1])):
            with suppress(OSError):  # it is in nobody's way
                path.unlink()


def _runs(process: int) -> bool:
    """Whether that is another process, as far as can be told from here."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def sync_directory(directory: Path) -> None:
    """Make durable which names are in ``directory``: a rename, or what was made there."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(path: Path, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return StorageError(
            f"cannot write {path}: the disk is full", "free some space; nothing was half-written"
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return StorageError(
            f"cannot write {path}: {path.parent} is not a directory", "create the directory first"
        )
    reason = reason_of(error)
    return StorageError(f"cannot write {path}: {reason}", "check the permissions of the directory")
