"""What a node keeps on disk: the journal, the released model, the peers it has met, evidence.

Who is excluded stands in the journal, with the proof: it decides who takes part in every epoch to come. What
else peers did stands in a table of its own, which is for people.

One SQLite file (:mod:`.database`) and safetensors checkpoints (:mod:`.checkpoint`) written by atomic rename.
A SIGKILL at any instruction loses nothing committed: the privacy ledger is written before anything leaves the
node, so a crash can only overstate epsilon.

The ledger is in the journal (:mod:`.journal`), whose rows cannot be edited or taken back unnoticed.
An operator who deletes the whole directory, or puts back an older copy of it, resets the count of what its
records have paid, and no node can tell. And a directory is one federation's: what the same records pay in
several federations adds up, and nothing here adds it, but for what was taken along on purpose
(:mod:`p2pfl.node.storage.carried`).
"""

import hmac
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.epoch_messages import NOTHING
from p2pfl.gossip.events import Course
from p2pfl.gossip.exclusions import GROUNDS, Ground
from p2pfl.gossip.manifest import Manifest, canonical_bytes, decode_manifest_untrusted, digest_of
from p2pfl.gossip.successions import Succession, parse_wire_untrusted
from p2pfl.gossip.wire import Limits, Message, decode_relayed, encode
from p2pfl.node.accountant import Mechanism, rdp_epsilon
from p2pfl.node.errors import StorageError
from p2pfl.node.finding.address_book import MOST_REMEMBERED, Met, worth_trying
from p2pfl.node.released import Place, Released
from p2pfl.node.storage import checkpoint
from p2pfl.node.storage.atomic_file import remove_leftovers
from p2pfl.node.storage.carried import Carried, Successor
from p2pfl.node.storage.carried import canonical as carried_bytes
from p2pfl.node.storage.carried import parsed as parse_carried
from p2pfl.node.storage.database import DATABASE, JOURNAL_REMEDY, Database
from p2pfl.node.storage.journal import Journal
from p2pfl.node.storage.last_signed import require_newest
from p2pfl.node.storage.migration import VERSION, migrate
from p2pfl.node.storage.own_file import PRIVATE, read_own, write_own
from p2pfl.node.storage.receipts import (
    Agreement,
    Entry,
    Kept,
    Population,
    Receipt,
    RoundOutcome,
    outcome_of_format_1,
    signed_receipt,
)
from p2pfl.node.storage.rows import (
    MAX_ROW,
    federation_of,
    fields_of,
    messages_of,
    peer_of,
    peers_of,
    pointer_of,
    signed_of,
    version_of,
)

EVIDENCE_ROWS = 16
"""Pieces of evidence that are kept of one peer; the first ones say enough."""
EVIDENCE_BYTES = 1 << 16
"""Of one piece of evidence: two proposals of the largest group, without payloads, are half of it."""
_UNCONFIRMED = 4
_LATEST = 1 << 37  # seconds since 1970; calendars go no further

_SCHEMA = {
    "meta": "(key TEXT PRIMARY KEY, value BLOB NOT NULL)",
    "journal": "(sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, body BLOB NOT NULL, chain BLOB NOT NULL)",
    "peers": "(peer TEXT PRIMARY KEY, addresses BLOB NOT NULL)",
    "evidence": "(peer TEXT NOT NULL, kind TEXT NOT NULL, messages BLOB NOT NULL)",
}


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Charge:
    """One entry of the ledger: this node contributed to the sum of ``round``.

    ``mechanism``: what that released about its records, None if nothing. ``recipients``: the members of the
    roster, who may learn the sum, this node included; empty if it was written down before they were.
    """

    round: int
    mechanism: Mechanism | None
    recipients: tuple[PeerId, ...] = ()


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Who is excluded, and why; this node has known since ``since``, in seconds since 1970."""

    since: int
    ground: Ground


class Store:
    """One node's state directory. Use :meth:`open`; close it, or use it as a context manager.

    Everything raises StorageError if the database cannot be read or written, or does not hold what was
    written there.
    """

    def __init__(self, directory: Path, database: Database, journal: Journal, identity: Identity) -> None:
        self.directory = directory
        self._database = database
        self._journal = journal
        self._identity = identity
        self._unconfirmed: dict[int, Receipt] = {}  # the latest, whose results are still to come
        self._parsed: dict[str, tuple[list[Any], int]] = {}  # rows of a kind, and up to which row

    @classmethod
    def open(cls, directory: Path, identity: Identity, *, readonly: bool = False) -> "Store":
        """Open (and unless ``readonly`` create) the state in ``directory``.

        Raises StorageError if it cannot be read or written, belongs to a newer version, or its journal was
        edited or shortened.
        """
        path = directory / DATABASE
        absent = StorageError(f"no node state in {directory}", "start the node once, or name its config")
        if readonly and not path.exists():
            raise absent
        database = Database.open(path, readonly=readonly)
        if not readonly:
            remove_leftovers(directory)
        try:
            store = cls(directory, database, Journal(database, chain_key(identity)), identity)
            tables = database.tables
            if not tables and readonly:
                raise absent
            store._check_tables(tables) if tables else store._create()
            found = store._check_version()
            store.verify()
            store._check_federation()
            store._check_newest()
            if found < VERSION and not readonly:
                migrate(database, found)
        except BaseException:
            database.close()
            raise
        return store

    def _create(self) -> None:
        with self._database.transaction():
            for table, columns in _SCHEMA.items():
                self._database.execute(f"CREATE TABLE {table} {columns} STRICT")
            self._database.set_value("version", str(VERSION).encode())
            self._journal.begin()

    def _check_tables(self, found: set[str]) -> None:
        """What is missing was taken out: an empty journal put in its place would hide what was spent."""
        missing = sorted(set(_SCHEMA) - found)
        if missing:
            raise StorageError(f"{self._database.path}: table {missing[0]} is missing", JOURNAL_REMEDY)

    def _check_version(self) -> int:
        found = self._value("version", version_of)
        if found is None:
            raise StorageError(f"{self._database.path}: table meta, version: missing", JOURNAL_REMEDY)
        if found > VERSION:
            raise StorageError(
                f"{self.directory} was written by a newer p2pfl (format {found}, known: {VERSION})",
                "upgrade p2pfl on this machine",
            )
        return found

    def _check_federation(self) -> None:
        """The ledger is that of the federation it began with, whatever ``meta`` says."""
        begun, manifest = self._entries("federation", federation_of), self.manifest_bytes()
        if begun and (manifest is None or digest_of(manifest) != begun[0]):
            raise StorageError(
                f"{self._database.path}: table meta, manifest: not that of the journal's federation",
                JOURNAL_REMEDY,
            )

    def require_newest(self, answers: Iterable[tuple[PeerId, bytes]]) -> None:
        """Raise StorageError if what peers answer (:mod:`.last_signed`) shows that the ledger is behind; so
        does every later opening, whoever is there then. Not where this node's key was in an earlier
        federation: a signature from there proves nothing here, and nobody may shut a ledger for good with it.
        """
        last = self.last_contribution()
        for peer, signed in answers:
            try:
                require_newest([(peer, signed)], self._identity.peer_id, last)
            except StorageError:
                if not self.carried():
                    self._database.set_value("later", pack([peer.encode(), signed]))
                raise

    def _check_newest(self) -> None:
        later = self._value("later", signed_of)
        if later is not None:
            require_newest([later], self._identity.peer_id, self.last_contribution())

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- federation
    def _value(self, key: str, parse: Callable[[bytes], _T]) -> _T | None:
        raw = self._database.value(key)
        return None if raw is None else self._database.parsed("meta", key, parse, raw)

    def manifest(self) -> Manifest | None:
        """The manifest this directory belongs to; None before the node has joined."""
        return self._value("manifest", decode_manifest_untrusted)

    def manifest_bytes(self) -> bytes | None:
        """Its canonical form."""
        manifest = self.manifest()
        return None if manifest is None else canonical_bytes(manifest)

    def bind_manifest(self, manifest: bytes) -> None:
        """Tie this directory to one federation, for good. Raises StorageError if it is tied to another."""
        found = self.manifest_bytes()
        if found is not None and found != manifest:
            raise StorageError(
                f"{self.directory} holds the state of another federation:"
                f" {_short(found)}…, not {_short(manifest)}…",
                "give every federation a state directory of its own",
            )
        self._database.set_value("manifest", manifest)
        if not self._entries("federation", federation_of):
            self._journal.append("federation", pack([digest_of(manifest)]))

    def keep_held_out(self, share: float | None) -> None:
        """Remember what share of its records this node never learns from; None: no such share."""
        self._database.set_value("held_out", repr(share or 0.0).encode())

    def held_out(self) -> float | None:
        """What was last remembered so."""
        return self._value("held_out", float) or None

    # -- journal
    def verify(self) -> None:
        """Check the journal from its first row to its last. Raises StorageError if a row was changed or
        removed since it was written.
        """
        self._journal.verify()

    def _entries(self, kind: str, parse: Callable[[bytes], _T]) -> list[_T]:
        """All rows of ``kind``, each parsed once."""
        known, after = self._parsed.get(kind, ([], -1))
        last = self._journal.last
        new = self._read(kind, parse, after, last)
        known = known + new if new else known
        self._parsed[kind] = known, last
        return known

    def _read(self, kind: str, parse: Callable[[bytes], _T], after: int, last: int) -> list[_T]:
        return [
            self._database.parsed("journal", f"row {sequence}", parse, body)
            for sequence, body in self._journal.entries(kind, after, last)
        ]

    def charge(self, round: int, mechanism: Mechanism | None, recipients: Sequence[PeerId] = ()) -> None:
        """Write down that this node contributes to ``round``, what that costs (None if nothing), and who may
        learn the sum.

        Must return before the data it covers leaves the node: after a crash the round is known to be used up.
        """
        cost = None if mechanism is None else mechanism.to_canonical()
        self._journal.append("contribution", pack([round, cost, list(recipients)]))
        self._database.settle()

    def charges(self) -> list[Charge]:
        """The ledger, oldest first."""
        return self._entries("contribution", _charge)

    def mechanisms(self) -> list[Mechanism]:
        """Every mechanism event ever charged, oldest first, and before them what was carried over."""
        carried = [mechanism for one in self.carried() for mechanism in one.mechanisms]
        return carried + [charge.mechanism for charge in self.charges() if charge.mechanism is not None]

    def carry_over(self, carried: Sequence[Carried]) -> None:
        """Begin the ledger with what was charged in earlier federations, all of it or nothing."""
        self._journal.append("carried", carried_bytes(carried))

    def carried(self) -> list[Carried]:
        """What the ledger began with, oldest federation first."""
        return [one for found in self._entries("carried", parse_carried) for one in found]

    def continue_in(self, successor: Successor) -> None:
        """Write down that this ledger goes on elsewhere: no node may run on it any more."""
        self._journal.append("continued", successor.to_bytes())

    def successor(self) -> Successor | None:
        """Where this ledger goes on, if it does."""
        found = self._entries("continued", Successor.from_bytes)
        return found[0] if found else None

    def last_contribution(self) -> int:
        """The latest round that this node may have sent masked data in; -1 if none."""
        return max((charge.round for charge in self.charges()), default=-1)

    def record_round(self, outcome: RoundOutcome, course: Course | None = None, result: bytes = b"") -> None:
        """Write down how a round ended, with a receipt; ``result`` is the digest of its sum."""
        begun = self._entries("federation", federation_of)
        kept = signed_receipt(
            self._identity,
            begun[0] if begun else NOTHING,
            outcome,
            course or Course(),
            ended=int(time.time()),
            result=result,
            epsilon=self._epsilon(),
        )
        self._journal.append("receipt", Entry(kept, outcome).to_bytes())
        self._unconfirmed = {**self._unconfirmed, outcome.round: kept.receipt}
        while len(self._unconfirmed) > _UNCONFIRMED:
            del self._unconfirmed[next(iter(self._unconfirmed))]

    def _epsilon(self) -> str:
        """An upper bound on what the ledger has spent; empty if the federation promises nothing."""
        manifest = self.manifest()
        if manifest is None or manifest.privacy.mode == "none":
            return ""
        return repr(rdp_epsilon(self.mechanisms(), manifest.privacy.delta))

    def record_agreement(self, round: int, results: Iterable[Message]) -> None:
        """Write down what ``results`` put under the receipt of ``round``, one of the latest."""
        receipt = self._unconfirmed.pop(round, None)
        if receipt is not None:
            self._journal.append("agreed", Agreement.of(receipt, results).to_bytes())

    def rounds(self) -> list[RoundOutcome]:
        """Every round this node took part in, oldest first."""
        before = self._entries("round", outcome_of_format_1)
        return before + self._entries("receipt", lambda raw: Entry.from_bytes(raw).outcome)

    def receipts(self) -> list[Kept]:
        """What this node has signed about its rounds, oldest first, and who signed the same sums."""
        last = self._journal.last
        agreed = {one.round: one.signatures for one in self._read("agreed", Agreement.from_bytes, -1, last)}
        return [
            replace(entry.kept, agreed=agreed.get(entry.outcome.round, ()))
            for entry in self._read("receipt", Entry.from_bytes, -1, last)
        ]

    def enter_epoch(self, first_round: int, members: Collection[PeerId]) -> None:
        """Write down who is in the federation from ``first_round`` on, unless that is known."""
        known = self.populations()
        if not known or known[-1].members != frozenset(members):
            self._journal.append("epoch", Population(first_round, frozenset(members)).to_bytes())

    def populations(self) -> list[Population]:
        """Who was in the federation, oldest first."""
        return self._entries("epoch", Population.from_bytes)

    def exclude(self, exclusion: Exclusion) -> None:
        """Write down that somebody takes part no more, with the proof of what it did."""
        self._journal.append("exclusion", pack([exclusion.since, encode(exclusion.ground)]))

    def exclusions(self) -> list[Exclusion]:
        """Everybody excluded, oldest first."""
        return self._entries("exclusion", _exclusion)

    def change_identity(self, succession: Succession, identity: Identity) -> None:
        """Write down that this node's place went to ``identity``, and chain the journal anew under its key:
        both or, whatever happens meanwhile, nothing. What was charged stays charged.
        """
        entry = pack([encode(succession)])
        self._journal.hand_over("succession", entry, chain_key(identity))

    def successions(self) -> tuple[Succession, ...]:
        """How this node came by the place of its first key, newest first."""
        return tuple(reversed(self._entries("succession", _succession)))

    # -- released model
    def save_released(self, released: Released) -> None:
        """Keep ``released`` as the current model: checkpoint first, then the row that points to it."""
        digest = checkpoint.write(self.directory, released)
        programme = [released.round, released.training_start, released.vote_rounds, repr(released.votes)]
        self._database.set_value("released", pack([*programme, digest]))
        checkpoint.remove_older(self.directory, released.round)

    def released(self) -> Released | None:
        """The current model, None before the first release. Raises StorageError if its file is damaged."""
        pointer = self._value("released", pointer_of)
        if pointer is None:
            if any(outcome.completed and outcome.stage != "evaluation" for outcome in self.rounds()):
                what = f"{self._database.path}: table meta, released: missing, though rounds have completed"
                raise StorageError(what, JOURNAL_REMEDY)
            return None
        return checkpoint.read(self.directory, Place(*pointer[:-1]), pointer[-1])

    @property
    def lacks_model(self) -> bool:
        """Whether the file of the current model is gone, so that the node has to take over another's."""
        path = self.model_path
        return path is not None and not path.is_file()

    def save_private(self, layers: NDArray[np.float64]) -> None:
        """Keep the private layers of this node's model."""
        write_own(self.directory / PRIVATE, {"private": layers})

    def private(self, size: int) -> NDArray[np.float64] | None:
        """The private layers, float64 of shape (size,); None if none were kept. Raises StorageError if their
        file is damaged.
        """
        found = read_own(self.directory / PRIVATE, {"private": size})
        return None if found is None else found["private"]

    @property
    def place(self) -> Place | None:
        """How far the federation was at the last release, None before the first; needs no model file."""
        pointer = self._value("released", pointer_of)
        return None if pointer is None else Place(*pointer[:-1])

    @property
    def model_path(self) -> Path | None:
        """Where the current model is, None before the first release."""
        pointer = self._value("released", pointer_of)
        return None if pointer is None else checkpoint.path_of(self.directory, pointer[0])

    # -- peers and evidence
    def remember_peer(self, peer: PeerId, addresses: Sequence[str]) -> None:
        """Keep where ``peer`` was met, now, in the place of what was kept before; what worked last first."""
        met = Met(tuple(addresses), int(time.time()))
        self._database.execute("INSERT OR REPLACE INTO peers VALUES (?, ?)", peer, met.to_bytes())
        last = "SELECT rowid FROM peers ORDER BY rowid DESC LIMIT ?"
        self._database.execute(f"DELETE FROM peers WHERE rowid NOT IN ({last})", MOST_REMEMBERED)  # noqa: S608

    def peers(self) -> dict[PeerId, tuple[str, ...]]:
        """Every peer met, and its addresses: the latest, and what worked last, first."""
        found: dict[PeerId, Met] = {}
        for row, peer, addresses in self._database.rows(
            "SELECT rowid, CAST(peer AS BLOB), addresses FROM peers"
        ):
            read = partial(self._database.parsed, "peers", f"row {row}")
            found[read(peer_of, peer)] = read(Met.from_bytes, addresses)
        return worth_trying(found)

    def keep_evidence(self, peer: PeerId, kind: str, messages: Sequence[bytes]) -> None:
        """Keep what ``peer`` signed against itself, up to EVIDENCE_ROWS pieces of one peer.

        Of a piece longer than EVIDENCE_BYTES only peer and kind are kept.
        """
        packed = pack(list(messages))
        self._database.execute(
            "INSERT INTO evidence SELECT ?, ?, ? WHERE (SELECT count(*) FROM evidence WHERE peer = ?) < ?",
            *(peer, kind, packed if len(packed) <= EVIDENCE_BYTES else pack([])),
            *(peer, EVIDENCE_ROWS),
        )

    def evidence(self) -> list[tuple[PeerId, str, tuple[bytes, ...]]]:
        """Every piece of evidence: peer, kind and messages."""
        found = []
        for row, peer, kind, messages in self._database.rows(
            "SELECT rowid, CAST(peer AS BLOB), CAST(kind AS BLOB), messages FROM evidence"
        ):
            read = partial(self._database.parsed, "evidence", f"row {row}")
            found.append((read(peer_of, peer), read(bytes.decode, kind), read(messages_of, messages)))
        return found


def chain_key(identity: Identity) -> bytes:
    """The key of the journal's chain."""
    return hmac.digest(identity.seed, labels.LEDGER_CHAIN, "sha256")


def _charge(raw: bytes) -> Charge:
    match fields_of(raw):
        case [int(round), dict() | None as cost, list(recipients)]:
            mechanism = None if cost is None else _mechanism(pack(cost))
            return Charge(round, mechanism, peers_of(recipients))
    raise ValueError("not a contribution")


@lru_cache(maxsize=1024)
def _mechanism(raw: bytes) -> Mechanism:
    """Few are different in a ledger."""
    return Mechanism.from_canonical(unpack_untrusted(raw, MAX_ROW))


def _exclusion(raw: bytes) -> Exclusion:
    match fields_of(raw):
        case [int(since), bytes(wire)] if 0 <= since < _LATEST:
            ground = decode_relayed(wire, Limits(0), GROUNDS)
            assert isinstance(ground, Ground)
            return Exclusion(since, ground)
    raise ValueError("not an exclusion")


def _succession(raw: bytes) -> Succession:
    match fields_of(raw):
        case [bytes(wire)]:
            return parse_wire_untrusted(wire)
    raise ValueError("not a succession")


def _short(manifest: bytes) -> str:
    return digest_of(manifest).hex()[:12]
