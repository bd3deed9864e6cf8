"""Who is let in: decided on what two nodes tell each other before any other protocol is served.

Each sends a **greeting**: the versions it speaks, its federation's id, its clock, and its ticket if it has
one. A greeting is not secret and not signed: the transport has proved the peer's id already, and a ticket
names the one peer it admits. The judge lets in members the manifest lists, and holders of a ticket that
verifies; everybody else gets a reason in plain words.

A newcomer knows the federation's id but not yet its manifest, and so not its members: until
:meth:`FederationAdmission.adopt` it lets in, provisionally, whoever names the same federation. It holds
nothing of the federation then that anyone could be after.

Who contradicted itself (:mod:`p2pfl.gossip.evidence`) is refused, whatever admitted it before.
"""

import logging
import statistics
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from p2pfl.crypto.identity import PeerId, holds_secret_key
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.manifest import MAX_MEMBERS, Manifest
from p2pfl.gossip.tickets import (
    MAX_SKEW_SECONDS,
    MAX_TEXT,
    Standing,
    Ticket,
    TicketError,
    check,
    check_holder,
    parse_ticket_untrusted,
    standing,
)
from p2pfl.node.errors import ClockError, TicketProblem, reason_of

log = logging.getLogger(__name__)

VERSION = 1
MAX_GREETING_BYTES = MAX_TEXT + 256
_MOST_VERSIONS = 16
_EXCLUDED = (
    "you are excluded from this federation: your key signed two messages that contradict each other"
    " (p2pfl status shows which)"
)


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a node says of itself on every new connection; ``clock`` is its seconds since 1970, ``ticket``
    text or empty.
    """

    versions: tuple[int, ...]
    federation: bytes
    clock: int
    ticket: str

    def to_bytes(self) -> bytes:
        """Canonical form."""
        return pack(
            {
                "clock": self.clock,
                "federation": self.federation,
                "ticket": self.ticket,
                "versions": list(self.versions),
            }
        )

    @classmethod
    def from_untrusted(cls, data: bytes) -> "Greeting":
        """Parse what a peer sent; keys that are not ours are ignored, so that a later version may add some.

        Raises ValueError, and nothing else, unless it is well formed.
        """
        match unpack_untrusted(data, MAX_GREETING_BYTES):
            case {
                "clock": int(clock),
                "federation": bytes(federation),
                "ticket": str(ticket),
                "versions": list(versions),
            }:
                pass
            case _:
                raise ValueError("not a greeting")
        sound = type(clock) is int and 0 <= clock < 1 << 40
        if not sound or len(federation) != 32 or len(ticket) > MAX_TEXT:
            raise ValueError("a field is out of range")
        numbers = tuple(version for version in versions if type(version) is int and 0 < version < 1 << 16)
        if not numbers or len(numbers) != len(versions) or len(numbers) > _MOST_VERSIONS:
            raise ValueError("versions must be a short list of small numbers")
        return cls(numbers, federation, clock, ticket)


class FederationAdmission:
    """The admission of one federation at one node. ``clock`` gives seconds since 1970."""

    def __init__(
        self,
        federation: bytes,
        own: PeerId,
        ticket_file: Path | None = None,
        manifest: Manifest | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Raises TicketProblem if this node's own ticket cannot work."""
        self._federation = federation
        self._own = own
        self._clock = clock
        self._ticket = None if ticket_file is None else self._read_own(ticket_file)
        self._ticket_file = ticket_file
        self._manifest: Manifest | None = None
        self._tickets: dict[PeerId, Ticket | None] = {}
        self._skews: dict[PeerId, float] = {}
        self._excluded: set[PeerId] = set()
        if manifest is not None:
            self.adopt(manifest)

    def _read_own(self, path: Path) -> Ticket:
        ticket = read_ticket(path)
        try:
            check_holder(ticket, self._federation, self._clock(), peer=self._own)
        except TicketError as error:
            raise TicketProblem(f"{path}: this ticket cannot be used: {error}", self._remedy()) from None
        return ticket

    def _remedy(self) -> str:
        return f"ask an issuer to run: p2pfl federation invite {self._own}"

    def at_handshake(self, peer: PeerId) -> str | None:
        """Why to hang up on ``peer`` before it says anything: nobody can have invited it."""
        manifest = self._manifest
        if manifest is None or manifest.issuers or peer in manifest.members:
            return None
        return "you are not listed in this federation's manifest, and it has no issuer who could invite you"

    def greeting(self) -> bytes:
        """What this node says of itself, now."""
        ticket = "" if self._ticket is None else str(self._ticket)
        return Greeting((VERSION,), self._federation, int(self._clock()), ticket).to_bytes()

    def judge(self, peer: PeerId, greeting: bytes) -> str | None:
        """None lets ``peer`` in; else the reason for refusing it, to be sent to it and logged.

        Remembers whom it let in.
        """
        try:
            heard = Greeting.from_untrusted(greeting)
        except ValueError as error:
            return f"your greeting is malformed: {error}"
        if VERSION not in heard.versions:
            spoken = ", ".join(map(str, heard.versions))
            return (
                f"no common protocol version: you speak {spoken}, this node {VERSION}; upgrade the older one"
            )
        if heard.federation != self._federation:
            yours, ours = heard.federation.hex()[:12], self._federation.hex()[:12]
            return f"you are in federation {yours}…, this node is in {ours}…"
        if peer in self._excluded:
            return _EXCLUDED
        try:
            ticket = parse_ticket_untrusted(heard.ticket) if heard.ticket else None
            self._require_admissible(peer, ticket)
        except TicketError as error:
            skew = heard.clock - self._clock()
            clocks = (
                f"; note that our clocks differ by {_duration(skew)}" if abs(skew) > MAX_SKEW_SECONDS else ""
            )
            return f"{error.reason}{clocks}"
        return self._admit(peer, ticket, heard.clock - self._clock())

    def _require_admissible(self, peer: PeerId, ticket: Ticket | None) -> None:
        """Raises TicketError unless ``peer`` is a member or ``ticket`` admits it."""
        manifest = self._manifest
        if manifest is not None and (peer in manifest.members):
            return
        if ticket is None:
            if manifest is not None:
                raise TicketError(
                    "you are not listed in this federation's manifest and sent no ticket;"
                    f" ask an issuer to run: p2pfl federation invite {peer}"
                )
            return
        try:
            if manifest is None:
                check_holder(ticket, self._federation, self._clock(), peer=peer)
            else:
                check(ticket, manifest, self._clock(), peer=peer)
        except TicketError as error:
            raise TicketError(f"your ticket is not valid: {error.reason}") from None

    def _admit(self, peer: PeerId, ticket: Ticket | None, skew: float) -> str | None:
        if peer not in self._tickets and len(self._tickets) >= MAX_MEMBERS:
            self.expired()
        if peer not in self._tickets and len(self._tickets) >= MAX_MEMBERS:
            return f"this node knows {MAX_MEMBERS} members already, the most a federation can have"
        self._tickets[peer] = ticket
        self._skews[peer] = skew
        if abs(skew) > MAX_SKEW_SECONDS:
            log.warning("the clocks of peer %s and of this node differ by %s", peer, _duration(skew))
        return None

    def adopt(self, manifest: Manifest) -> dict[PeerId, str]:
        """Judge by ``manifest`` from now on. Returns those let in provisionally who must go, with the
        reasons.

        Raises TicketProblem if this node itself may not take part: it is not listed, and its ticket does not
        admit it.
        """
        if manifest.digest != self._federation:
            raise ValueError("the manifest is another federation's")
        self._require_own_place(manifest)
        self._manifest = manifest
        return self.expired()

    def expired(self) -> dict[PeerId, str]:
        """Forget those who would not be let in now; return them, with the reasons."""
        refused: dict[PeerId, str] = {}
        for peer, ticket in list(self._tickets.items()):
            try:
                self._require_admissible(peer, ticket)
            except TicketError as error:
                refused[peer] = error.reason
                del self._tickets[peer], self._skews[peer]
        return refused

    def _require_own_place(self, manifest: Manifest) -> None:
        if self._own in manifest.members:
            return
        if self._ticket is None:
            what = f"{self._own} is not a member of federation {manifest.name!r}, and no ticket is configured"
            raise TicketProblem(what, f"{self._remedy()}; then name the file under `ticket`")
        try:
            check(self._ticket, manifest, self._clock(), peer=self._own)
        except TicketError as error:
            what = f"{self._ticket_file}: this ticket cannot be used: {error}"
            raise TicketProblem(what, self._remedy()) from None

    def exclude(self, peer: PeerId) -> str:
        """Let ``peer`` in no more, and forget what it said of itself. Returns the reason."""
        self._excluded.add(peer)
        self._tickets.pop(peer, None)
        self._skews.pop(peer, None)
        return _EXCLUDED

    @property
    def excluded(self) -> frozenset[PeerId]:
        """Everybody that :meth:`exclude` named."""
        return frozenset(self._excluded)

    def is_member(self, peer: PeerId) -> bool:
        """Whether ``peer``, which is connected, is listed, or was let in and its ticket is still good."""
        if peer in self._excluded:
            return False
        if self._manifest is not None and peer in self._manifest.members:
            return True
        ticket = self._tickets.get(peer)
        return peer in self._tickets and (ticket is None or self._clock() < ticket.expires)

    def standing(self, peer: PeerId, ticket: str) -> Standing:
        """What ``peer`` is, connected or not, that shows the text of this ticket. Needs a manifest."""
        assert self._manifest is not None
        return standing(self._manifest, self._federation, peer, ticket, self._clock())

    @property
    def shown_ticket(self) -> str:
        """What this node shows others who never met it: the text of its ticket, nothing if it is listed."""
        listed = self._manifest is not None and self._own in self._manifest.members
        return "" if listed or self._ticket is None else str(self._ticket)

    @property
    def admitted(self) -> frozenset[PeerId]:
        """Everybody let in since the start and not expired since, connected now or not."""
        return frozenset(self._tickets)

    def check_clock(self, met: Collection[PeerId]) -> None:
        """Raises ClockError if most of the members we know of, at least two and more than may collude in a
        group, say that it is our clock that is off. ``met``: those we knew before this start.
        """
        manifest = self._manifest
        colluders = 1 if manifest is None else manifest.groups.colluders
        if len(self._skews) <= colluders:
            return
        # Who has said nothing yet counts for us: liars that come first must not end a node that starts.
        listed = () if manifest is None else manifest.members
        silent = {*met, *listed} - self._skews.keys() - {self._own}
        skews = [*self._skews.values(), *(0.0 for _ in silent)]
        # The median nearer to zero: half of the peers, even all lying alike, cannot stop this node.
        low, high = statistics.median_low(skews), statistics.median_high(skews)
        skew = min(low, high, key=abs) if low * high > 0 else 0.0
        if abs(skew) > MAX_SKEW_SECONDS:
            side = "behind" if skew > 0 else "ahead of"
            raise ClockError(
                f"this machine's clock is {_duration(skew)} {side} those of {len(self._skews)} peers",
                "set the clock (timedatectl set-ntp true) and start the node again",
            )


def read_ticket(path: Path) -> Ticket:
    """The ticket in the file ``path``. Raises TicketProblem."""
    try:
        with path.open("rb") as file:
            data = file.read(2 * MAX_TEXT + 1)
    except FileNotFoundError:
        raise TicketProblem(
            f"{path}: no such file", "save the ticket that you were sent under this name"
        ) from None
    except OSError as error:
        raise TicketProblem(
            f"{path}: cannot be read: {reason_of(error)}", "check the path and its permissions"
        ) from None
    text = data.decode("ascii", errors="replace")
    if holds_secret_key(text):  # a key file begins with lines of explanation
        raise TicketProblem(
            f"{path}: this is a secret key, not a ticket",
            "keep it to yourself; name the ticket that the issuer sent",
        )
    try:
        return parse_ticket_untrusted(text)
    except TicketError as error:
        raise TicketProblem(
            f"{path}: no usable ticket: {error}", "ask the issuer to send the ticket again"
        ) from None


def _duration(seconds: float) -> str:
    seconds = abs(seconds)
    if seconds < 7200:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h" if seconds < 172_800 else f"{round(seconds / 86_400)} days"
