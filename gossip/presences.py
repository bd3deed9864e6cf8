"""The presences of one epoch: a set that only grows, the roster it stands for, and the beacon drawn from it.

Two nodes that hold the same presences, whatever the order they came in, have the same digest. An author who
signed two different presences for one epoch belongs to no roster: once both are known to a node it hands on
both, so the others come to the same verdict. While a set is gathered, an author that is excluded
(:mod:`p2pfl.gossip.evidence`) leaves it for good, and that, too, every node learns. (Formally, a
join-semilattice: per author nothing < one presence < two of them < excluded.)

**Beacon.** It decides who meets whom, so nobody may choose it. In epoch e − 1 every member commits to its
nonce of epoch e, and the roster of e − 1 closes before anybody reveals. The beacon of e hashes the
federation, e and the nonces of those members of e whose commitment stands in the *previous roster*: the one
that more than half of the roster of e name, and more than ``colluders``. All of this follows from the roster
of e alone, so newcomers, and nodes that had closed another roster, arrive at the same beacon once they hold
the presences with that digest. What is left to a member is to keep its word, to break it with another
nonce, or to stay away: c colluders choose among 2^c drawings with all of them in, and among 3^c in all.
Addresses, commitments and whatever else a member may still choose after it has seen the others' nonces do not
enter. Without reveals (the first epoch, or one before which most nodes lost their memory or were apart) the
beacon is a constant of federation and epoch: known in advance, and chosen by nobody. Whoever can be there
under many names of its own making chooses among those, then.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from p2pfl.crypto import labels
from p2pfl.crypto.agreement import derive
from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.epoch_messages import MAX_ROSTER, NOTHING, Presence, commitment_to
from p2pfl.gossip.neighbours import enough
from p2pfl.gossip.wire import digest, signed

_EPOCH_BYTES: Final = 8


class Added(Enum):
    """What became of a presence."""

    NEW = auto()
    KNOWN = auto()
    SECOND = auto()  # its author had signed another one
    REFUSED = auto()  # there is no room


class PresenceSet:
    """What is known of who is there in ``epoch``."""

    def __init__(self, federation: bytes, epoch: int, presences: Iterable[Presence] = ()) -> None:
        self.epoch = epoch
        self._federation = federation
        self._presences: dict[PeerId, dict[bytes, Presence]] = {}  # by substance, which takes long to compute
        self._digest: bytes | None = None
        self._roster: tuple[PeerId, ...] | None = None
        for presence in presences:
            self.add(presence)

    def add(self, presence: Presence) -> Added:
        """Take a presence of this federation and epoch, its signature checked."""
        assert (presence.federation, presence.epoch) == (self._federation, self.epoch)
        held = self._presences.get(presence.author, {})
        if len(held) == 2 or presence in held.values() or (substance := presence.substance) in held:
            return Added.KNOWN
        if not held and len(self._presences) >= MAX_ROSTER:
            return Added.REFUSED
        self._presences[presence.author] = {**held, substance: presence}
        self._digest = self._roster = None
        return Added.SECOND if held else Added.NEW

    def drop(self, author: PeerId) -> None:
        """Leave ``author`` out, as if it had signed nothing; it must not be added again."""
        if self._presences.pop(author, None) is not None:
            self._digest = self._roster = None

    @property
    def digest(self) -> bytes:
        """Names exactly this set; 32 bytes."""
        if self._digest is None:
            entries = [
                (author, next(iter(held)) if len(held) == 1 else None)
                for author, held in sorted(self._presences.items())
            ]
            self._digest = digest(labels.EPOCH_ROSTER_DIGEST, pack((self._federation, self.epoch, entries)))
        return self._digest

    @property
    def roster(self) -> tuple[PeerId, ...]:
        """Who is there, sorted: everybody who signed one presence."""
        if self._roster is None:
            self._roster = tuple(sorted(author for author, held in self._presences.items() if len(held) == 1))
        return self._roster

    @property
    def authors(self) -> frozenset[PeerId]:
        """Everybody heard of, those who signed two included."""
        return frozenset(self._presences)

    def held(self, author: PeerId) -> tuple[Presence, ...]:
        """The presence of ``author``; both if it signed two; none."""
        return tuple(self._presences.get(author, {}).values())

    def all(self) -> tuple[Presence, ...]:
        """Every presence, what others need to come to the same set."""
        return tuple(presence for held in self._presences.values() for presence in held.values())

    def previous_roster(self, colluders: int) -> bytes | None:
        """Digest of the roster whose commitments count here, None if none does."""
        roster = self.roster
        named = Counter(self._one(author).previous for author in roster)
        needed = enough(colluders, len(roster))
        return next((name for name, times in named.items() if name != NOTHING and times >= needed), None)

    def beacon(self, previous: "PresenceSet | None") -> bytes:
        """32 bytes that nobody chose; ``previous`` is the set that :meth:`previous_roster` names."""
        reveals = [] if previous is None else [p for p in map(self._one, self.roster) if _kept(p, previous)]
        nonces = [(presence.author, presence.nonce) for presence in reveals]
        return digest(labels.BEACON, pack((self._federation, self.epoch, nonces)))

    def _one(self, author: PeerId) -> Presence:
        return next(iter(self._presences[author].values()))


def _kept(presence: Presence, previous: PresenceSet) -> bool:
    """Whether its author reveals what it had committed to."""
    held = previous.held(presence.author)
    promised = commitment_to(presence.federation, presence.epoch, presence.author, presence.nonce)
    return previous.epoch + 1 == presence.epoch and len(held) == 1 and held[0].commitment == promised


@dataclass(frozen=True, slots=True)
class Author:
    """One node as author of its presences; ``ticket`` is the text of its own, empty if the manifest lists it.

    Nonces are derived from the identity's seed, so a node that lost its memory still reveals what it had
    committed to; to anybody without the seed they are random.
    """

    identity: Identity
    federation: bytes
    addresses: tuple[str, ...]
    ticket: str = ""

    def presence(self, epoch: int, previous: bytes) -> Presence:
        """Our signed presence for ``epoch``."""
        peer, following = self.identity.peer_id, self._nonce(epoch + 1)
        commitment = commitment_to(self.federation, epoch + 1, peer, following)
        secrets = (self._nonce(epoch), commitment)
        fields = (self.federation, epoch, previous, *secrets, self.ticket, self.addresses)
        return signed(self.identity, Presence(peer, *fields))

    def _nonce(self, epoch: int) -> bytes:
        context = self.federation + epoch.to_bytes(_EPOCH_BYTES, "big")
        return derive(self.identity.seed, labels.PRESENCE_NONCE, context)
