"""A new key in the old place: journal and ledger go on, whenever the power fails."""

import dataclasses
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import canonical_bytes, from_toml
from p2pfl.gossip.successions import MAX_SUCCESSIONS, succeed
from p2pfl.node.config import NodeConfig, load_config
from p2pfl.node.errors import IdentityError, StorageError
from p2pfl.node.membership import rotation
from p2pfl.node.membership.rotation import issuer_key, next_key, rotate, settled_identity
from p2pfl.node.storage.identity_file import load_identity, save_identity
from p2pfl.node.storage.journal import Journal
from p2pfl.node.storage.store import Store

OLD, ISSUER, OTHER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
CHARGES = 3


def manifest(issuer: Identity = ISSUER) -> bytes:
    return canonical_bytes(
        from_toml(
            f"""
            name = "hearts"
            issuers = ["{issuer.peer_id}"]
            members = ["{OLD.peer_id}"]
            task.label = "y"
            task.positive = ["1"]
            task.columns = [{{ name = "x", kind = "numeric", low = 0, high = 1 }}]
            model = {{ kind = "logistic" }}
            training = {{ rounds = 1, learning_rate = 1, sampling_rate = 1, expected_batch = 1 }}
            privacy = {{ mode = "none" }}
            """
        )
    )


def node(directory: Path, issuer: Identity = ISSUER) -> NodeConfig:
    save_identity(directory / "identity.key", OLD)
    (directory / "node.toml").write_text("")
    config = load_config(directory / "node.toml", {}, {})
    config.state.mkdir()
    with Store.open(config.state, OLD) as store:
        store.bind_manifest(manifest(issuer))
        for round in range(CHARGES):
            store.charge(round, None)
    return config


def randoms() -> Callable[[int], bytes]:
    numbers = itertools.count(100)
    return lambda size: bytes([next(numbers)]) * size


def test_the_ledger_goes_on_under_the_new_key(tmp_path: Path) -> None:
    config = node(tmp_path)
    succession = rotate(config, randoms())
    new = load_identity(config.identity)
    assert (succession.author, succession.successor) == (OLD.peer_id, new.peer_id)
    with Store.open(config.state, new) as store:
        assert store.last_contribution() == CHARGES - 1
        assert store.successions() == (succession,)
        store.charge(CHARGES, None)
    with Store.open(config.state, new) as store:
        assert len(store.charges()) == CHARGES + 1
    with pytest.raises(StorageError, match="changed after it was written"):
        Store.open(config.state, OLD)
    settled_identity(config.identity)
    assert not issuer_key(config.identity).exists()


class PowerCutError(Exception):
    """Stands for the end of the process."""


def cut(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Let the process end before the ``at``-th thing that is written or renamed, from 0."""
    count = itertools.count()

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            if next(count) == at:
                raise PowerCutError
            return function(*args, **kwargs)

        return run

    for owner, name in (
        (os, "replace"), (os, "link"), (rotation, "sync_directory"),
        (Journal, "_link"), (Journal, "_write_head"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


def test_cut_off_anywhere_it_is_finished_by_the_same_command(tmp_path: Path) -> None:
    ends = set()
    for at in itertools.count():
        directory = tmp_path / str(at)
        directory.mkdir()
        config, random = node(directory), randoms()
        with pytest.MonkeyPatch.context() as patch:
            cut(patch, at)
            try:
                rotate(config, random)
            except PowerCutError:
                ends.add(next_key(config.identity).exists())
            else:
                break
        begun = next_key(config.identity).exists() and load_identity(next_key(config.identity)).peer_id
        if begun:
            with pytest.raises(IdentityError, match="begun and not finished"):
                settled_identity(config.identity)
        if not begun and load_identity(config.identity).peer_id != OLD.peer_id:
            continue  # it was done but for making the name durable
        succession = rotate(config, random)
        assert begun in (False, succession.successor)
        with Store.open(config.state, load_identity(config.identity)) as store:
            assert store.successions() == (succession,)
            assert len(store.charges()) == CHARGES
    assert ends == {False, True}


def test_a_failing_transaction_leaves_the_journal_to_the_old_key(tmp_path: Path) -> None:
    config = node(tmp_path)
    with Store.open(config.state, OLD) as store, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "_write_head", lambda *_: (_ for _ in ()).throw(PowerCutError))
        with pytest.raises(PowerCutError):
            store.change_identity(succeed(OLD, OTHER, bytes(32)), OTHER)
        patch.undo()
        store.charge(CHARGES, None)
    with Store.open(config.state, OLD) as store:
        assert len(store.charges()) == CHARGES + 1
        assert store.successions() == ()


def test_a_key_is_changed_so_often_and_no_more(tmp_path: Path) -> None:
    config, random = node(tmp_path), randoms()
    made = [rotate(config, random) for _ in range(MAX_SUCCESSIONS)]
    with Store.open(config.state, load_identity(config.identity)) as store:
        assert store.successions() == tuple(reversed(made))
    with pytest.raises(IdentityError, match="the most there is"):
        rotate(config, random)
    settled_identity(config.identity)  # and nothing was begun


def test_a_key_that_issues_tickets_is_kept_for_that(tmp_path: Path) -> None:
    config = node(tmp_path, issuer=OLD)
    rotate(config, randoms())
    assert load_identity(issuer_key(config.identity)).peer_id == OLD.peer_id


def test_a_node_that_never_joined_has_no_place_to_keep(tmp_path: Path) -> None:
    config = node(tmp_path)
    empty = dataclasses.replace(config, state=tmp_path / "empty")
    with pytest.raises(StorageError, match="has not joined"):
        rotate(empty, randoms())
