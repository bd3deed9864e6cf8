"""Records to measure on: which a share holds out, and what a node says of those that it also learns from."""

import os
import shutil
import struct
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import canonical_bytes, from_toml
from p2pfl.node.config import NodeConfig, load_config
from p2pfl.node.errors import ConfigError, DataError, UserError
from p2pfl.node.start import Records, check_files, load_records, load_test, prepared
from p2pfl.node.storage.check import check_directory
from p2pfl.node.storage.identity_file import save_identity
from p2pfl.node.storage.store import Store
from p2pfl.node.training import held_out
from p2pfl.node.training.held_out import parted, record_digests
from p2pfl.node.training.table import Table

IDENTITY = Identity.from_seed(bytes(32))
MANIFEST = from_toml(
    f'name = "t"\nissuers = ["{IDENTITY.peer_id}"]\nmembers = ["{IDENTITY.peer_id}"]\n[task]\nlabel = "y"\n'
    'positive = ["1"]\ncolumns = [{ name = "x", kind = "numeric", low = 0, high = 999 }]\n[model]\n'
    'kind = "logistic"\n[training]\nrounds = 3\nlearning_rate = 1\nsampling_rate = 0.2\nexpected_batch = 1\n'
    '[privacy]\nmode = "none"\n'
)
NUMBERS = st.sampled_from([0.0, -0.0, 1.0, 0.5, -3.25, 1e300, np.nan, np.inf])
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, st.sampled_from([0.0, 1.0])), min_size=1, max_size=30)


def table(rows: list[tuple[float, ...]]) -> Table:
    values = np.array(rows).reshape(len(rows), 3)
    return Table(values[:, :2], values[:, 2], 5)


def counted(part: Table) -> Counter[bytes]:
    return Counter(record_digests(part))


# -- the split
@given(ROWS, ROWS, st.randoms(use_true_random=False), st.floats(0.05, 0.95))
def test_a_records_side_is_its_own(
    rows: list[tuple[float, ...]], more: list[tuple[float, ...]], random: Random, share: float
) -> None:
    train, kept = parted(table(rows), share)
    assert counted(train) + counted(kept) == counted(table(rows))
    assert not counted(train) & counted(kept)
    shuffled = rows + more
    random.shuffle(shuffled)
    later, later_kept = parted(table(shuffled), share)
    assert counted(kept) <= counted(later_kept)
    assert counted(train) <= counted(later)
    wider = parted(table(rows), (1 + share) / 2)[1]
    assert counted(kept) <= counted(wider)
    assert (train.dropped, kept.dropped) == (5, 0)


def test_what_is_hashed_is_the_documented() -> None:
    ours = sha256(b"p2pfl/held-out/v1\0" + struct.pack("<3d", 0.5, 0.0, 1.0)).digest()
    assert record_digests(table([(0.5, -0.0, 1.0)])) == [ours]
    odd = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_0000_0123))[0]
    missing, other, nothing = record_digests(table([(odd, 1.0, 1.0), (np.nan, 1.0, 1.0), (0.0, 1.0, 1.0)]))
    assert missing == other != nothing
    first = struct.unpack(">Q", ours[:8])[0] / 2**64
    assert len(parted(table([(0.5, 0.0, 1.0)]), first + 1e-9)[1]) == 1
    assert len(parted(table([(0.5, 0.0, 1.0)]), first - 1e-9)[1]) == 0


def test_pictures_and_texts_are_split_alike_whatever_their_type(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = np.random.default_rng(1).integers(0, 256, (400, 1, 3, 4))
    labels = np.arange(400) % 10
    expected = record_digests(Table(pictures.astype("f8"), labels))
    monkeypatch.setattr(held_out, "_BLOCK", 50)  # some records at a time
    for kind in ("u1", ">i2", "f4"):
        assert record_digests(Table(pictures.astype(kind), labels)) == expected
    assert 50 < len(parted(Table(pictures.astype("u1"), labels), 0.2)[1]) < 110
    window = np.arange(12, dtype=np.int16).reshape(2, 6)
    assert len(set(record_digests(Table(window, window)))) == 2


# -- at the start
@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., NodeConfig]:
    """In a directory with 60 records and 20 others."""
    monkeypatch.chdir(tmp_path)
    save_identity(Path("identity.key"), IDENTITY)
    Path("agreed.manifest").write_bytes(canonical_bytes(MANIFEST))
    write("train.csv", range(60))
    write("test.csv", range(100, 120))
    files = {"identity": "identity.key", "federation": "agreed.manifest", "data_train": "train.csv"}
    return lambda **more: load_config(None, {}, {**files, **more})


def write(name: str, values: range | list[int]) -> str:
    Path(name).write_text("x,y\n" + "".join(f"{value},{value % 2}\n" for value in values))
    return name


def link(name: str) -> None:
    os.link("train.csv", name)


def fold(name: str) -> None:
    Path("there").symlink_to(".")
    Path(name).symlink_to("there/train.csv")


def refused(kind: type[UserError], words: str, work: Callable[[], object]) -> UserError:
    with pytest.raises(kind, match=words) as caught:
        work()
    assert caught.value.hint
    assert caught.value.what.isprintable()
    return caught.value


@pytest.mark.parametrize("make", [link, fold, lambda name: shutil.copy("train.csv", name)])
def test_the_same_file_twice_is_refused_with_and_without_a_manifest(
    config: Callable[..., NodeConfig], make: Callable[[str], object]
) -> None:
    make("again.csv")
    twice = config(data_test="again.csv")
    for work in (lambda: check_files(twice), lambda: load_records(twice, MANIFEST)):
        refused(DataError, r"^data\.test: again\.csv is .* data\.train", work)


def test_the_same_records_in_another_file_are_refused(config: Callable[..., NodeConfig]) -> None:
    twice = config(data_test=write("turned.csv", [*range(59, -1, -1)]))
    check_files(twice)
    refused(
        DataError, r"^data\.test: .*the very records of data\.train", lambda: load_records(twice, MANIFEST)
    )
    found = {one.name: one for one in check_directory(twice)}["data"]
    assert not found.fine


def test_a_folder_that_is_both_is_refused(config: Callable[..., NodeConfig]) -> None:
    Path("pictures").mkdir()
    Path("others").symlink_to("pictures")
    both = config(data_train="pictures", data_test="others")
    refused(DataError, r"^data\.test: others is the very file or folder", lambda: check_files(both))


def test_some_records_in_both_are_counted(config: Callable[..., NodeConfig]) -> None:
    some = config(data_test=write("some.csv", [3, 3, 7, 100, 101]))
    records = load_records(some, MANIFEST)
    assert (records.in_both, len(records.train)) == (3, 60)
    assert records.doubt.startswith("data.test: 3 of its 5 records are in data.train too")
    found = {one.name: one for one in check_directory(some)}["data"]
    assert found.fine
    assert found.said.endswith(records.doubt)
    assert found.hint
    assert load_records(config(data_test="test.csv"), MANIFEST).doubt == ""


def test_what_is_held_out_is_never_learnt_from(config: Callable[..., NodeConfig]) -> None:
    def parts(share: float) -> tuple[Records, set[float], set[float]]:
        records = load_records(config(data_held_out=share), MANIFEST)
        assert records.test is not None
        return records, set(records.train.features[:, 0]), set(records.test.features[:, 0])

    records, learnt, kept = parts(0.2)
    assert learnt | kept == set(range(60))
    assert not learnt & kept
    assert records.said.startswith(f"{len(learnt)} records to learn from and {len(kept)} to measure on")
    assert records.doubt == ""
    write("train.csv", [*range(70, -1, -1)])
    _, more_learnt, more_kept = parts(0.2)
    assert learnt < more_learnt
    assert kept <= more_kept


def test_a_share_that_leaves_nothing_is_refused(config: Callable[..., NodeConfig]) -> None:
    tiny = config(data_held_out=1e-9)
    refused(ConfigError, r"^data\.held_out: .*of 60 records keeps 0", lambda: load_records(tiny, MANIFEST))
    full = config(data_held_out=1 - 1e-9)
    refused(ConfigError, r"^data\.held_out: .*leaves 0", lambda: load_records(full, MANIFEST))


def test_where_records_are_read_outside_nothing_can_be_held_out(config: Callable[..., NodeConfig]) -> None:
    outside = from_toml(
        f'name = "t"\nissuers = ["{IDENTITY.peer_id}"]\ntask = {{ kind = "outside" }}\n[model]\n'
        'kind = "outside"\ntensors = [{ name = "w", shape = [1] }]\n[training]\nrounds = 3\n[privacy]\n'
        'mode = "none"\n'
    )
    refused(ConfigError, r"^data\.held_out: ", lambda: load_records(config(data_held_out=0.2), outside))


def test_a_share_is_for_as_long_as_the_federation_lasts(config: Callable[..., NodeConfig]) -> None:
    def start(**options: object) -> None:
        with prepared(config(**options)) as ready:
            assert ready.records is not None

    start(data_held_out=0.3)
    start(data_held_out=0.2)  # nothing was learnt yet
    with Store.open(Path("state"), IDENTITY) as store:
        store.charge(0, None)
    start(data_held_out=0.2)
    for options in ({}, {"data_held_out": 0.3}):
        said = refused(ConfigError, r"^data\.held_out: .* with it 0\.2: ", lambda: start(**options))  # noqa: B023
        assert "set it to 0.2 again" in said.hint
        assert not {one.name: one for one in check_directory(config(**options))}["data"].fine
    with Store.open(Path("state"), IDENTITY, readonly=True) as store:
        kept = load_test(config(data_held_out=0.2), MANIFEST.task, store)
        assert kept is not None
        assert len(kept) == len(parted(load_records(config(), MANIFEST).train, 0.2)[1])
        refused(ConfigError, "sides", lambda: load_test(config(data_held_out=0.3), MANIFEST.task, store))
    start(data_test="test.csv")  # which records are whose is now for people to know
    said = refused(ConfigError, "with it not set", lambda: start(data_held_out=0.2))
    assert "leave it out again" in said.hint
