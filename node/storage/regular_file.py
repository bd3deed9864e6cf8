"""Opening a file that somebody else put there, without ever waiting for it.

Opening a named pipe waits for whoever writes to it, for ever if nobody does. So nothing that is read by path,
at the start or later, is opened without this.
"""

import errno
import os
import stat
from typing import Final

_KINDS: Final = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def regular_only(path: str, flags: int) -> int:
    """An ``opener`` for :func:`open` to read with: a descriptor of the regular file at ``path``.

    Raises OSError, at once, if it is anything else; its reason says what.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(descriptor).st_mode)
    if kind == stat.S_IFREG:
        return descriptor
    os.close(descriptor)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    reason = f"it is {_KINDS.get(kind, 'something else')}, not a file that can be read"
    raise OSError(errno.EINVAL, reason, path)
