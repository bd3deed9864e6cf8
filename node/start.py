"""What a node needs from its own machine, opened and checked while nothing has begun.

No port is open, and what takes seconds to import (torch) is not imported: a mistake of the operator's is
known at once, by the key of the config that it stands at.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import Manifest, TaskSpec
from p2pfl.node.admission import FederationAdmission
from p2pfl.node.config import NodeConfig
from p2pfl.node.errors import ConfigError, DataError, IdentityError, ManifestProblem, TicketProblem
from p2pfl.node.identity_file import load_identity
from p2pfl.node.joining import known_federation
from p2pfl.node.lock import locked
from p2pfl.node.store import Store
from p2pfl.node.training.table import Table, check_readable, load_table


@dataclass(frozen=True, slots=True)
class Records:
    """What this organisation learns from, and what it measures the model on, if anything."""

    train: Table
    test: Table | None


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


@contextmanager
def prepared(config: NodeConfig) -> Iterator[Prepared]:
    """Everything that can be opened and checked before the network is; the state directory is this process's
    meanwhile.

    Raises the UserError of whatever cannot be used, naming the key of the config that it stands at.
    """
    with _blaming("identity"):
        identity = load_identity(config.identity)
    with locked(config.state), Store.open(config.state, identity) as store:
        with _blaming("federation.id"):
            federation, manifest = known_federation(config, store)
        with _blaming("federation.ticket"):
            admission = FederationAdmission(federation, identity.peer_id, config.ticket, manifest)
        if manifest is None:
            _check_joining(config)
        records = None if manifest is None else load_records(config, manifest.task)
        yield Prepared(config, identity, store, federation, admission, manifest, records)


def load_records(config: NodeConfig, task: TaskSpec) -> Records:
    """The records that ``config`` names. Raises DataError if they are not as ``task`` declares."""
    with _blaming("data.train"):
        train = load_table(config.data_train, task)
    with _blaming("data.test"):
        return Records(train, None if config.data_test is None else load_table(config.data_test, task))


def _check_joining(config: NodeConfig) -> None:
    """Without a manifest: there must be somebody to ask for it, and data files that start like tables."""
    if not config.bootstrap:
        raise ConfigError(
            "network.bootstrap",
            "not set, and the manifest is not here yet",
            "give --bootstrap with the address of any member, or --federation with the manifest file",
        )
    for key, path in (("data.train", config.data_train), ("data.test", config.data_test)):
        if path is not None:
            with _blaming(key):
                check_readable(path)


@contextmanager
def _blaming(key: str) -> Iterator[None]:
    """Put ``key`` of the config before what is said about the file that it names."""
    try:
        yield
    except (DataError, IdentityError, ManifestProblem, TicketProblem) as error:
        raise type(error)(f"{key}: {error.what}", error.hint) from None
