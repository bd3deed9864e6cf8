"""What key, config and state directory say, as far as they can be read; nothing is changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.exclusions import Ground
from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.successions import Succession
from p2pfl.node.config import NodeConfig
from p2pfl.node.errors import UserError
from p2pfl.node.membership.admission import FederationAdmission
from p2pfl.node.membership.joining import known_federation
from p2pfl.node.membership.rotation import settled_identity
from p2pfl.node.storage.database import DATABASE
from p2pfl.node.storage.lock import is_locked
from p2pfl.node.storage.store import Store


@dataclass(frozen=True, slots=True)
class Ended:
    """A round: when it ended, in seconds since 1970, and why without a sum; empty if it has one."""

    round: int
    at: int
    reason: str


@dataclass(frozen=True, slots=True)
class Known:
    """``federation`` is empty, and ``manifest`` None, if they are not known. ``met``: addresses of members
    that were here; ``rounds``: the last ones, oldest first; ``running``: a node holds the directory.
    """

    config: NodeConfig
    running: bool = False
    identity: Identity | None = None
    federation: bytes = b""
    manifest: Manifest | None = None
    met: Mapping[PeerId, tuple[str, ...]] = field(default_factory=dict)
    successions: Sequence[Succession] = ()
    grounds: Sequence[Ground] = ()
    rounds: Sequence[Ended] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where members may be: as the config says, and as they were met."""
        met = (address for addresses in self.met.values() for address in addresses)
        return tuple(dict.fromkeys((*self.config.bootstrap, *met)))


LOOKED_AT = 20
"""Rounds."""


def what_is_known(config: NodeConfig) -> Known:
    """As much of it as can be read; what is wrong with the rest is said by `check_directory`."""
    running = is_locked(config.state)
    try:
        identity = settled_identity(config.identity)
    except UserError:
        return Known(config, running)
    try:
        if not (config.state / DATABASE).exists():
            return Known(config, running, identity, *known_federation(config, None))
        with Store.open(config.state, identity, readonly=True) as store:
            return _of(config, running, identity, store)
    except (UserError, OSError):
        return Known(config, running, identity)


def _of(config: NodeConfig, running: bool, identity: Identity, store: Store) -> Known:
    receipts = [kept.receipt for kept in store.receipts()[-LOOKED_AT:]]
    return Known(
        config,
        running,
        identity,
        *known_federation(config, store),
        met=store.peers(),
        successions=store.successions(),
        grounds=[exclusion.ground for exclusion in store.exclusions()],
        rounds=[Ended(one.round, one.ended, one.reason) for one in receipts],
    )


def admission_of(known: Known) -> FederationAdmission:
    """As the node would begin with. Raises TicketProblem."""
    assert known.identity is not None
    admission = FederationAdmission(
        known.federation,
        known.identity.peer_id,
        known.config.ticket,
        known.manifest,
        successions=known.successions,
    )
    for ground in known.grounds:
        admission.exclude(ground)
    return admission
