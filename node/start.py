"""What a node needs from its own machine, opened and checked while nothing has begun.

No port is open, and what takes seconds to import (torch) is not imported: a mistake of the operator's is
known at once, by the key of the config that it stands at.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import Manifest, OutsideTask, PluginTask
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
from p2pfl.node.membership.rotation import require_settled
from p2pfl.node.storage.database import DATABASE, JOURNAL_REMEDY
from p2pfl.node.storage.declared_file import Tensors, read_backbone, read_initial
from p2pfl.node.storage.identity_file import load_identity
from p2pfl.node.storage.lock import locked
from p2pfl.node.storage.store import Store
from p2pfl.node.training.table import NO_RECORDS, Table, check_readable, load_table


@dataclass(frozen=True, slots=True)
class Records:
    """What this organisation learns from, what it measures the model on, if anything, and of the model what
    is frozen, and what it starts from, if a file says so.
    """

    train: Table
    test: Table | None
    backbone: Tensors | None
    initial: Tensors | None = None


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
        require_settled(config.identity)
        identity = load_identity(config.identity)
    require_ledger(config.state)
    with locked(config.state), Store.open(config.state, identity) as store:
        _require_last(store)
        with _blaming("federation.id"):
            federation, manifest = known_federation(config, store)
        admission = FederationAdmission(
            federation, identity.peer_id, config.ticket, manifest, successions=store.successions()
        )
        if manifest is None:
            _check_joining(config)
        records = None if manifest is None else load_records(config, manifest)
        key = None if config.network_key is None else read_key(config.network_key)
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


def load_records(config: NodeConfig, manifest: Manifest) -> Records:
    """The records and the model's files that ``config`` names. Raises DataError if they are not as
    ``manifest`` declares, ManifestProblem if it names a plug-in that cannot be used with them.
    """
    task, test = manifest.task, config.data_test
    if isinstance(task, OutsideTask):
        return Records(NO_RECORDS, None, None)
    if config.data_train is None:
        hint = "add `train = …` under [data], or give --data-train or P2PFL_DATA_TRAIN"
        raise ConfigError("data.train", "missing", hint)
    backbone, initial = load_backbone(config, manifest), load_initial(config, manifest)
    with _blaming("data.train"):
        train = load_table(config.data_train, task)
    with _blaming("data.test"):
        records = Records(train, None if test is None else load_table(test, task), backbone, initial)
    if isinstance(task, PluginTask):
        from p2pfl.node.training.own_models import try_out  # brings torch along

        try_out(manifest, train)
    return records


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
    """What can be said of the data files without a manifest: that each is there, and starts like a table.
    Raises DataError.
    """
    for key, path in (("data.train", config.data_train), ("data.test", config.data_test)):
        if path is not None:
            with _blaming(key):
                check_readable(path)


@contextmanager
def _blaming(key: str) -> Iterator[None]:
    """Put ``key`` of the config before what is said about the file that it names."""
    try:
        yield
    except (DataError, IdentityError, ManifestProblem) as error:
        raise type(error)(f"{key}: {error.what}", error.hint) from None
