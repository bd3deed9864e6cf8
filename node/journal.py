"""The journal: what this node did, append-only, and chained so that nobody can quietly take a row back.

Every row carries a keyed hash of itself and of the row before. The value ``head`` in ``meta``, written in
the same transaction as every row, is a keyed hash of how many rows there are and of the last one's hash. The
key is derived from the node's identity. So a row that was changed, moved, put in or taken out, also the last
or all of them, is found at the next start, and an end cut off under a running node at its next append.

What cannot be found: that the state directory was deleted whole, or that an older copy of it was put back. A
node knows of the past only what is in there.
"""

import hmac
from collections.abc import Iterator

from p2pfl.gossip.canonical import pack
from p2pfl.node.database import JOURNAL_REMEDY, Database
from p2pfl.node.errors import StorageError

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

    def entries(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """Every row of ``kind``, oldest first: what to call it in an error, and its body."""
        rows = self._database.rows(
            "SELECT sequence, body FROM journal WHERE kind = ? ORDER BY sequence", kind
        )
        for sequence, body in rows:
            yield f"row {sequence}", body

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
