"""Disks that are full, read-only or wrong, older formats, and backups."""

import shutil
import sqlite3
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from p2pfl import cli
from p2pfl.crypto.identity import Identity
from p2pfl.gossip.events import Course
from p2pfl.gossip.evidence import Accusation, contradiction
from p2pfl.gossip.messages import Masked
from p2pfl.gossip.wire import signed
from p2pfl.node.accountant import Mechanism
from p2pfl.node.errors import ExitCode, StorageError
from p2pfl.node.monitoring.status import FILE, Status, read_status
from p2pfl.node.released import Released
from p2pfl.node.storage.database import DATABASE
from p2pfl.node.storage.identity_file import save_identity
from p2pfl.node.storage.migration import copy_of
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.storage.store import Exclusion, Store

IDENTITY = Identity.from_seed(bytes(32))
CHARGE = Mechanism("training", "train", "distributed", 1.5, 0.5, 1, 4, 3, 1)
PEERS = tuple(Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2, 3, 4))
FORMAT_1 = Path(__file__).with_name("format-1.sql")


def rounds(store: Store, *numbers: int) -> None:
    for round in numbers:
        store.charge(round, CHARGE, PEERS)
        store.save_released(Released(round, 1, np.array([1.0]), np.full(9, float(round))))
        store.record_round(RoundOutcome(round, "training", PEERS, PEERS, "", True, 0), Course(PEERS))


def charged(directory: Path) -> list[int]:
    with Store.open(directory, IDENTITY, readonly=True) as store:
        return [charge.round for charge in store.charges()]


# -- full, read-only
FILL = """
import resource, sys
from pathlib import Path
from p2pfl.crypto.identity import Identity
from p2pfl.node.errors import StorageError
from p2pfl.node.storage.store import Exclusion, Store
with Store.open(Path(sys.argv[1]), Identity.from_seed(bytes(32))) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    for round in range(500):
        try:
            store.charge(round, None, [500 * "x"] * 20)
        except StorageError as error:
            print(round, error.what)
            break
"""


def test_a_full_disk_ends_in_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", FILL, tmp_path], capture_output=True, text=True, check=True)
    failed, what = ended.stdout.strip().split(" ", 1)
    assert "disk" in what
    assert charged(tmp_path)[: int(failed)] == list(range(int(failed)))
    with Store.open(tmp_path, IDENTITY) as store:
        store.charge(9999, None)
    assert charged(tmp_path)[-1] == 9999


def test_the_exit_status_is_right_when_nothing_can_be_said(tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "p2pfl", "status", "--config", str(tmp_path / "none.toml")]
        assert subprocess.run(command, stderr=full, check=False).returncode == ExitCode.CONFIG


def test_a_disk_that_became_read_only_is_named(tmp_path: Path) -> None:
    with Store.open(tmp_path, IDENTITY) as store:
        rounds(store, 0)
        store._database.execute("PRAGMA query_only = 1")
        with pytest.raises(StorageError, match="read-only"):
            store.charge(1, CHARGE)
    assert charged(tmp_path) == [0]


# -- damaged
def test_a_flipped_bit_in_the_database_is_found_or_harmless(tmp_path: Path) -> None:
    with Store.open(tmp_path / "sound", IDENTITY) as store:
        rounds(store, 0, 1, 2)
    sound = (tmp_path / "sound" / DATABASE).read_bytes()
    refused = 0
    for where in range(7, len(sound), max(1, len(sound) // 60)):
        directory = tmp_path / "flipped"
        shutil.copytree(tmp_path / "sound", directory)
        flipped = bytearray(sound)
        flipped[where] ^= 1 << where % 8
        (directory / DATABASE).write_bytes(flipped)
        try:
            assert charged(directory) == [0, 1, 2]
        except StorageError:
            refused += 1
        shutil.rmtree(directory)
    assert refused > 5


def test_a_damaged_log_of_the_database_takes_no_charge_along(tmp_path: Path) -> None:
    """SQLite takes what comes before the damage; what was charged is in the file itself by then."""
    with Store.open(tmp_path / "running", IDENTITY) as store:
        rounds(store, 0, 1, 2)
        shutil.copytree(tmp_path / "running", tmp_path / "copied")
    log = tmp_path / "copied" / f"{DATABASE}-wal"
    (tmp_path / "copied" / f"{DATABASE}-shm").unlink()
    content = bytearray(log.read_bytes())
    assert content, "the last receipt"
    content[40] ^= 1
    log.write_bytes(content)
    with Store.open(tmp_path / "copied", IDENTITY) as store:
        assert [charge.round for charge in store.charges()] == [0, 1, 2]
        assert len(store.rounds()) == 2


def test_a_reader_does_not_hold_up_a_charge(tmp_path: Path) -> None:
    with Store.open(tmp_path, IDENTITY) as store:
        rounds(store, 0)
        with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM journal").fetchall()
            began = time.monotonic()
            rounds(store, 1)
            assert time.monotonic() - began < 4  # the busy time-out is five
        rounds(store, 2)
    assert charged(tmp_path) == [0, 1, 2]


def test_a_flipped_bit_in_model_or_status_is_named(tmp_path: Path) -> None:
    with Store.open(tmp_path, IDENTITY) as store:
        rounds(store, 0)
        path = store.model_path
        assert path is not None
        Status(IDENTITY.peer_id, "00").write(tmp_path)
        for file, read in ((path, store.released), (tmp_path / FILE, lambda: read_status(tmp_path))):
            content = bytearray(file.read_bytes())
            content[0] ^= 0x80
            file.write_bytes(content)
            with pytest.raises(StorageError, match=file.name):
                read()


# -- older formats
def old(directory: Path) -> None:
    """What p2pfl 0.1 left: rounds 0 and 2 completed, 1 skipped."""
    directory.mkdir()
    with closing(sqlite3.connect(directory / DATABASE)) as connection:
        connection.executescript(FORMAT_1.read_text())


def test_format_1_is_read_as_it_is_and_migrated_with_a_copy(tmp_path: Path) -> None:
    old(tmp_path / "state")
    before = copy_of(tmp_path / "state" / DATABASE, 1)
    with Store.open(tmp_path / "state", IDENTITY, readonly=True) as store:
        outcomes, charges = store.rounds(), store.charges()
        assert [(outcome.round, outcome.completed) for outcome in outcomes] == [
            (0, True),
            (1, False),
            (2, True),
        ]
        assert outcomes[2].evaluation == (1.5, 2.0)
        assert store.receipts() == []
    assert not before.exists()
    with Store.open(tmp_path / "state", IDENTITY) as store:
        assert (store.rounds(), store.charges()) == (outcomes, charges)
        rounds(store, 3)
        assert [outcome.round for outcome in store.rounds()] == [0, 1, 2, 3]
    with Store.open(tmp_path / "state", IDENTITY) as store:
        assert [kept.receipt.round for kept in store.receipts()] == [3]
    (tmp_path / "back").mkdir()
    shutil.copy(before, tmp_path / "back" / DATABASE)
    with Store.open(tmp_path / "back", IDENTITY, readonly=True) as store:
        assert store.charges() == charges
        assert store._check_version() == 1


# -- backups
@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config of a node that has run."""
    monkeypatch.chdir(tmp_path)
    save_identity(Path("identity.key"), IDENTITY)
    Path("node.toml").write_text('identity = "identity.key"\nstate = "state"\n[data]\ntrain = "train.csv"\n')
    old(tmp_path / "state")
    with Store.open(Path("state"), IDENTITY) as store:
        rounds(store, 3, 4)
    Path("state").chmod(0o700)
    return Path("node.toml")


def test_a_backup_of_a_running_node_is_a_node(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Store.open(Path("state"), IDENTITY) as running:
        rounds(running, 5)
        assert cli.main(["backup", "--config", "node.toml", "--out", "one.tar", "--with-key"]) == 0
        rounds(running, 6)
    assert "goes to round 5" in capsys.readouterr().err
    assert Path("one.tar").stat().st_mode & 0o777 == 0o600
    with tarfile.open("one.tar") as archive:
        archive.extractall("restored", filter="data")
    with Store.open(Path("restored/state"), Identity.from_seed(bytes(32))) as store:
        assert store.last_contribution() == 5
        released = store.released()
        assert released is not None
        assert released.round == 5
        rounds(store, 6)
    assert {path.name for path in Path("restored").iterdir()} == {"node.toml", "identity.key", "state"}
    assert cli.main(["backup", "--config", "node.toml", "--out", "one.tar"]) == ExitCode.STORAGE
    assert cli.main(["backup", "--config", "node.toml", "--out", "two.tar"]) == 0
    with tarfile.open("two.tar") as archive:
        assert "identity.key" not in archive.getnames()


def test_a_backup_has_every_file_where_its_config_looks_for_it(node: Path) -> None:
    Path("secrets").mkdir()
    ticket = Path("secrets/ticket.txt")
    ticket.write_text("p2pfl-ticket-v1:")
    outside = Path("..") / f"{Path.cwd().name}-ticket"
    outside.write_text("p2pfl-ticket-v1:")
    text = node.read_text()
    for number, (named, kept) in enumerate([(ticket, "secrets/ticket.txt"), (outside, "ticket")]):
        node.write_text(f'{text}\n[federation]\nticket = "{named}"\n')
        assert cli.main(["backup", "--config", "node.toml", "--out", f"{number}.tar"]) == 0
        with tarfile.open(f"{number}.tar") as archive:
            assert kept in archive.getnames()


def test_nothing_is_backed_up_where_no_node_ran(
    node: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("state")
    assert cli.main(["backup", "--config", "node.toml", "--out", "one.tar"]) == ExitCode.STORAGE
    assert "no node state in state" in capsys.readouterr().err


@pytest.mark.parametrize("found", ["missing", "empty"])
def test_a_ledger_that_is_gone_is_not_begun_anew(
    node: Path, capsys: pytest.CaptureFixture[str], found: str
) -> None:
    for path in Path("state").glob(f"{DATABASE}*"):
        path.unlink()
    if found == "empty":
        (Path("state") / DATABASE).touch()
    assert cli.main(["node", "--config", "node.toml"]) == ExitCode.STORAGE
    assert f"{DATABASE} is {found}, and model-" in capsys.readouterr().err
    assert checked(capsys)[1]["database"].startswith("WRONG")


def test_a_node_that_is_excluded_is_told_so(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masked = [
        signed(IDENTITY, Masked.of(IDENTITY.peer_id, (1, 0, bytes(32)), 0, bytes([n]) * 12)) for n in (1, 2)
    ]
    proof = contradiction(masked)
    assert proof is not None
    with Store.open(Path("state"), IDENTITY) as store:
        store.exclude(Exclusion(1_800_000_000, Accusation(IDENTITY.peer_id, "", proof)))
    status, found = checked(capsys)
    assert found["ticket"].startswith("WRONG: this node is excluded: ")
    assert status == ExitCode.NETWORK


def test_secrets_that_others_may_read_are_found(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = Path("status.token")
    token.write_text("t" * 32)
    node.write_text(f'{node.read_text()}\n[status]\ntoken_file = "{token}"\n')
    for mode, wrong in [(0o644, True), (0o600, False)]:
        token.chmod(mode)
        assert checked(capsys)[1]["file modes"].startswith("WRONG") == wrong


def test_nothing_is_backed_up_that_cannot_be_trusted(node: Path) -> None:
    with closing(sqlite3.connect(Path("state") / DATABASE)) as connection, connection:
        connection.execute("DELETE FROM journal WHERE sequence = 3")
    assert cli.main(["backup", "--config", "node.toml", "--out", "one.tar"]) == ExitCode.STORAGE
    assert sorted(path.name for path in Path().iterdir()) == ["identity.key", "node.toml", "state"]


# -- p2pfl node --check
def checked(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str]]:
    status = cli.main(["node", "--check", "--config", "node.toml"])
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith(" ")]
    return status, dict(line.split(": ", 1) for line in lines)


def test_a_directory_is_checked_as_far_as_it_goes(node: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Status(IDENTITY.peer_id, "00").write(Path("state"))
    status, found = checked(capsys)
    wrong = {name for name, said in found.items() if said.startswith("WRONG")}
    assert wrong == {"ticket", "data"}  # there is neither
    assert status == ExitCode.TICKET
    assert "charged up to round 4" in found["journal"]
    assert found["model"] == "that of round 4, as it was released"
    assert found["receipts"].startswith("2, all signed")


def _damage_model() -> None:
    next(Path("state").glob("model-*4.safetensors")).write_bytes(b"")


def _edit_journal() -> None:
    with closing(sqlite3.connect(Path("state") / DATABASE)) as connection, connection:
        connection.execute("UPDATE journal SET body = x'00' WHERE sequence = 2")


@pytest.mark.parametrize(
    ("damage", "name", "status"),
    [
        (lambda: Path("identity.key").chmod(0o644), "identity", ExitCode.IDENTITY),
        (lambda: (Path("state") / DATABASE).chmod(0o640), "file modes", ExitCode.STORAGE),
        (_damage_model, "model", ExitCode.STORAGE),
        (_edit_journal, "journal", ExitCode.STORAGE),
    ],
)
def test_the_first_fault_decides_the_exit_status(
    node: Path, capsys: pytest.CaptureFixture[str], damage: object, name: str, status: ExitCode
) -> None:
    assert callable(damage)
    damage()
    code, found = checked(capsys)
    assert found[name].startswith("WRONG")
    assert code == status
