import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.epoch_messages import Wanted
from p2pfl.gossip.evidence import Accusation, contradiction
from p2pfl.gossip.manifest import Manifest, canonical_bytes, from_toml
from p2pfl.gossip.messages import Reveal
from p2pfl.gossip.wire import encode, signed
from p2pfl.heart_disease import FEDERATION_TOML
from p2pfl.node.accountant import Mechanism
from p2pfl.node.errors import StorageError
from p2pfl.node.released import Place, Released
from p2pfl.node.storage import checkpoint
from p2pfl.node.storage.database import DATABASE
from p2pfl.node.storage.journal import Journal
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.storage.store import EVIDENCE_BYTES, EVIDENCE_ROWS, Charge, Exclusion, Store

IDENTITY = Identity.from_seed(bytes(32))
CHARGE = Mechanism("training", "train", "distributed", 1.5, 0.5, 1, 4, 3, 1)
PEERS = tuple(Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2))
SUMS = (61.25, 79.0, -0.1)


def manifest(name: str = "one") -> Manifest:
    draft = from_toml(FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", PEERS[0]))
    return replace(draft, name=name, privacy=draft.privacy.with_mode("none"))


def accusation() -> Accusation:
    liar, place = Identity.from_seed(bytes([7]) * 32), (1, 0, bytes(32))
    results = [Reveal(liar.peer_id, *place, bytes(32), (bytes([n]) * 40,) * 32) for n in (1, 2)]
    proof = contradiction([signed(liar, result) for result in results])
    assert proof is not None
    return Accusation(PEERS[0], "a ticket", proof)


EXCLUSION = Exclusion(1_800_000_000, accusation())


def outcome(round: int) -> RoundOutcome:
    return RoundOutcome(round, "training", PEERS, PEERS, "", True, 0)


def model(round: int) -> Released:
    return Released(round, 1, np.array([1.0, 2.0]), np.array([0.25 * round]))


def fill(directory: Path) -> None:
    with Store.open(directory, IDENTITY) as store:
        for round in range(4):
            store.charge(round, CHARGE)
            store.record_round(outcome(round))


def edit(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_what_is_written_is_there_after_reopening(tmp_path: Path) -> None:
    fill(tmp_path)
    evaluated = RoundOutcome(4, "evaluation", PEERS, PEERS[:1], "", True, 2, SUMS)
    skipped = RoundOutcome(5, "", (), (), "too few", False, 0, left_out=3)
    with Store.open(tmp_path, IDENTITY) as store:
        store.bind_manifest(canonical_bytes(manifest()))
        assert store.place is None
        store.save_released(replace(model(3), vote_rounds=1, votes=0.75))
        store.remember_peer(PEERS[0], ["/ip4/127.0.0.1/tcp/1"])
        store.keep_evidence(PEERS[1], "two survivor sets", [b"one", b"two"])
        store.exclude(EXCLUSION)
        store.charge(6, None)
        store.charge(7, CHARGE, PEERS)
        store.record_round(evaluated)
        store.record_round(skipped)
    with Store.open(tmp_path, IDENTITY, readonly=True) as store:
        assert store.charges()[3:] == [Charge(3, CHARGE), Charge(6, None), Charge(7, CHARGE, PEERS)]
        assert store.mechanisms() == [CHARGE] * 5
        assert store.last_contribution() == 7
        assert store.rounds() == [*[outcome(round) for round in range(4)], evaluated, skipped]
        assert store.manifest() == manifest()
        assert store.manifest_bytes() == canonical_bytes(manifest())
        assert store.peers() == {PEERS[0]: ("/ip4/127.0.0.1/tcp/1",)}
        assert store.evidence() == [(PEERS[1], "two survivor sets", (b"one", b"two"))]
        assert store.exclusions() == [EXCLUSION]
        released = store.released()
        assert store.place == Place(3, 1, 1, 0.75)
    assert released is not None
    assert released.digest == replace(model(3), vote_rounds=1, votes=0.75).digest


# -- the journal
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal SET body = (SELECT body FROM journal WHERE sequence = 4) WHERE sequence = 2",
        "DELETE FROM journal WHERE sequence = 2",
        "DELETE FROM journal WHERE sequence = 0",
        "UPDATE journal SET kind = 'round' WHERE sequence = 4",
        "UPDATE journal SET kind = CAST(x'ff' AS TEXT) WHERE sequence = 4",
        "UPDATE journal SET chain = zeroblob(32) WHERE sequence = 7",
        "UPDATE journal SET body = x''",
        "INSERT INTO journal VALUES (8, 'contribution', x'00', zeroblob(32))",
        "INSERT INTO journal VALUES (-1, 'contribution', x'00', zeroblob(32))",
        "UPDATE journal SET sequence = 9 WHERE sequence = 7",
    ],
)
def test_an_edited_journal_is_refused(tmp_path: Path, statement: str) -> None:
    fill(tmp_path)
    edit(tmp_path, statement)
    for readonly in (True, False):
        with pytest.raises(StorageError, match="journal row"):
            Store.open(tmp_path, IDENTITY, readonly=readonly)


def test_a_ledger_stays_with_the_federation_that_it_began_in(tmp_path: Path) -> None:
    with Store.open(tmp_path, IDENTITY) as store:
        store.bind_manifest(canonical_bytes(manifest()))
    fill(tmp_path)
    other = canonical_bytes(replace(manifest(), seed=5))
    for value in (None, other):
        edit(tmp_path, "DELETE FROM meta WHERE key = 'manifest'")
        if value is not None:
            edit(tmp_path, f"INSERT INTO meta VALUES ('manifest', x'{value.hex()}')")
        for readonly in (True, False):
            with pytest.raises(StorageError, match="not that of the journal's federation"):
                Store.open(tmp_path, IDENTITY, readonly=readonly)


def test_binding_is_finished_after_a_crash_in_the_middle_of_it(tmp_path: Path) -> None:
    bound = canonical_bytes(manifest())
    with Store.open(tmp_path, IDENTITY):
        pass
    edit(tmp_path, f"INSERT INTO meta VALUES ('manifest', x'{bound.hex()}')")
    with Store.open(tmp_path, IDENTITY) as store:
        store.bind_manifest(bound)
        store.bind_manifest(bound)
    edit(tmp_path, "DELETE FROM meta WHERE key = 'manifest'")
    with pytest.raises(StorageError, match="federation"):
        Store.open(tmp_path, IDENTITY)


def test_a_model_that_is_gone_is_not_taken_for_one_that_never_was(tmp_path: Path) -> None:
    fill(tmp_path)
    with Store.open(tmp_path, IDENTITY) as store:
        with pytest.raises(StorageError, match="released: missing, though rounds have completed"):
            store.released()
        store.save_released(model(3))
        path = store.model_path
        assert path is not None
        lacking = [store.lacks_model]
        path.unlink()
        assert [*lacking, store.lacks_model] == [False, True]
        with pytest.raises(StorageError, match="is missing") as caught:
            store.released()
    assert f"copy {path.name} from a member" in caught.value.hint


EMPTY_TABLE = "CREATE TABLE journal (sequence INTEGER PRIMARY KEY, kind TEXT, body BLOB, chain BLOB)"


@pytest.mark.parametrize("bound", ["nothing", "a manifest", "a release"])
@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (("DELETE FROM journal",), "removed"),
        (("DELETE FROM journal WHERE sequence = (SELECT max(sequence) FROM journal)",), "removed"),
        (("DROP TABLE journal",), "table journal is missing"),
        (("DROP TABLE journal", EMPTY_TABLE), "removed"),
        (("DROP TABLE journal", "DELETE FROM meta WHERE key = 'head'"), "table journal is missing"),
        (("DELETE FROM meta WHERE key = 'head'",), "removed"),
        (("DELETE FROM meta WHERE key = 'head'", "DELETE FROM journal"), "removed"),
        (("UPDATE meta SET value = zeroblob(32) WHERE key = 'head'",), "removed"),
        (("UPDATE meta SET value = x'' WHERE key = 'head'", "DELETE FROM journal"), "removed"),
        (("DELETE FROM meta",), "version: missing"),
        (("DROP TABLE meta",), "table meta is missing"),
        (("DROP TABLE meta", "DROP TABLE journal"), "table journal is missing"),
    ],
)
def test_a_journal_with_its_end_cut_off_is_refused(
    tmp_path: Path, statements: tuple[str, ...], words: str, bound: str
) -> None:
    fill(tmp_path)
    with Store.open(tmp_path, IDENTITY) as store:
        if bound == "a manifest":
            store.bind_manifest(canonical_bytes(manifest()))
        elif bound == "a release":
            store.save_released(model(3))
    edit(tmp_path, *statements)
    for readonly in (True, False, True):  # refusing must not mend it either
        with pytest.raises(StorageError, match=words) as refused:
            Store.open(tmp_path, IDENTITY, readonly=readonly)
        assert "backup" in refused.value.hint


def test_a_head_of_an_earlier_day_does_not_fit(tmp_path: Path) -> None:
    Store.open(tmp_path, IDENTITY).close()
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        (old,) = connection.execute("SELECT value FROM meta WHERE key = 'head'").fetchone()
    fill(tmp_path)
    edit(tmp_path, f"UPDATE meta SET value = x'{old.hex()}' WHERE key = 'head'")
    with pytest.raises(StorageError, match="removed"):
        Store.open(tmp_path, IDENTITY)


@pytest.mark.parametrize("statement", ["DELETE FROM journal", "DELETE FROM journal WHERE sequence = 7"])
def test_an_end_cut_off_under_a_running_node_is_not_signed_anew(tmp_path: Path, statement: str) -> None:
    fill(tmp_path)
    with Store.open(tmp_path, IDENTITY) as store:
        edit(tmp_path, statement)
        with pytest.raises(StorageError, match="removed"):
            store.charge(9, CHARGE)
    with pytest.raises(StorageError, match="removed"):
        Store.open(tmp_path, IDENTITY)


@pytest.mark.parametrize("name", [DATABASE, f"{DATABASE}-wal"])
@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_charged_to_a_file_that_is_gone(tmp_path: Path, name: str, replaced: bool) -> None:
    with Store.open(tmp_path, IDENTITY) as store:
        store.charge(1, None)
        path = tmp_path / name
        content = path.read_bytes()
        path.rename(tmp_path / "elsewhere")
        if replaced:
            path.write_bytes(content)
        with pytest.raises(StorageError, match=rf"{name} was removed or replaced"):
            store.charge(2, None)


def test_another_identity_cannot_vouch_for_the_journal(tmp_path: Path) -> None:
    other = Identity.from_seed(bytes([1]) * 32)
    Store.open(tmp_path, IDENTITY).close()
    with pytest.raises(StorageError, match="another identity"):
        Store.open(tmp_path, other)
    fill(tmp_path)
    with pytest.raises(StorageError, match="another identity"):
        Store.open(tmp_path, other)


def test_a_reader_sees_one_state_while_the_node_writes(tmp_path: Path) -> None:
    with Store.open(tmp_path, IDENTITY) as writer, Store.open(tmp_path, IDENTITY, readonly=True) as reader:
        for round in range(3):
            writer.charge(round, CHARGE)
            reader.verify()
            assert len(reader.mechanisms()) == round + 1


# -- what is not what was written
def test_one_directory_is_one_federation(tmp_path: Path) -> None:
    one, two = (canonical_bytes(manifest(name)) for name in ("one", "two"))
    with Store.open(tmp_path, IDENTITY) as store:
        store.bind_manifest(one)
        store.bind_manifest(one)
        with pytest.raises(StorageError, match="another federation"):
            store.bind_manifest(two)


GARBAGE = {
    "empty": b"",
    "no msgpack": b"\xc1\xff",
    "not UTF-8": b"\xa2\xff\xfe",
    "number": pack(3),
    "nothing": pack(None),
    "text": pack("model.safetensors"),
    "long list": pack(list(range(40))),
    "nested": pack([[[], {}], {"round": -1}]),
    "negative": pack([-1, -1, b"", b""]),
    "path": pack(["../../etc/passwd", 1, 1, bytes(32)]),
    "other types": pack(["1", 1, [], None, 3, "", b"", {}]),
    "another message": pack([1, encode(Wanted(PEERS[0], 1, bytes(32)))]),
    "far future": pack([1 << 62, encode(EXCLUSION.ground)]),
}
READS: dict[str, Callable[[Store], object]] = {
    "meta, manifest": Store.manifest,
    "meta, released": Store.released,
    "peers, ": Store.peers,
    "evidence, ": Store.evidence,
}


def with_garbage(directory: Path, place: str, garbage: bytes) -> None:
    table, _, key = place.partition(", ")
    if table == "meta":
        edit(directory, f"INSERT OR REPLACE INTO meta VALUES ('{key}', x'{garbage.hex()}')")
    else:
        kind = "" if table == "peers" else "'kind', "
        edit(directory, f"INSERT INTO {table} VALUES ('{PEERS[0]}', {kind}x'{garbage.hex()}')")


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("place", READS)
def test_garbage_is_named_with_what_to_do(tmp_path: Path, place: str, garbage: bytes) -> None:
    fill(tmp_path)
    with_garbage(tmp_path, place, garbage)
    with (
        pytest.raises(StorageError, match=f"table {place}") as refused,
        Store.open(tmp_path, IDENTITY) as store,
    ):
        READS[place](store)
    assert "\n" not in refused.value.what
    assert ("DELETE FROM" if "meta" not in place else "backup") in refused.value.hint


@pytest.mark.parametrize("garbage", [*GARBAGE.values(), b"0x1", b"-1", b" 1", b"9" * 5000])
def test_a_version_that_is_none_is_refused(tmp_path: Path, garbage: bytes) -> None:
    fill(tmp_path)
    with_garbage(tmp_path, "meta, version", garbage)
    with pytest.raises(StorageError, match="table meta, version"):
        Store.open(tmp_path, IDENTITY)


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("kind", ["contribution", "round", "exclusion"])
def test_garbage_in_the_journal_with_a_right_chain(tmp_path: Path, kind: str, garbage: bytes) -> None:
    fill(tmp_path)
    with Store.open(tmp_path, IDENTITY) as store:
        journal: Journal = store._journal
        journal.append(kind, garbage)
        with pytest.raises(StorageError, match="table journal, row 8"):
            {"round": store.rounds, "contribution": store.mechanisms, "exclusion": store.exclusions}[kind]()


@pytest.mark.parametrize("peer", ["CAST(x'ff' AS TEXT)", "'nobody'", "''"])
@pytest.mark.parametrize("table", ["peers", "evidence"])
def test_a_peer_that_is_none(tmp_path: Path, table: str, peer: str) -> None:
    fill(tmp_path)
    kind = "" if table == "peers" else "'kind', "
    edit(tmp_path, f"INSERT INTO {table} VALUES ({peer}, {kind}x'90')")
    with Store.open(tmp_path, IDENTITY) as store, pytest.raises(StorageError, match=f"table {table}"):
        READS[f"{table}, "](store)


def test_columns_of_other_types(tmp_path: Path) -> None:
    """STRICT tables refuse them; somebody may have put others in their place."""
    fill(tmp_path)
    edit(
        tmp_path,
        "DROP TABLE peers",
        "CREATE TABLE peers (peer, addresses)",
        "INSERT INTO peers VALUES (1, 2)",
    )
    with Store.open(tmp_path, IDENTITY) as store, pytest.raises(StorageError, match="table peers"):
        store.peers()
    edit(tmp_path, "DROP TABLE journal", "CREATE TABLE journal (sequence, kind, body, chain)")
    edit(tmp_path, "INSERT INTO journal VALUES (0, 1.5, 1000000000000, 'chain')")
    with pytest.raises(StorageError, match="journal row 0"):
        Store.open(tmp_path, IDENTITY)
    edit(tmp_path, "DROP TABLE journal", "CREATE TABLE journal (other)")
    with pytest.raises(StorageError):
        Store.open(tmp_path, IDENTITY)


# -- evidence
def test_a_peer_cannot_fill_the_disk_with_evidence(tmp_path: Path) -> None:
    with Store.open(tmp_path, IDENTITY) as store:
        for number in range(EVIDENCE_ROWS + 5):
            store.keep_evidence(PEERS[0], f"kind {number}", [b"message"])
        store.keep_evidence(PEERS[1], "kind", [bytes(EVIDENCE_BYTES - 16)])
        store.keep_evidence(PEERS[1], "long", [bytes(EVIDENCE_BYTES)])
        kept = store.evidence()
    assert [kind for peer, kind, _ in kept if peer == PEERS[0]] == [f"kind {n}" for n in range(EVIDENCE_ROWS)]
    assert [(kind, sum(map(len, messages))) for peer, kind, messages in kept if peer == PEERS[1]] == [
        ("kind", EVIDENCE_BYTES - 16),
        ("long", 0),
    ]


# -- files
def test_only_the_owner_can_read_what_is_there(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    with Store.open(directory, IDENTITY) as store:
        store.charge(0, CHARGE)
        store.save_released(model(1))
        modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
    assert {DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"} < set(modes)
    assert set(modes.values()) == {0o600}
    assert directory.stat().st_mode & 0o777 == 0o700
    (directory / DATABASE).chmod(0o644)
    with Store.open(directory, IDENTITY) as store:
        store.charge(1, CHARGE)
        assert {path.stat().st_mode & 0o777 for path in directory.iterdir()} == {0o600}


def test_a_damaged_model_file_is_refused(tmp_path: Path) -> None:
    with Store.open(tmp_path, IDENTITY) as store:
        store.save_released(model(1))
        path = store.model_path
        assert path is not None
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        with pytest.raises(StorageError, match="digest"):
            store.released()
        path.unlink()
        with pytest.raises(StorageError):
            store.released()


def test_only_the_latest_models_are_kept(tmp_path: Path) -> None:
    with Store.open(tmp_path, IDENTITY) as store:
        for round in range(6):
            store.save_released(model(round))
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "model-00000004.safetensors",
        "model-00000005.safetensors",
    ]


def test_one_model_is_the_same_file_at_every_node(tmp_path: Path) -> None:
    """Whatever order the metadata comes in: safetensors draws one for every file."""
    assert len({checkpoint.to_bytes(model(7)) for _ in range(20)}) == 1
    one, other = tmp_path / "one", tmp_path / "other"
    for directory, rounds in ((one, (6, 7)), (other, (7, 6, 7))):
        with Store.open(directory, IDENTITY) as store:
            for round in rounds:
                store.save_released(model(round))
    name = "model-00000007.safetensors"
    assert (one / name).read_bytes() == (other / name).read_bytes()


def test_reading_needs_a_state_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no node state"):
        Store.open(tmp_path, IDENTITY, readonly=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / DATABASE).touch()
    with pytest.raises(StorageError, match="no node state"):
        Store.open(tmp_path, IDENTITY, readonly=True)


def test_a_damaged_database_says_so(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"not a database at all, but long enough to be read as one" * 100)
    with pytest.raises(StorageError, match="damaged"):
        Store.open(tmp_path, IDENTITY)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    with_garbage(tmp_path, "meta, version", b"99")
    with pytest.raises(StorageError, match="newer"):
        Store.open(tmp_path, IDENTITY)


KILLED = """
import os, pathlib, signal, sys
from p2pfl.crypto.identity import Identity
from p2pfl.node.accountant import Mechanism
from p2pfl.node.storage.store import Store
store = Store.open(pathlib.Path(sys.argv[1]), Identity.from_seed(bytes(32)))
for round in range(10):
    store.charge(round, Mechanism("training", "train", "distributed", 1.5, 0.5, 1, 4, 3, 1))
    print(round, flush=True)
    if round == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("last", [0, 3])
def test_a_charge_that_returned_survives_sigkill(tmp_path: Path, last: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(last)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == -9, done.stderr
    with Store.open(tmp_path, IDENTITY) as store:
        assert len(store.mechanisms()) == last + 1 == len(done.stdout.split())
