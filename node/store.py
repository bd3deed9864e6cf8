"""What a node keeps on disk: the journal, the released model, the peers it has met, evidence.

One SQLite file in write-ahead mode with full synchronisation, and safetensors checkpoints written by atomic
rename. A SIGKILL at any instruction loses nothing committed: the privacy ledger is written before anything
leaves the node, so a crash can only overstate epsilon.

The journal (ledger entries and round outcomes) is append-only and chained: every row carries a keyed hash of
the row before it, under a key derived from the node's identity. Editing, reordering or deleting a row in the
middle is found at the next start. Cutting off the tail, or putting back an old copy of the whole directory,
cannot be found by the node alone; docs/threat-model.md says so.
"""

import hashlib
import hmac
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.manifest import digest_of
from p2pfl.node.accountant import Mechanism
from p2pfl.node.atomic_file import write_atomically
from p2pfl.node.errors import StorageError
from p2pfl.node.released import Released

VERSION = 1
DATABASE = "p2pfl.sqlite"
_MAX_ROW = 1 << 20
_KEPT_MODELS = 2

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS journal (
    sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL, chain BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS peers (peer TEXT PRIMARY KEY, addresses BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS evidence (peer TEXT NOT NULL, kind TEXT NOT NULL, messages BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class RoundOutcome:
    """How one round ended here. ``reason`` is empty when it completed; ``survivors`` is empty when it was
    skipped.
    """

    round: int
    stage: str
    members: tuple[PeerId, ...]
    survivors: tuple[PeerId, ...]
    reason: str
    sent_masked: bool
    saturated: int

    @property
    def completed(self) -> bool:
        return not self.reason


class Store:
    """One node's state directory. Use :meth:`open`; close it, or use it as a context manager."""

    def __init__(self, directory: Path, connection: sqlite3.Connection, chain_key: bytes) -> None:
        self.directory = directory
        self._connection = connection
        self._chain_key = chain_key

    @classmethod
    def open(cls, directory: Path, identity: Identity, *, readonly: bool = False) -> "Store":
        """Open (and unless ``readonly`` create) the state in ``directory``.

        Raises StorageError if it cannot be read or written, belongs to a newer version, or its journal was
        edited.
        """
        path = directory / DATABASE
        if readonly and not path.exists():
            raise StorageError(f"no node state in {directory}", "start the node once, or name its config")
        chain_key = hmac.digest(identity.seed, labels.LEDGER_CHAIN, "sha256")
        with _explained(path):
            if not readonly:
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = "ro" if readonly else "rwc"
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
            if not readonly:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.executescript(_SCHEMA)
            store = cls(directory, connection, chain_key)
            store._check_version(write=not readonly)
        store.verify()
        return store

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_version(self, *, write: bool) -> None:
        found = self._meta("version")
        if found is None and write:
            self._set_meta("version", str(VERSION).encode())
        elif found is not None and int(found) > VERSION:
            raise StorageError(
                f"{self.directory} was written by a newer p2pfl (format {int(found)}, known: {VERSION})",
                "upgrade p2pfl on this machine",
            )

    # -- federation
    def _meta(self, key: str) -> bytes | None:
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else bytes(row[0])

    def _set_meta(self, key: str, value: bytes) -> None:
        with _explained(self.directory):
            self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def manifest_bytes(self) -> bytes | None:
        """The manifest this directory belongs to, canonical form; None before the node has joined."""
        return self._meta("manifest")

    def bind_manifest(self, manifest: bytes) -> None:
        """Tie this directory to one federation, for good. Raises StorageError if it is tied to another."""
        found = self.manifest_bytes()
        if found is not None and found != manifest:
            raise StorageError(
                f"{self.directory} holds the state of another federation:"
                f" {_short(found)}…, not {_short(manifest)}…",
                "give every federation a state directory of its own",
            )
        self._set_meta("manifest", manifest)

    # -- journal
    def _append(self, kind: str, body: bytes) -> None:
        with _explained(self.directory), self._transaction():
            row = self._connection.execute(
                "SELECT sequence, chain FROM journal ORDER BY sequence DESC LIMIT 1"
            ).fetchone()
            sequence, previous = (0, b"") if row is None else (row[0] + 1, bytes(row[1]))
            chain = self._link(previous, sequence, kind, body)
            self._connection.execute("INSERT INTO journal VALUES (?, ?, ?, ?)", (sequence, kind, body, chain))

    def _link(self, previous: bytes, sequence: int, kind: str, body: bytes) -> bytes:
        return hmac.digest(self._chain_key, pack([previous, sequence, kind, body]), "sha256")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def verify(self) -> None:
        """Walk the journal's chain. Raises StorageError naming the first row that was changed since it was
        written.
        """
        previous = b""
        with _explained(self.directory):
            rows = self._connection.execute(
                "SELECT sequence, kind, body, chain FROM journal ORDER BY sequence"
            )
            for expected, (sequence, kind, body, chain) in enumerate(rows):
                link = self._link(previous, expected, kind, bytes(body))
                if sequence != expected or not hmac.compare_digest(link, bytes(chain)):
                    raise StorageError(
                        f"journal row {expected} in {self.directory / DATABASE} was changed after it was"
                        " written (or another identity wrote it)",
                        "restore the directory from a backup; epsilon cannot be trusted otherwise",
                    )
                previous = link

    def _entries(self, kind: str) -> Iterator[list[Any]]:
        rows = self._connection.execute("SELECT body FROM journal WHERE kind = ? ORDER BY sequence", (kind,))
        for (body,) in rows.fetchall():
            fields = unpack_untrusted(bytes(body), _MAX_ROW)
            assert isinstance(fields, list)
            yield fields

    def charge(self, round: int, mechanism: Mechanism | None) -> None:
        """Write down that this node contributes to ``round``, and what that costs; None if it costs nothing.

        Must return before the data it covers leaves the node: after a crash the round is known to be used up.
        """
        self._append("contribution", pack([round, None if mechanism is None else mechanism.to_canonical()]))

    def mechanisms(self) -> list[Mechanism]:
        """Every mechanism event ever charged, oldest first."""
        contributions = self._entries("contribution")
        return [Mechanism.from_canonical(fields) for _, fields in contributions if fields is not None]

    def last_contribution(self) -> int:
        """The latest round that this node may have sent masked data in; -1 if none."""
        return max((round for round, _ in self._entries("contribution")), default=-1)

    def record_round(self, outcome: RoundOutcome) -> None:
        members, survivors = list(outcome.members), list(outcome.survivors)
        self._append(
            "round",
            pack(
                [
                    outcome.round,
                    outcome.stage,
                    members,
                    survivors,
                    outcome.reason,
                    outcome.sent_masked,
                    outcome.saturated,
                ]
            ),
        )

    def rounds(self) -> list[RoundOutcome]:
        """Every round this node took part in, oldest first."""
        return [
            RoundOutcome(body[0], body[1], tuple(body[2]), tuple(body[3]), body[4], body[5], body[6])
            for body in self._entries("round")
        ]

    # -- released model
    def save_released(self, released: Released) -> None:
        """Keep ``released`` as the current model: checkpoint first, then the row that points to it."""
        content = save_tensors(
            {"parameters": released.parameters, "statistics": released.statistics},
            metadata={"round": str(released.round), "training_start": str(released.training_start)},
        )
        name = f"model-{released.round:08d}.safetensors"
        write_atomically(self.directory / name, content)
        pointer = [name, released.round, released.training_start, hashlib.sha256(content).digest()]
        self._set_meta("released", pack(pointer))
        for old in sorted(self.directory.glob("model-*.safetensors"))[:-_KEPT_MODELS]:
            if old.name != name:
                old.unlink(missing_ok=True)

    def released(self) -> Released | None:
        """The current model, None before the first release. Raises StorageError if its file is damaged."""
        row = self._meta("released")
        if row is None:
            return None
        pointer = unpack_untrusted(row, _MAX_ROW)
        assert isinstance(pointer, list)
        name, round, training_start, digest = pointer
        path = self.directory / name
        with _explained(path):
            content = path.read_bytes()
            if hashlib.sha256(content).digest() != digest:
                raise StorageError(
                    f"{path} does not match the digest in the journal", "restore it from a backup"
                )
            tensors: Mapping[str, NDArray[np.float64]] = load_tensors(content)
        return Released(round, training_start, tensors["statistics"], tensors["parameters"])

    @property
    def model_path(self) -> Path | None:
        row = self._meta("released")
        if row is None:
            return None
        pointer = unpack_untrusted(row, _MAX_ROW)
        assert isinstance(pointer, list)
        return self.directory / str(pointer[0])

    # -- peers and evidence
    def remember_peer(self, peer: PeerId, addresses: Sequence[str]) -> None:
        with _explained(self.directory):
            self._connection.execute(
                "INSERT OR REPLACE INTO peers VALUES (?, ?)", (peer, pack(list(addresses)))
            )

    def peers(self) -> dict[PeerId, tuple[str, ...]]:
        found = {}
        for peer, addresses in self._connection.execute("SELECT peer, addresses FROM peers").fetchall():
            unpacked = unpack_untrusted(bytes(addresses), _MAX_ROW)
            assert isinstance(unpacked, list)
            found[PeerId(peer)] = tuple(unpacked)
        return found

    def keep_evidence(self, peer: PeerId, kind: str, messages: Sequence[bytes]) -> None:
        with _explained(self.directory):
            self._connection.execute(
                "INSERT INTO evidence VALUES (?, ?, ?)", (peer, kind, pack(list(messages)))
            )

    def evidence(self) -> list[tuple[PeerId, str]]:
        rows = self._connection.execute("SELECT peer, kind FROM evidence").fetchall()
        return [(PeerId(peer), kind) for peer, kind in rows]


def _short(manifest: bytes) -> str:
    return digest_of(manifest).hex()[:12]


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the operating system and SQLite say into what an operator can act on."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "full" in text:
            raise StorageError(
                f"the disk that holds {path} is full", "free some space; nothing was half-written"
            ) from error
        if "malformed" in text or "not a database" in text:
            raise StorageError(
                f"{path} is damaged ({text})", "restore the directory from a backup"
            ) from error
        raise StorageError(
            f"cannot use {path}: {text}", "check that the directory is writable and not in use"
        ) from error
    except SafetensorError as error:
        raise StorageError(f"{path} is damaged ({error})", "restore it from a backup") from error
    except OSError as error:
        raise StorageError(
            f"cannot use {path}: {os.strerror(error.errno or 0).lower()}", "check path and permissions"
        ) from error
