import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.node.accountant import Mechanism
from p2pfl.node.errors import StorageError
from p2pfl.node.released import Released
from p2pfl.node.store import DATABASE, RoundOutcome, Store

IDENTITY = Identity.from_seed(bytes(32))
CHARGE = Mechanism("training", "train", "distributed", 1.5, 0.5, 1, 4, 3, 1)
PEERS = (PeerId("A"), PeerId("B"))


def outcome(round: int) -> RoundOutcome:
    return RoundOutcome(round, "training", PEERS, PEERS, "", True, 0)


def model(round: int) -> Released:
    return Released(round, 1, np.array([1.0, 2.0]), np.array([0.25 * round]))


def fill(directory: Path) -> None:
    with Store.open(directory, IDENTITY) as store:
        for round in range(4):
            store.charge(round, CHARGE)
            store.record_round(outcome(round))


def test_what_is_written_is_there_after_reopening(tmp_path: Path) -> None:
    fill(tmp_path)
    with Store.open(tmp_path, IDENTITY) as store:
        store.bind_manifest(b"manifest")
        store.save_released(model(3))
        store.remember_peer(PEERS[0], ["/ip4/127.0.0.1/tcp/1"])
        store.keep_evidence(PEERS[1], "two survivor sets", [b"one", b"two"])
    with Store.open(tmp_path, IDENTITY, readonly=True) as store:
        assert store.mechanisms() == [CHARGE] * 4
        assert store.last_contribution() == 3
        assert store.rounds() == [outcome(round) for round in range(4)]
        assert store.manifest_bytes() == b"manifest"
        assert store.peers() == {PEERS[0]: ("/ip4/127.0.0.1/tcp/1",)}
        assert store.evidence() == [(PEERS[1], "two survivor sets")]
        released = store.released()
    assert released is not None
    assert released.digest == model(3).digest


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE journal SET body = (SELECT body FROM journal WHERE sequence = 4) WHERE sequence = 2",
        "DELETE FROM journal WHERE sequence = 2",
        "DELETE FROM journal WHERE sequence = 0",
        "UPDATE journal SET kind = 'round' WHERE sequence = 4",
        "UPDATE journal SET chain = zeroblob(32) WHERE sequence = 7",
        "INSERT INTO journal VALUES (8, 'mechanism', x'00', zeroblob(32))",
        "UPDATE journal SET sequence = 9 WHERE sequence = 7",
    ],
)
def test_an_edited_journal_is_refused(tmp_path: Path, edit: str) -> None:
    fill(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute(edit)
    with pytest.raises(StorageError, match="journal row"):
        Store.open(tmp_path, IDENTITY)


def test_another_identity_cannot_vouch_for_the_journal(tmp_path: Path) -> None:
    fill(tmp_path)
    with pytest.raises(StorageError, match="another identity"):
        Store.open(tmp_path, Identity.from_seed(bytes([1]) * 32))


def test_one_directory_is_one_federation(tmp_path: Path) -> None:
    with Store.open(tmp_path, IDENTITY) as store:
        store.bind_manifest(b"one")
        store.bind_manifest(b"one")
        with pytest.raises(StorageError, match="another federation"):
            store.bind_manifest(b"two")


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


def test_reading_needs_a_state_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no node state"):
        Store.open(tmp_path, IDENTITY, readonly=True)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_database_says_so(tmp_path: Path) -> None:
    (tmp_path / DATABASE).write_bytes(b"not a database at all, but long enough to be read as one" * 100)
    with pytest.raises(StorageError, match="damaged"):
        Store.open(tmp_path, IDENTITY)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'version'", (b"99",))
    with pytest.raises(StorageError, match="newer"):
        Store.open(tmp_path, IDENTITY)


KILLED = """
import os, pathlib, signal, sys
from p2pfl.crypto.identity import Identity
from p2pfl.node.accountant import Mechanism
from p2pfl.node.store import Store
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
