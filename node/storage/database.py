"""One SQLite file that only its owner can read, and what its failures mean to an operator.

Write-ahead mode with full synchronisation: a transaction that has ended is on the disk, one that has not
never was. Nothing that is read is believed to be what was written; what cannot be parsed is a StorageError
that names table and row.
"""

import os
import shlex
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

from safetensors import SafetensorError

from p2pfl.node.errors import StorageError
from p2pfl.node.storage.atomic_file import sync_directory

DATABASE = "p2pfl.sqlite"
JOURNAL_REMEDY = (
    "restore a backup made after this node's last round; what it has spent of epsilon is not known otherwise"
)
_DISPENSABLE = {
    "peers": ("where peers were met", "DELETE FROM peers"),
    "evidence": ("what peers did against the protocol", "DELETE FROM evidence"),
}
_PATIENCE_MILLISECONDS = 5000
_BESIDE = ("", "-wal", "-shm")
_WRITTEN = ("", "-wal")

_T = TypeVar("_T")


class Database:
    """A connection to the file ``path``, which has a table ``meta`` of named values."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._files: dict[Path, tuple[int, int]] = {}  # where those lie that are written

    @classmethod
    def open(cls, path: Path, *, readonly: bool) -> "Database":
        """Open the file; unless ``readonly`` create it and its directory. Raises StorageError."""
        with explained(path):
            if not readonly:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _make_private(path)
            uri = f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rw'}"
            connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
            # Text that is not UTF-8 comes out altered, and whoever checks it finds that.
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            try:
                if not readonly:
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.execute("PRAGMA synchronous = FULL")
            except BaseException:
                connection.close()
                raise
        database = cls(path, connection)
        if not readonly:
            database._require_in_place()
        return database

    def close(self) -> None:
        self._connection.close()

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
        """Run one statement. Raises StorageError; walking through rows does in a :meth:`transaction`."""
        with explained(self.path):
            return self._connection.execute(statement, values)

    def rows(self, statement: str, *values: object) -> list[Any]:
        """All rows of a query. Raises StorageError."""
        with explained(self.path):
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def transaction(self, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Iterator[None]:
        """All of the block or nothing of it; DEFERRED reads one state of the file. Raises StorageError."""
        if kind == "IMMEDIATE":
            self._require_in_place()
        with explained(self.path):
            self._connection.execute(f"BEGIN {kind}")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # what went wrong first is what counts
                    self._connection.execute("ROLLBACK")
                raise

    def _require_in_place(self) -> None:
        """What is written to a file that was removed or replaced is lost at the end, and SQLite says so in
        another mode than write-ahead only (SQLITE_READONLY_DBMOVED). Raises StorageError.
        """
        for suffix in _WRITTEN:
            path = self.path.with_name(self.path.name + suffix)
            try:
                found = path.stat()
                place = found.st_dev, found.st_ino
            except OSError:
                place = None
            if place is not None and self._files.setdefault(path, place) == place:
                continue
            if path in self._files:
                raise StorageError(
                    f"{path} was removed or replaced while it was in use: what was written since is lost",
                    JOURNAL_REMEDY,
                )

    def settle(self) -> None:
        """Move what is in the write-ahead log into the file itself, as far as no reader is in the way.

        Of a damaged log SQLite takes what comes before the damage, without a word; a damaged file is found.
        """
        self.rows("PRAGMA busy_timeout = 0")  # for a reader: the next time will do
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")
        self.rows(f"PRAGMA busy_timeout = {_PATIENCE_MILLISECONDS}")

    def copy_to(self, path: Path) -> None:
        """Write the database, as it is at one moment, to ``path``, one file that only its owner can read;
        the node may go on meanwhile. Raises StorageError.
        """
        temporary = path.with_name(f".{path.name}.{os.getpid()}.copy")
        try:
            with explained(path):
                _make_private(temporary)
                with closing(sqlite3.connect(temporary)) as copy:
                    self._connection.backup(copy)
                    copy.execute("PRAGMA journal_mode = DELETE")
                os.replace(temporary, path)
                sync_directory(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def check_pages(self) -> None:
        """Look at every page of the file. Raises StorageError if one is damaged."""
        [(first, *_), *_] = self.rows("PRAGMA integrity_check(1)")
        if first != "ok":
            raise StorageError(f"{self.path} is damaged ({first})", JOURNAL_REMEDY)

    @property
    def tables(self) -> set[str]:
        """Names of its tables; none in a new file."""
        return {name for (name,) in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}

    def value(self, key: str) -> bytes | None:
        """The value of ``key`` in ``meta``, None without one. Raises StorageError if it is not bytes."""
        found = self.rows("SELECT value FROM meta WHERE key = ?", key)
        return self.parsed("meta", key, bytes, found[0][0]) if found else None

    def set_value(self, key: str, value: bytes) -> None:
        """Give ``key`` in ``meta`` another value."""
        self.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value)

    def parsed(self, table: str, key: str, parse: Callable[[bytes], _T], raw: object) -> _T:
        """``parse(raw)``, raw being what the row ``key`` of ``table`` holds.

        Raises StorageError, with what to do about that table, if ``parse`` raises ValueError or raw is no
        byte string.
        """
        try:
            if not isinstance(raw, bytes):
                raise ValueError(f"{type(raw).__name__} in the place of bytes")
            return parse(raw)
        except ValueError as error:
            what = f"{self.path}: table {table}, {key}: not what p2pfl writes there"
            raise StorageError(what, self._remedy(table)) from error

    def _remedy(self, table: str) -> str:
        if table not in _DISPENSABLE:
            return f"{JOURNAL_REMEDY}. Or use the version of p2pfl that wrote it"
        what, statement = _DISPENSABLE[table]
        command = f"sqlite3 {shlex.quote(str(self.path))} {shlex.quote(statement)}"
        return f"it holds only {what}: stop the node and empty it with {command}"


def _make_private(path: Path) -> None:
    """Only the owner may read the database and, because SQLite copies its mode, the files beside it."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for suffix in _BESIDE:
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).chmod(0o600)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the operating system, SQLite and safetensors say into what an operator can act on."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "full" in text:
            raise StorageError(
                f"the disk that holds {path} is full", "free some space; nothing was half-written"
            ) from error
        if "readonly" in text:
            what = f"{path} cannot be written: the disk is mounted read-only, or the file is another user's"
            raise StorageError(
                what, "mount it for writing (dmesg says if the disk failed); nothing is lost"
            ) from error
        if "disk I/O" in text:
            what = f"the disk that holds {path} fails to read or write"
            raise StorageError(
                what, "free some space if it is full; else replace it, and restore a backup"
            ) from error
        if "malformed" in text or "not a database" in text:
            raise StorageError(f"{path} is damaged ({text})", JOURNAL_REMEDY) from error
        raise StorageError(
            f"cannot use {path}: {text}", "check that the directory is writable and not in use"
        ) from error
    except UnicodeDecodeError as error:  # what SQLite quotes of a damaged file
        raise StorageError(f"{path} is damaged (its schema is garbled)", JOURNAL_REMEDY) from error
    except SafetensorError as error:
        raise StorageError(f"{path} is damaged ({error})", "restore it from a backup") from error
    except OSError as error:
        raise StorageError(
            f"cannot use {path}: {os.strerror(error.errno or 0).lower()}", "check path and permissions"
        ) from error
