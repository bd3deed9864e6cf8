"""What the parts of one member's secure sum share: its place, what it may use, and what is to go out."""

from collections.abc import Callable, Collection, Mapping, Set
from typing import TypeVar

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.ring import Ring
from p2pfl.gossip.chunks import Chunks
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.events import Compute, Effect, Evidence, Send, SetTimer
from p2pfl.gossip.messages import SumMessage
from p2pfl.gossip.roster import Roster
from p2pfl.gossip.vector_messages import Context, Entries
from p2pfl.gossip.wire import Message, signed

_S = TypeVar("_S", bound=SumMessage)


class Seat:
    """The place of ``identity`` in ``roster``.

    ``lost``: peers without a connection, kept up to date by the owner. ``timer_prefix`` begins the keys of
    all timers and computations. ``phase_seconds`` is how long a phase may last; ``share_seconds`` is that of
    the first one.
    """

    def __init__(
        self,
        roster: Roster,
        identity: Identity,
        lost: Set[PeerId],
        phase_seconds: float,
        ring: Ring,
        chunks: Chunks,
        timer_prefix: str,
        share_seconds: float | None = None,
    ) -> None:
        self.roster, self.lost, self.phase_seconds = roster, lost, phase_seconds
        self.share_seconds = phase_seconds if share_seconds is None else share_seconds
        self.members = roster.members
        """In drawn order."""
        self.ring, self.chunks = ring, chunks
        self.me = identity.peer_id
        self.number = {peer: number for number, peer in enumerate(roster.members)}
        self._identity, self._prefix = identity, timer_prefix
        self._out: list[Effect] = []
        self._timers: set[str] = set()
        self._accused: set[tuple[PeerId, str]] = set()

    @property
    def context(self) -> Context:
        """The fields with which every message of this attempt begins."""
        return self.roster.context

    @property
    def present(self) -> list[PeerId]:
        """The members that are not lost, in drawn order; we are one of them."""
        return [peer for peer in self.members if peer not in self.lost]

    @property
    def turn_seconds(self) -> float:
        """How long each member in turn is given to speak up: all together half a phase."""
        return self.phase_seconds / (2 * len(self.members))

    def my_turn(self, since: float) -> float:
        """When those before us in drawn order have had their turns, from ``since`` on."""
        return since + self.present.index(self.me) * self.turn_seconds

    def take_effects(self) -> list[Effect]:
        """What is to be done, once."""
        effects, self._out = self._out, []
        return effects

    def emit(self, effect: Effect) -> None:
        self._out.append(effect)

    def send(self, peer: PeerId, message: Message) -> None:
        self._out.append(Send(peer, message))

    def broadcast(self, message: _S, to: Collection[PeerId] | None = None) -> _S:
        """Sign ``message``, send it to everybody (or to these) but ourselves, and return it."""
        message = signed(self._identity, message)
        for peer in self.members if to is None else to:
            if peer != self.me:
                self.send(peer, message)
        return message

    def sign(self, message: _S) -> _S:
        return signed(self._identity, message)

    def compute(self, key: str, work: Callable[[], object]) -> None:
        self._out.append(Compute(self.roster.round, f"{self._prefix}{key}", work))

    def timer(self, name: str, at: float) -> None:
        """Have the machine woken at ``at``, once for every name."""
        if name not in self._timers:
            self._timers.add(name)
            self._out.append(SetTimer(f"{self._prefix}{name}", at))

    def accuse(self, peer: PeerId, kind: str, *messages: Message) -> None:
        """Report evidence, once for every peer and kind."""
        if (peer, kind) not in self._accused:
            self._accused.add((peer, kind))
            self._out.append(Evidence(peer, kind, messages))

    def keep(self, slots: dict[PeerId, _S], message: _S) -> bool:
        """Store under the author; True if it is new. A second, different value is evidence."""
        known = slots.get(message.author)
        if known is None:
            slots[message.author] = message
        elif known.signed_bytes() != message.signed_bytes():
            self.accuse(message.author, f"two different values of {message.TAG}", known, message)
        return known is None

    def marks(self, entries: Entries) -> dict[PeerId, bytes]:
        """By member, in drawn order; of entries that were checked."""
        return {self.members[number]: mark for number, mark in entries}

    def entries(self, marks: Mapping[PeerId, bytes]) -> Entries:
        """The inverse of :meth:`marks`."""
        return tuple(sorted((self.number[peer], mark) for peer, mark in marks.items()))

    def check_entries(self, author: PeerId, entries: Entries) -> None:
        """Raise unless these, whose numbers ascend, are of members of the roster, ``author`` among them."""
        numbers = {number for number, _ in entries}
        if self.number[author] not in numbers or max(numbers) >= len(self.members):
            raise RemoteProtocolError(author, "members that are no subset of the roster around it")

    def check_survivors(self, author: PeerId, entries: Entries) -> None:
        """Raise for entries of others, too, or too few to be summed."""
        self.check_entries(author, entries)
        if len(entries) < self.roster.thresholds.minimum_survivors:
            raise RemoteProtocolError(author, "fewer survivors than may be summed")
