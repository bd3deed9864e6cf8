"""``p2pfl resume``: a node's directory for a federation that goes on where another one ended."""

import argparse
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.backbone_option import add_backbone

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from p2pfl.crypto.identity import Identity
    from p2pfl.gossip.manifest import Manifest
    from p2pfl.node.config import NodeConfig
    from p2pfl.node.storage.carried import Carried, Successor
    from p2pfl.node.storage.store import Store

CONFIG = "node.toml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl resume``."""
    parser.description = (
        "Set up a node's directory for another federation of the same records: the same identity, the config"
        " with its addresses and data, the initial values if the manifest names any, and a ledger that begins"
        " with what the old one holds, so that epsilon counts both. The old node never runs again. (A node"
        " that was stopped or killed needs none of this: start it again.)"
    )
    parser.add_argument(
        "--from", dest="old", metavar="DIR", type=Path, required=True, help=f"the old node's, with {CONFIG}"
    )
    parser.add_argument(
        "--directory",
        metavar="DIR",
        type=Path,
        required=True,
        help="the new node's, which does not exist yet",
    )
    parser.add_argument(
        "--federation", metavar="FILE", type=Path, required=True, help="the new federation's manifest"
    )
    parser.add_argument(
        "--initial", metavar="FILE", type=Path, help="the initial values, if the manifest names any"
    )
    add_backbone(parser)
    parser.add_argument(
        "--ticket", metavar="FILE", type=Path, help="a ticket for the new federation, if it takes one"
    )


def run(options: argparse.Namespace) -> int:
    """Make the directory; print where its config is."""
    import os

    from p2pfl.node.config import load_config
    from p2pfl.node.storage.identity_file import load_identity
    from p2pfl.node.storage.lock import locked
    from p2pfl.node.storage.manifest_file import read_manifest
    from p2pfl.node.storage.store import Store
    from p2pfl.terminal import note

    new: Path = options.directory
    _require_absent(new)
    config = load_config(options.old / CONFIG, os.environ, {"backbone": options.backbone})
    identity, manifest = load_identity(config.identity), read_manifest(options.federation)
    settings = replace(config, initial=options.initial, ticket=options.ticket)
    _require_usable(settings, identity, manifest)
    with locked(config.state), Store.open(config.state, identity) as store:
        old = _require_continuable(store, manifest, new)
        _require_sides_kept(settings, old, manifest)
        carried = _carried(store, old)
        successor = store.successor() or _handed_on(store, old, carried, settings, identity, manifest, new)
        _give_name(_made(successor, new), new)
    print(new / CONFIG)
    for line in _said(manifest, carried):
        note(line)
    note(f"next: p2pfl node --config {new / CONFIG}")
    return 0


def _require_absent(directory: Path) -> None:
    from p2pfl.node.errors import StorageError

    if directory.exists() or directory.is_symlink():
        what = f"{directory} exists already, and is never overwritten"
        raise StorageError(what, "name a directory that does not exist yet")


def _require_usable(settings: "NodeConfig", identity: "Identity", manifest: "Manifest") -> None:
    """Raises UserError if the node could not start in the federation: its files are not what it asks for."""
    from p2pfl.node.membership.admission import FederationAdmission
    from p2pfl.node.start import load_backbone, load_initial

    FederationAdmission(manifest.digest, identity.peer_id, settings.ticket, manifest)
    load_initial(settings, manifest)
    load_backbone(settings, manifest)


def _require_continuable(store: "Store", manifest: "Manifest", new: Path) -> "Manifest":
    """The old federation. Raises UserError unless what is in ``store`` can go on in another one,
    ``manifest``, and goes on only there.
    """
    from p2pfl.node.errors import ManifestProblem, StorageError

    old, successor = store.manifest(), store.successor()
    if old is None:
        hint = "there is nothing to go on from: begin with p2pfl init"
        raise StorageError(f"the node in {store.directory} has not joined a federation yet", hint)
    if old.digest == manifest.digest:
        hint = "start the node again, and it goes on where it was: p2pfl node --config …"
        raise ManifestProblem(f"{store.directory} is in this very federation", hint)
    if successor is not None:
        interrupted = _made(successor, new).is_dir()
        agreed = (successor.federation, successor.directory) == (manifest.digest, str(new.absolute()))
        if not (interrupted and agreed):
            what = f"the ledger in {store.directory} went on in federation {successor.federation.hex()[:12]}…"
            hint = (
                f"what was paid since is in {successor.directory}, or where that was moved: resume from there"
            )
            raise StorageError(what, hint)
    return old


def _require_sides_kept(settings: "NodeConfig", old: "Manifest", manifest: "Manifest") -> None:
    """Which records are held out follows from what they are read as. Raises ConfigError if that changes."""
    from p2pfl.node.errors import ConfigError

    if settings.data_held_out is not None and old.task != manifest.task:
        what = "set, and the new federation reads the records in another way: some would change sides"
        hint = "in the old config, name data.train and data.test files of the two sides instead"
        raise ConfigError("data.held_out", what, hint)


def _made(successor: "Successor", new: Path) -> Path:
    """What is to be called ``new``, for as long as it is not."""
    return new.absolute().with_name(successor.made)


def _carried(store: "Store", old: "Manifest") -> "list[Carried]":
    """What the records were used for so far, in all federations, and what that cost. Of the last one as much
    as it may come to by its planned end: whoever looked at the model before going on has used more than the
    rounds so far tell.
    """
    from p2pfl.node.outlook import outlook
    from p2pfl.node.storage.carried import Carried, summed

    charges = store.charges()
    if not charges:
        return store.carried()
    ledger = outlook(old, charges, store.rounds(), store.place).mechanisms
    return [*store.carried(), Carried.of(old, summed(ledger))]


def _private_layers(store: "Store", old: "Manifest", manifest: "Manifest") -> "NDArray[np.float64] | None":
    """Those of the old model, if the new one goes on from it and keeps the same ones private."""
    from p2pfl.gossip.model_layers import Parts

    model, features = manifest.model, manifest.task.features
    if not isinstance(model, Parts) or not (model.initial and model.private):
        return None
    if not isinstance(old.model, Parts) or replace(old.model, initial=model.initial) != model:
        return None
    return store.private(model.trained(features) - model.parameters(features))


def _handed_on(
    store: "Store",
    old: "Manifest",
    carried: "list[Carried]",
    settings: "NodeConfig",
    identity: "Identity",
    manifest: "Manifest",
    new: Path,
) -> "Successor":
    """Make the new node's directory under a random name beside ``new``, whole and on the disk, then end the
    ledger in ``store``, which says what that name is. Raises UserError, and nothing is made.
    """
    from p2pfl.node.storage.atomic_file import sync_directory
    from p2pfl.node.storage.carried import Successor, require_all_countable

    require_all_countable(manifest, carried)
    with _kept_if_named(store, new) as made:
        with _begun(made / "state", identity, manifest, carried) as ledger:
            ledger.keep_held_out(settings.data_held_out)
            if (private := _private_layers(store, old, manifest)) is not None:
                ledger.save_private(private)
        _fill(made, settings, identity, manifest)
        sync_directory(made.parent)
        successor = Successor(manifest.digest, str(new.absolute()), made.name)
        store.continue_in(successor)
    return successor


@contextmanager
def _kept_if_named(store: "Store", new: Path) -> Iterator[Path]:
    """A directory to fill. If the block fails it goes away again, unless the ledger in ``store`` goes on in
    it by then. Raises StorageError if it cannot be made.
    """
    from tempfile import mkdtemp

    with _making(new):
        made = Path(mkdtemp(prefix=f".{new.name}.", dir=new.parent))
        try:
            yield made
        except BaseException:
            if store.successor() is None:
                shutil.rmtree(made, ignore_errors=True)
            raise


def _give_name(made: Path, new: Path) -> None:
    """The last step. Raises StorageError; the same command may then try again."""
    import os

    from p2pfl.node.storage.atomic_file import sync_directory

    with _making(new):
        os.rename(made, new)
        sync_directory(made.parent)


@contextmanager
def _making(directory: Path) -> Iterator[None]:
    from p2pfl.node.errors import StorageError, reason_of

    try:
        yield
    except OSError as error:
        what = f"cannot make {directory}: {reason_of(error)}"
        raise StorageError(what, "choose a directory you may write to, on a disk with room") from None


def _fill(directory: Path, settings: "NodeConfig", identity: "Identity", manifest: "Manifest") -> None:
    """Write into ``directory`` all that the new node needs but its state."""
    from p2pfl.node.config import SETTINGS, example_toml
    from p2pfl.node.storage.atomic_file import write_atomically
    from p2pfl.node.storage.identity_file import save_identity

    own = {"identity": Path("identity.key"), "state": Path("state")}
    for field, name in (("initial", "initial.safetensors"), ("ticket", "ticket.txt")):
        source = getattr(settings, field)
        if source is not None:
            shutil.copyfile(source, directory / name)
            own[field] = Path(name)
    others = {setting.field: getattr(settings, setting.field) for setting in SETTINGS}
    for name, value in others.items():
        if isinstance(value, Path):
            others[name] = value.absolute()
    others["status_listen"] = settings.status_listen or "off"
    if settings.memory is not None:
        others["memory"] = f"{settings.memory // 10**6} MB"
    save_identity(directory / "identity.key", identity)
    values = {**others, "federation": manifest.federation_id, **own}
    write_atomically(directory / CONFIG, example_toml(values).encode(), 0o644)


@contextmanager
def _begun(
    state: Path, identity: "Identity", manifest: "Manifest", carried: "list[Carried]"
) -> "Iterator[Store]":
    """The state directory of a node that has joined ``manifest`` and done nothing yet."""
    from p2pfl.gossip.manifest import canonical_bytes
    from p2pfl.node.storage.store import Store

    with Store.open(state, identity) as store:
        store.bind_manifest(canonical_bytes(manifest))
        store.carry_over(carried)
        yield store


def _said(manifest: "Manifest", carried: "list[Carried]") -> Iterator[str]:
    """What the records have paid, and will have, for the operator."""
    from p2pfl.node.accountant import epsilon
    from p2pfl.node.outlook import outlook

    privacy = manifest.privacy
    if privacy.mode == "none":
        yield "mode none: there is no epsilon"
        return
    ahead = outlook(manifest, (), (), None, carried)
    spent = epsilon([one for each in carried for one in each.mechanisms], privacy.delta).pld
    end = epsilon(ahead.mechanisms, privacy.delta).pld
    yield f"epsilon: {spent:.3f} carried over, {end:.3f} at the planned end, of {privacy.epsilon:g}"
    if ahead.without_records:
        yield (
            f"the budget will end first: {ahead.without_records} rounds will be without this node's records;"
            " p2pfl federation create --after computes noise that lasts"
        )
