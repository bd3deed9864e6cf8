"""The journal: what this node did, append-only, and chained so that nobody can quietly take a row back.

Every row carries a keyed hash of itself and of the row before. The value ``head`` in ``meta``, written in
the same transaction as every row, is a keyed hash of how many rows there are and of the last one's hash. The
key is derived from the node's identity. So a row that was changed, moved, put in or taken out, also the last
or all of them, is found at the next start, and an end cut off under a running node at its next append.

What cannot be found: that the state directory was deleted whole, or that an older copy of it was put back. A
node knows of the past only what is in there.
"""

import hmac

from p2pfl.gossip.canonical import pack
from p2pfl.node.errors import StorageError
from p2pfl.node.storage.database import JOURNAL_REMEDY, Database

HEAD = "head"


class Journal:
    """The table ``journal`` and its head. Reading an entry before :meth:`verify` proves nothing."""

    def __init__(self, database: Database, key: bytes) -> None:
        self._database = database
        self._key = key
        self._rows, self._last = 0, b""  # as it was when we last verified or wrote it

    def begin(self) -> None:
        """Write the head of an empty journal, inside the transaction that creates the tables."""
        self._write_head(0, b"")

    def append(self, kind: str, body: bytes) -> None:
        """Add a row, on the disk before this returns. Raises StorageError, also if the end was cut off."""
        with self._database.transaction():
            last = self._database.rows("SELECT sequence, chain FROM journal ORDER BY sequence DESC LIMIT 1")
            if last != ([(self._rows - 1, self._last)] if self._rows else []):
                raise self._removed()
            chain = self._link(self._last, self._rows, kind, body)
            self._database.execute("INSERT INTO journal VALUES (?, ?, ?, ?)", self._rows, kind, body, chain)
            self._write_head(self._rows + 1, chain)
        self._rows, self._last = self._rows + 1, chain

    def hand_over(self, kind: str, body: bytes, key: bytes) -> None:
        """Add a row, and chain everything anew with ``key``, in one transaction: the journal is either still
        the old key's or wholly the new one's. To be verified first. Raises StorageError.
        """
        with self._database.transaction():
            rows = self._database.rows("SELECT sequence, kind, body FROM journal ORDER BY sequence")
            if len(rows) != self._rows:
                raise self._removed()
            self._database.execute("INSERT INTO journal VALUES (?, ?, ?, ?)", self._rows, kind, body, b"")
            after, last = Journal(self._database, key), b""
            for sequence, (_, name, content) in enumerate([*rows, (self._rows, kind, body)]):
                last = after._link(last, sequence, str(name), bytes(content))
                self._database.execute("UPDATE journal SET chain = ? WHERE sequence = ?", last, sequence)
            after._write_head(self._rows + 1, last)
        self._key, self._rows, self._last = key, self._rows + 1, last

    def verify(self) -> None:
        """Walk the chain. Raises StorageError naming the first row that was changed since it was written, or
        saying that rows are missing at the end.
        """
        count, last = 0, b""
        with self._database.transaction("DEFERRED"):
            for row in self._database.execute(
                "SELECT sequence, kind, body, chain FROM journal ORDER BY sequence"
            ):
                match row:
                    case (int(sequence), str(kind), bytes(body), bytes(chain)) if sequence == count:
                        link = self._link(last, count, kind, body)
                        intact = hmac.compare_digest(link, chain)
                    case _:
                        intact = False
                if not intact:
                    raise StorageError(
                        f"journal row {count} in {self._database.path} was changed after it was written"
                        " (or another identity wrote it)",
                        JOURNAL_REMEDY,
                    )
                count, last = count + 1, link
            head = self._database.value(HEAD)
        if head is None or not hmac.compare_digest(head, self._head(count, last)):
            raise self._removed()
        self._rows, self._last = count, last

    @property
    def last(self) -> int:
        """The number of the last row, -1 without one."""
        [(last,)] = self._database.rows("SELECT max(sequence) FROM journal")
        return -1 if last is None else int(last)

    def entries(self, kind: str, after: int, last: int) -> list[tuple[int, bytes]]:
        """Every row of ``kind`` after that of one number, up to ``last``: its number and its body."""
        return self._database.rows(
            "SELECT sequence, body FROM journal WHERE kind = ? AND sequence > ? AND sequence <= ?"
            " ORDER BY sequence",
            *(kind, after, last),
        )

    def _removed(self) -> StorageError:
        return StorageError(
            f"the journal in {self._database.path} does not end where it did: rows or its head were removed"
            " after they were written (or another identity wrote it)",
            JOURNAL_REMEDY,
        )

    def _link(self, previous: bytes, sequence: int, kind: str, body: bytes) -> bytes:
        return hmac.digest(self._key, pack([previous, sequence, kind, body]), "sha256")

    def _head(self, rows: int, last: bytes) -> bytes:
        return hmac.digest(self._key, pack([rows, last]), "sha256")

    def _write_head(self, rows: int, last: bytes) -> None:
        self._database.set_value(HEAD, self._head(rows, last))
