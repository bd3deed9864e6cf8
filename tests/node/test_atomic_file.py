"""Files appear whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest

from p2pfl.node.errors import StorageError
from p2pfl.node.storage.atomic_file import write_atomically


def test_a_file_is_written_and_replaced_with_its_exact_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.umask(0o077)
    try:
        write_atomically(path, b"one", 0o644)
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        write_atomically(path, b"two", 0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["file"]


def test_exclusive_leaves_what_is_there_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"one", exclusive=True)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"two", exclusive=True)
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_a_full_disk_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageError, match="the disk is full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="gone is not a directory"):
        write_atomically(tmp_path / "gone" / "file", b"")
    write_atomically(tmp_path / "file", b"")
    with pytest.raises(StorageError, match="is not a directory"):
        write_atomically(tmp_path / "file" / "file", b"")


def test_what_is_no_regular_file_is_left_alone(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(StorageError, match="not a regular file"):
        write_atomically(pipe, b"data")
    assert pipe.is_fifo()
