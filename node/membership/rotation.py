"""A new key for a node, in its old place: journal and ledger go on under the new one.

Three steps, each whole or not at all: the new key is saved beside the old one; the journal takes in the
succession and is chained anew, in one transaction; the new key replaces the old. Killed between two of them,
the same command goes on where it was: the same two keys sign the same succession again, byte for byte.
"""

import os
from pathlib import Path

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.successions import MAX_SUCCESSIONS, Succession, succeed
from p2pfl.node.config import NodeConfig
from p2pfl.node.errors import IdentityError, StorageError, reason_of
from p2pfl.node.storage.atomic_file import sync_directory, write_atomically
from p2pfl.node.storage.identity_file import load_identity, save_identity
from p2pfl.node.storage.lock import locked
from p2pfl.node.storage.store import Store


def next_key(identity: Path) -> Path:
    """Where the new key is while the change is under way."""
    return identity.with_name(identity.name + ".next")


def issuer_key(identity: Path) -> Path:
    """Where a replaced key goes that the manifest names as an issuer: nobody else can issue in its place."""
    return identity.with_name(identity.name + ".issuer")


def settled_identity(path: Path) -> Identity:
    """The identity in ``path``, for a node to begin with.

    Raises IdentityError, also if a change of this key was begun and not finished.
    """
    if next_key(path).exists():
        what = f"{next_key(path)}: a change of this node's key was begun and not finished"
        raise IdentityError(what, "run `p2pfl rotate` again with the same config: it finishes it")
    return load_identity(path)


def rotate(config: NodeConfig, random: RandomBytes) -> Succession:
    """Give the node of ``config``, which must not be running, a new key. Returns what others will be shown.

    Raises StorageError, IdentityError.
    """
    identity, state = config.identity, config.state
    with locked(state):
        old = load_identity(identity)
        if not next_key(identity).exists():
            with Store.open(state, old) as store:
                _require_possible(store)
            save_identity(next_key(identity), Identity.generate(random))
        new = load_identity(next_key(identity))
        succession = _recorded(state, new)
        if succession is None:
            with Store.open(state, old) as store:
                succession = succeed(old, new, _require_possible(store).digest)
                store.change_identity(succession, new)
        _replace(identity, old, state, new)
        return succession


def _require_possible(store: Store) -> Manifest:
    """The manifest of the federation in which there is a place to keep.

    Raises StorageError, IdentityError.
    """
    manifest = store.manifest()
    if manifest is None:
        what = f"the node in {store.directory} has not joined a federation yet: it has no place to keep"
        raise StorageError(what, "make a new identity with `p2pfl init` instead")
    if len(store.successions()) >= MAX_SUCCESSIONS:
        what = f"this node has changed its key {MAX_SUCCESSIONS} times in this federation, the most there is"
        raise IdentityError(what, "ask the issuers to revoke it, and for a ticket for a new identity")
    return manifest


def _recorded(state: Path, new: Identity) -> Succession | None:
    """The succession, if the journal is the new key's already."""
    try:
        with Store.open(state, new, readonly=True) as store:
            found = store.successions()
    except StorageError:
        return None
    return found[0] if found and found[0].successor == new.peer_id else None


def _replace(path: Path, old: Identity, state: Path, new: Identity) -> None:
    with Store.open(state, new, readonly=True) as store:
        manifest = store.manifest()
    kept = issuer_key(path)
    try:
        if manifest is not None and old.peer_id in manifest.issuers and not kept.exists():
            write_atomically(kept, path.read_bytes(), 0o600)
        os.replace(next_key(path), path)
        sync_directory(path.parent)
    except OSError as error:
        what = f"{path}: cannot be replaced: {reason_of(error)}"
        raise StorageError(what, "check its permissions, and run `p2pfl rotate` again") from None
