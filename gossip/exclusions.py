"""Who takes part no more, and what shows it to everybody.

There are three grounds, each proved by signatures alone, so each travels from member to member and holds
wherever the manifest is known: an :class:`~p2pfl.gossip.evidence.Accusation` (it contradicted itself), a
:class:`~p2pfl.gossip.revocations.Revocation` (issuers say so), and a :class:`Retirement` (another key took
its place). The first two are **proofs against** a key, and hold for every key that took its place, whenever
that is learnt: nobody gets rid of them by changing its key. A retirement leaves the successor its place.

What is out follows from the set of grounds, whatever the order they came in.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.epoch_messages import MAX_ROSTER, MAX_TICKET_BYTES
from p2pfl.gossip.evidence import Accusation, contradiction
from p2pfl.gossip.revocations import Revocation
from p2pfl.gossip.successions import Succession
from p2pfl.gossip.tickets import Credentials, TicketError, parse_credentials_untrusted
from p2pfl.gossip.wire import Message, Reader


@dataclass(frozen=True, slots=True)
class Retirement(Message):
    """A key took the place of another: ``ticket`` is the text of the successor's credentials, so that whoever
    has the manifest can tell that there was a place. Neither signed nor passed on as it is.
    """

    TAG: ClassVar[str] = "retirement"
    LABEL: ClassVar[bytes | None] = None

    credentials: Credentials

    def body(self) -> tuple[object, ...]:
        return (str(self.credentials).encode("ascii"),)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        text = fields.blob(MAX_TICKET_BYTES).decode("ascii")
        try:
            credentials = parse_credentials_untrusted(text)
        except TicketError as error:
            raise ValueError(error.reason) from None
        if not credentials.successions or str(credentials) != text:
            raise ValueError("a retirement shows a succession, in canonical form")
        return cls(author, credentials)

    @property
    def ticket(self) -> str:
        """The text of the credentials."""
        return str(self.credentials)

    @property
    def against(self) -> PeerId:
        """The key that was replaced."""
        return self.credentials.successions[0].author

    @property
    def successor(self) -> PeerId:
        """The key that replaced it."""
        return self.credentials.successions[0].successor

    @property
    def why(self) -> str:
        """What happened, in a clause."""
        return f"its organisation changed its key: it is {self.successor} now"


Ground = Accusation | Revocation | Retirement

GROUNDS: Final[dict[str, type[Message]]] = {
    Accusation.TAG: Accusation,
    Revocation.TAG: Revocation,
    Retirement.TAG: Retirement,
}
"""The messages that exclude somebody, by tag."""


_RIVALS: Final = 2
"""Keys that are known to have taken the place of one: honest is one, and two show that it is not."""


class Exclusions:
    """The grounds that one node knows: MAX_ROSTER accusations, as many revocations, and twice as many
    retirements, each of which says something new. What one place can make of them is far less.
    """

    def __init__(self, grounds: Iterable[Ground] = ()) -> None:
        self._proofs: dict[PeerId, Accusation | Revocation] = {}
        self._retired: dict[tuple[PeerId, PeerId], Retirement] = {}  # what told of a key and its successor
        self._before: dict[PeerId, dict[PeerId, Succession]] = {}  # of a key, those whose place it took
        self._out: dict[PeerId, Ground] = {}
        for ground in grounds:
            self.add(ground)

    def add(self, ground: Ground) -> frozenset[PeerId] | None:
        """Take a ground whose signatures were checked. Returns who is out that was not, and None if nothing
        new was said (or there is no room for it).
        """
        if not (self._learn(ground) if isinstance(ground, Retirement) else self._keep(ground)):
            return None
        known, self._out = self._out.keys(), self._reckon()
        return frozenset(self._out.keys() - known)

    def _keep(self, proof: Accusation | Revocation) -> bool:
        alike = sum(type(known) is type(proof) for known in self._proofs.values())
        if proof.against in self._proofs or alike >= MAX_ROSTER:
            return False
        self._proofs[proof.against] = proof
        return True

    def _learn(self, ground: Retirement) -> bool:
        """Whether it tells of a succession that was not known, and that there is room for."""
        learnt = False
        for succession in ground.credentials.successions:
            pair = succession.author, succession.successor
            before = self._before.get(succession.successor, {})
            rivals = sum(replaced == succession.author for replaced, _ in self._retired)
            room = rivals < _RIVALS and len(self._retired) < 2 * MAX_ROSTER
            if pair not in self._retired and room:
                self._retired[pair] = ground
                self._before[succession.successor] = {**before, succession.author: succession}
                learnt = True
        return learnt

    def knows(self, credentials: Credentials) -> bool:
        """Whether all the successions in it are known."""
        return all((one.author, one.successor) in self._retired for one in credentials.successions)

    def _reckon(self) -> dict[PeerId, Ground]:
        out: dict[PeerId, Ground] = {replaced: ground for (replaced, _), ground in self._retired.items()}
        for peer in (*self._proofs, *self._before):
            proof = self.proof_against([peer])
            if proof is not None:
                out[peer] = proof
        return out

    def proof_against(self, names: Iterable[PeerId]) -> Ground | None:
        """A proof against one of ``names``, or of the keys whose place they took."""
        seen: set[PeerId] = set()
        ahead = list(names)
        while ahead:
            name = ahead.pop()
            if name in self._proofs:
                return self._proofs[name]
            if name not in seen:
                seen.add(name)
                ahead += self._before.get(name, {})
        return None

    def conflict(self, ground: Ground) -> tuple[bytes, bytes] | None:
        """If ``ground`` and what is known show that a key named two successors: the two statements without
        payload.
        """
        for succession in ground.credentials.successions if isinstance(ground, Retirement) else ():
            others = [held.get(succession.author) for held in self._before.values()]
            rivals = [one for one in others if one is not None and one.successor != succession.successor]
            if rivals and succession.author not in self._proofs:
                return contradiction((rivals[0], succession))
        return None

    def __contains__(self, peer: object) -> bool:
        return peer in self._out

    def __len__(self) -> int:
        return len(self._out)

    def __getitem__(self, peer: PeerId) -> Ground:
        """Why ``peer`` is out."""
        return self._out[peer]

    @property
    def out(self) -> frozenset[PeerId]:
        """Everybody who takes part no more."""
        return frozenset(self._out)

    @property
    def vacant(self) -> int:
        """How many places nobody may take any more: a key that was replaced left its place to another."""
        replaced = {before for held in self._before.values() for before in held}
        return len(self._out.keys() - replaced)

    @property
    def grounds(self) -> tuple[Ground, ...]:
        """All of them, what others need to come to the same verdict."""
        return (*dict.fromkeys(self._retired.values()), *self._proofs.values())
