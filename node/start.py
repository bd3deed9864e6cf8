"""What a node needs from its own machine, opened and checked while nothing has begun.

No port is open, and what takes seconds to import (torch) is not imported: a mistake of the operator's is
known at once, by the key of the config that it stands at.
"""

import filecmp
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import Manifest, OutsideTask, PluginTask, TaskSpec
from p2pfl.gossip.model_layers import Parts
from p2pfl.node.config import NodeConfig
from p2pfl.node.errors import (
    ConfigError,
    DataError,
    IdentityError,
    ManifestProblem,
    StorageError,
)
from p2pfl.node.membership.admission import FederationAdmission
from p2pfl.node.membership.joining import known_federation
from p2pfl.node.membership.network_key import read_key
from p2pfl.node.membership.rotation import settled_identity
from p2pfl.node.storage.database import DATABASE, JOURNAL_REMEDY
from p2pfl.node.storage.declared_file import Tensors, read_backbone, read_initial
from p2pfl.node.storage.lock import locked
from p2pfl.node.storage.store import Store
from p2pfl.node.training.held_out import parted, record_digests
from p2pfl.node.training.table import NO_RECORDS, Table, check_readable, load_table

APART: Final = (
    "no record may be in both: name other records, or leave data.test out and set data.held_out, a share of"
    " data.train"
)
"""What to do about records that are learnt from and measured on."""


@dataclass(frozen=True, slots=True)
class Records:
    """What this organisation learns from, what it measures the model on, if anything, and of the model what
    is frozen, and what it starts from, if a file says so. ``in_both``: records of ``test`` whose inputs and
    label are also those of one of ``train``.
    """

    train: Table
    test: Table | None
    backbone: Tensors | None
    initial: Tensors | None = None
    in_both: int = 0

    @property
    def said(self) -> str:
        """How many they are, for people."""
        measured = "" if self.test is None else f" and {len(self.test)} to measure on"
        return f"{len(self.train)} records to learn from{measured}, as the manifest declares them"

    @property
    def doubt(self) -> str:
        """What is suspicious about them; empty if nothing is."""
        if self.test is None or not self.in_both:
            return ""
        return (
            f"data.test: {self.in_both} of its {len(self.test)} records are in data.train too: a few may be"
            " chance, but where they are the same people's, it measures what was learnt by heart, and they"
            " pay the epsilon of both parts"
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A node that may begin. ``manifest`` and ``records`` are None as long as only other members have the
    manifest.
    """

    config: NodeConfig
    identity: Identity
    store: Store
    federation: bytes
    admission: FederationAdmission
    manifest: Manifest | None
    records: Records | None
    network_key: bytes | None = field(default=None, repr=False)


@contextmanager
def prepared(config: NodeConfig) -> Iterator[Prepared]:
    """Everything that can be opened and checked before the network is; the state directory is this process's
    meanwhile.

    Raises the UserError of whatever cannot be used, naming the key of the config that it stands at.
    """
    with _blaming("identity"):
        identity = settled_identity(config.identity)
    require_ledger(config.state)
    with locked(config.state), Store.open(config.state, identity) as store:
        _require_last(store)
        require_same_share(config, store)
        with _blaming("federation.id"):
            federation, manifest = known_federation(config, store)
        admission = FederationAdmission(
            federation, identity.peer_id, config.ticket, manifest, successions=store.successions()
        )
        if manifest is None:
            _check_joining(config)
        records = None if manifest is None else load_records(config, manifest)
        key = None if config.network_key is None else read_key(config.network_key)
        store.keep_held_out(config.data_held_out)
        yield Prepared(config, identity, store, federation, admission, manifest, records, key)


def require_ledger(state: Path) -> None:
    """Raises StorageError if a node ran in ``state`` and its ledger is gone: a new one begins at zero."""
    database, models = state / DATABASE, sorted(path.name for path in state.glob("model-*.safetensors"))
    if models and not (database.is_file() and database.stat().st_size):
        found = "empty" if database.is_file() else "missing"
        what = f"{database} is {found}, and {models[-1]} beside it shows that a node ran here"
        raise StorageError(what, JOURNAL_REMEDY)


def _require_last(store: Store) -> None:
    """Raises StorageError if the ledger of ``store`` goes on elsewhere: nobody would add what both charge."""
    successor = store.successor()
    if successor is not None:
        what = f"the ledger in {store.directory} goes on in federation {successor.federation.hex()[:12]}…"
        raise StorageError(what, f"run the node in {successor.directory}, where `p2pfl resume` took it")


def require_same_share(config: NodeConfig, store: Store) -> None:
    """Raises ConfigError if ``config`` would have a node learn from what it has measured on, or the other way
    round.
    """
    share, before = config.data_held_out, store.held_out()
    learnt = store.last_contribution() >= 0 or store.carried()
    if share == before or config.data_test is not None or not learnt:
        return
    now, then = (f"{each:g}" if each else "not set" for each in (share, before))
    what = f"{now}, but this node has learnt with it {then}: records would change sides"
    hint = "leave it out again" if before is None else f"set it to {before!r} again"
    raise ConfigError("data.held_out", what, f"{hint}; a share is for as long as the federation lasts")


def load_records(config: NodeConfig, manifest: Manifest) -> Records:
    """The records and the model's files that ``config`` names. Raises DataError if they are not as
    ``manifest`` declares, ManifestProblem if it names a plug-in that cannot be used with them.
    """
    task = manifest.task
    if isinstance(task, OutsideTask):
        if config.data_held_out is not None:
            hint = "leave it out, and keep records aside where the model is trained"
            raise ConfigError("data.held_out", "set, but the records are read outside p2pfl", hint)
        return Records(NO_RECORDS, None, None)
    _require_apart(config)
    backbone, initial = load_backbone(config, manifest), load_initial(config, manifest)
    train, kept = _load_train(config, task)
    test = kept if config.data_test is None else _load_test(config.data_test, task)
    in_both = 0 if config.data_test is None or test is None else _count_in_both(train, test)
    if isinstance(task, PluginTask):
        from p2pfl.node.training.own_models import try_out  # brings torch along

        try_out(manifest, train)
    return Records(train, test, backbone, initial, in_both)


def load_test(config: NodeConfig, task: TaskSpec, store: Store) -> Table | None:
    """The records that ``config`` keeps aside to measure on; None if it keeps none. Raises as
    :func:`load_records`, and ConfigError if the node of ``store`` has learnt from some of them.
    """
    require_same_share(config, store)
    if config.data_test is not None:
        return _load_test(config.data_test, task)
    return None if config.data_held_out is None else _load_train(config, task)[1]


def _load_test(path: Path, task: TaskSpec) -> Table:
    with _blaming("data.test"):
        return load_table(path, task)


def _load_train(config: NodeConfig, task: TaskSpec) -> tuple[Table, Table | None]:
    """What is learnt from, and of the same file what is held out, if anything."""
    if config.data_train is None:
        hint = "add `train = …` under [data], or give --data-train or P2PFL_DATA_TRAIN"
        raise ConfigError("data.train", "missing", hint)
    with _blaming("data.train"):
        whole = load_table(config.data_train, task)
    share = config.data_held_out
    if share is None:
        return whole, None
    train, kept = parted(whole, share)
    if not (len(train) and len(kept)):
        what = f"{share:g} of {len(whole)} records keeps {len(kept)} aside and leaves {len(train)}"
        raise ConfigError("data.held_out", what, "choose another share, or give this node more records")
    return train, kept


def _require_apart(config: NodeConfig) -> None:
    """Raises DataError if what is learnt from and what is measured on is one file or folder, or files of
    equal bytes. What cannot be read is for whoever reads it.
    """
    train, test = config.data_train, config.data_test
    if train is None or test is None:
        return
    try:
        one = train.samefile(test)
        equal = one or (train.is_file() and test.is_file() and filecmp.cmp(train, test, shallow=False))
    except OSError:
        return
    if equal:
        which = "the very file or folder" if one else "byte for byte the file"
        raise DataError(f"data.test: {test} is {which} that data.train names", APART)


def _count_in_both(train: Table, test: Table) -> int:
    """How many of ``test`` are also in ``train``. Raises DataError if both have the same records."""
    learnt, measured = record_digests(train), record_digests(test)
    if sorted(learnt) == sorted(measured):
        raise DataError(f"data.test: has the very records of data.train, all {len(test)}", APART)
    known = set(learnt)
    return sum(one in known for one in measured)


def load_backbone(config: NodeConfig, manifest: Manifest) -> Tensors | None:
    """What is frozen in the manifest's model; None if nothing is.

    Raises ConfigError if ``config`` names no file, DataError if it names another one.
    """
    model = manifest.model
    if not isinstance(model, Parts) or not model.backbone:
        return None
    if config.backbone is None:
        what = f"not set, and the manifest's model has layers from the file with SHA-256 {model.backbone}"
        how = "model.backbone in the config, --backbone or P2PFL_BACKBONE"
        raise ConfigError("model.backbone", what, f"get the file from whoever made the federation: {how}")
    with _blaming("model.backbone"):
        return read_backbone(config.backbone, model, manifest.task.features)


def load_initial(config: NodeConfig, manifest: Manifest) -> Tensors | None:
    """What training starts from, if that is in a file; None if it is drawn.

    Raises ConfigError if ``config`` names no file, or one where there is none, DataError if it names another.
    """
    model = manifest.model
    if not isinstance(model, Parts) or not model.initial:
        if config.initial is None:
            return None
        hint = "leave it out, or join the federation that the file was made for"
        raise ConfigError("model.initial", "set, but the manifest names no initial values", hint)
    if config.initial is None:
        what = f"not set, and the manifest's model starts from the file with SHA-256 {model.initial}"
        raise ConfigError("model.initial", what, "get the file from whoever made the federation, and name it")
    with _blaming("model.initial"):
        return read_initial(config.initial, model, manifest.task.features)


def _check_joining(config: NodeConfig) -> None:
    """Without a manifest: there must be somebody to ask for it, and data files that can be read."""
    if not (config.bootstrap or config.mdns or config.rendezvous):
        raise ConfigError(
            "network.bootstrap",
            "not set, and the manifest is not here yet",
            "give --bootstrap with the address of any member, or --federation with the manifest file",
        )
    check_files(config)


def check_files(config: NodeConfig) -> None:
    """What can be said of the data files without a manifest: that each is there, starts like a table, and is
    not the other. Raises DataError.
    """
    for key, path in (("data.train", config.data_train), ("data.test", config.data_test)):
        if path is not None:
            with _blaming(key):
                check_readable(path)
    _require_apart(config)


@contextmanager
def _blaming(key: str) -> Iterator[None]:
    """Put ``key`` of the config before what is said about the file that it names."""
    try:
        yield
    except (DataError, IdentityError, ManifestProblem) as error:
        raise type(error)(f"{key}: {error.what}", error.hint) from None
