import errno
import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from p2pfl.node.errors import StorageError
from p2pfl.node.storage.lock import is_locked, locked

HOLD = """
import pathlib, sys
from p2pfl.node.storage.lock import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_where_no_node_ever_was_none_is_running(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(StorageError, match="another p2pfl process"), locked(tmp_path):
        pass
    assert is_locked(tmp_path)
    holder.kill()
    holder.wait()
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert (tmp_path / "lock").exists()


def test_who_removes_the_lock_file_lets_nobody_in(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / "lock").unlink()
        assert is_locked(tmp_path)
        with pytest.raises(StorageError, match="another p2pfl process"), locked(tmp_path):
            pass
    assert not is_locked(tmp_path)


def test_where_directories_cannot_be_locked_the_file_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock = fcntl.flock

    def no_directories(descriptor: int, kind: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "bad file descriptor")
        flock(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", no_directories)
    with locked(tmp_path), pytest.raises(StorageError, match="another p2pfl process"), locked(tmp_path):
        pass
