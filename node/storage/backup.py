"""A copy of a node's directory, taken while the node may be running, that a node can be started from.

It is one tar file: ``node.toml``, the ticket if there is one, and in ``state/`` the database as it is at one
moment, the model that it points to, and what own records are in; the key only if asked for. Each is where
``node.toml`` looks for it, if that is below its own folder. Everything is opened and checked as a node would
before the file gets its name.

A backup knows of the ledger what was spent by then. A node that goes on with an old one would spend that
again; what guards against it is in :mod:`p2pfl.node.storage.last_signed`.
"""

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from p2pfl.crypto.identity import Identity
from p2pfl.node.config import NodeConfig
from p2pfl.node.errors import StorageError
from p2pfl.node.storage.atomic_file import sync_directory
from p2pfl.node.storage.database import DATABASE, Database, explained
from p2pfl.node.storage.identity_file import load_identity
from p2pfl.node.storage.own_file import PERSONAL, PRIVATE
from p2pfl.node.storage.store import Store

_TRIES = 5
_CONFIG = "node.toml"


def back_up(config_file: Path, config: NodeConfig, out: Path, *, with_key: bool) -> int:
    """Write the backup to the new file ``out``, for its owner alone; return the last round charged in it, -1
    if none was.

    Raises StorageError if the state cannot be trusted, or ``out`` exists or cannot be written.
    """
    identity = load_identity(config.identity)
    if out.exists():
        raise StorageError(f"{out} exists already, and is never overwritten", "choose another name")
    with explained(out), tempfile.TemporaryDirectory(prefix=".p2pfl-backup-", dir=out.parent) as name:
        folder = Path(name) / "node"
        state = folder / _place(config_file, config.state, "state")
        state.mkdir(mode=0o700, parents=True)
        last = _copy_state(config.state, state, identity)
        beside = {_CONFIG: config_file}
        if config.ticket is not None:
            beside[_place(config_file, config.ticket, "ticket")] = config.ticket
        if with_key:
            beside[_place(config_file, config.identity, "identity.key")] = config.identity
        for called, source in beside.items():
            if source.is_file():
                _copy(source, folder / called)
        _write(Path(name) / "backup.tar", folder, out)
    return last


def _place(config_file: Path, path: Path, otherwise: str) -> str:
    """Where the restored config finds ``path``; ``otherwise`` if that is not below its folder."""
    folder = os.path.abspath(config_file.parent)
    relative = os.path.relpath(os.path.abspath(path), folder)
    return otherwise if relative.split(os.sep)[0] == os.pardir else relative


def _copy_state(source: Path, to: Path, identity: Identity) -> int:
    """The database, checked, and the model that it names, which a running node may have replaced meanwhile.
    Returns the last round that was charged.
    """
    if not (source / DATABASE).exists():
        raise StorageError(f"no node state in {source}", "start the node once, or name its config")
    for _ in range(_TRIES):
        database = Database.open(source / DATABASE, readonly=True)
        try:
            database.copy_to(to / DATABASE)
        finally:
            database.close()
        with Store.open(to, identity, readonly=True) as copy:
            names = [PRIVATE, PERSONAL] + ([copy.model_path.name] if copy.model_path else [])
            for name in names:
                if (source / name).is_file():
                    _copy(source / name, to / name)
            if copy.model_path is None or copy.model_path.is_file():
                copy.released()
                return copy.last_contribution()
    what = f"{source}: the model that the database names is missing"
    raise StorageError(what, "see what `p2pfl node --check` says")


def _copy(source: Path, to: Path) -> None:
    to.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(source, to)
    to.chmod(0o600)


def _write(tar: Path, folder: Path, out: Path) -> None:
    with tar.open("xb") as file:
        tar.chmod(0o600)
        with tarfile.open(fileobj=file, mode="w") as archive:
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(tar, out)
    except FileExistsError:
        raise StorageError(f"{out} exists already, and is never overwritten", "choose another name") from None
    sync_directory(out.parent)
