"""Who is let in: decided on what two nodes tell each other before any other protocol is served.

Each sends a **greeting**: the versions it speaks, its federation's id, its clock, and its ticket if it has
one. A greeting is not secret and not signed: the transport has proved the peer's id already, and a ticket
names the one peer it admits. The judge lets in members the manifest lists, and holders of a ticket that
verifies; everybody else gets a reason in plain words.

A newcomer knows the federation's id but not yet its manifest, and so not its members: until
:meth:`FederationAdmission.adopt` it lets in, provisionally, whoever names the same federation. It holds
nothing of the federation then that anyone could be after. Few are let in so, and one more takes the place of
whoever has had one for longest, which is time enough to hand over a manifest; those whom the operator named
have places of their own.

Who is excluded (:mod:`p2pfl.gossip.exclusions`) is refused, whatever admitted it before: with the reason the
first time, and before it can say a word from then on.
"""

import logging
import math
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2pfl.crypto.identity import PeerId, holds_secret_key
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.exclusions import Exclusions, Ground
from p2pfl.gossip.manifest import MAX_MEMBERS, MAX_QUORUM, Manifest
from p2pfl.gossip.successions import Succession
from p2pfl.gossip.tickets import (
    MAX_CREDENTIALS_BYTES,
    MAX_SKEW_SECONDS,
    MAX_TEXT,
    Credentials,
    Standing,
    Ticket,
    TicketError,
    parse_credentials_untrusted,
    parse_ticket_untrusted,
    standing,
)
from p2pfl.node.errors import ClockError, TicketProblem, reason_of
from p2pfl.node.membership.terms import MAX_TERMS_BYTES, Terms, difference, read_terms, software, terms_of
from p2pfl.node.storage.regular_file import regular_only

log = logging.getLogger(__name__)

VERSION = 1
MAX_GREETING_BYTES = MAX_CREDENTIALS_BYTES + MAX_TERMS_BYTES + 256
WARN_SECONDS = 7 * 86_400.0
"""How long before this node's place expires it says so, in the log and in its status."""
MAX_PROVISIONAL = 64
"""Let in at a time without a manifest, beside those whom the operator named."""
MAX_TICKET_LINES = 64
_FIELD = "federation.ticket"
_MOST_VERSIONS = 16


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a node says of itself on every new connection; ``clock`` is its seconds since 1970, ``ticket``
    the text of its credentials or empty, ``terms`` what both must have alike (:mod:`.terms`).
    """

    versions: tuple[int, ...]
    federation: bytes
    clock: int
    ticket: str
    terms: Terms = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Canonical form."""
        return pack(
            {
                "clock": self.clock,
                "federation": self.federation,
                "ticket": self.ticket,
                "versions": list(self.versions),
                **({"terms": dict(self.terms)} if self.terms else {}),
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
                **others,
            }:
                pass
            case _:
                raise ValueError("not a greeting")
        sound = type(clock) is int and 0 <= clock < 1 << 40
        if not sound or len(federation) != 32 or len(ticket) > MAX_CREDENTIALS_BYTES:
            raise ValueError("a field is out of range")
        numbers = tuple(version for version in versions if type(version) is int and 0 < version < 1 << 16)
        if not numbers or len(numbers) != len(versions) or len(numbers) > _MOST_VERSIONS:
            raise ValueError("versions must be a short list of small numbers")
        return cls(numbers, federation, clock, ticket, read_terms(others.get("terms", {})))


class FederationAdmission:
    """The admission of one federation at one node. ``clock`` gives seconds since 1970."""

    def __init__(
        self,
        federation: bytes,
        own: PeerId,
        ticket_file: Path | None = None,
        manifest: Manifest | None = None,
        clock: Callable[[], float] = time.time,
        successions: Sequence[Succession] = (),
    ) -> None:
        """``successions``: how this node came by the place of its first key, newest first. Raises
        TicketProblem if this node's own tickets cannot work.
        """
        self._federation = federation
        self._own = own
        self._clock = clock
        self._ticket_file = ticket_file
        self._successions = tuple(successions)
        self._manifest: Manifest | None = None
        self._terms = terms_of(None)
        self._tickets = () if ticket_file is None else read_tickets(ticket_file)
        self._shown = self._own_place(self._tickets, None)
        self._admitted: dict[PeerId, tuple[Credentials, float]] = {}  # and until when
        self._named: frozenset[PeerId] = frozenset()
        self._skews: dict[PeerId, float] = {}
        self._exclusions = Exclusions()
        self._told: set[PeerId] = set()  # of those excluded
        if manifest is not None:
            self.adopt(manifest)

    def _own_place(self, tickets: Collection[Ticket], manifest: Manifest | None) -> Credentials:
        """What this node shows: those of its ``tickets`` that last longest, and how it came by the place of
        the key that they, or the manifest, admit.
        """
        shown = Credentials(_latest(tickets, manifest) if tickets else (), self._successions)
        try:
            shown = self._rooted(shown, () if manifest is None else manifest.members)
            shown.check_holder(self._federation, self._clock(), peer=self._own)
        except TicketError as error:
            what = f"{_FIELD}: {self._ticket_file}: this ticket cannot be used: {error}"
            raise TicketProblem(what, self._remedy()) from None
        return shown

    def _rooted(self, shown: Credentials, listed: Collection[PeerId]) -> Credentials:
        """Without the successions before the key that is admitted: to others they would show nothing."""
        names = shown.names(self._federation, self._own)
        holder = shown.tickets[0].peer if shown.tickets else names[-1]
        if names[-1] in listed or holder not in names:
            return shown
        return Credentials(shown.tickets, shown.successions[: names.index(holder)])

    def _remedy(self) -> str:
        return f"ask an issuer to run: {invitation(self._own)}"

    def renew(self, tickets: tuple[Ticket, ...]) -> bool:
        """Show from now on ``tickets``, which the ticket file has now; whether that is anything new.

        Raises TicketProblem if they cannot be used; what was shown before is kept then.
        """
        before, manifest = self._shown, self._manifest
        renewed = self._own_place(tickets, manifest)
        if manifest is not None:
            self._require_own_place(manifest, renewed)
        self._tickets, self._shown = tickets, renewed
        return renewed != before

    @property
    def expires(self) -> float | None:
        """When this node's own place expires, in seconds since 1970; None if it does not, or that is not
        known.
        """
        manifest = self._manifest
        if manifest is None:
            return None
        until = self._shown.admitted_until(manifest, self._federation, self._own)
        return None if math.isinf(until) else until

    def keep_places(self, named: Iterable[PeerId]) -> None:
        """The operator named these as members to begin with: nobody takes their places from now on."""
        self._named = frozenset(named)

    def at_handshake(self, peer: PeerId) -> str | None:
        """Why to hang up on ``peer`` before it says anything: it was told once that it is excluded."""
        return self._why(self._exclusions[peer]) if peer in self._told else None

    def _why(self, ground: Ground) -> str:
        return f"you are excluded from this federation: {ground.why} (see p2pfl status)"

    def greeting(self) -> bytes:
        """What this node says of itself, now."""
        said = (self._federation, int(self._clock()), str(self._shown), self._terms)
        return Greeting((VERSION,), *said).to_bytes()

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
                f"no common protocol version: you speak {spoken}{software(heard.terms)}, this node"
                f" {VERSION}{software(self._terms)}; upgrade the older one"
            )
        if heard.federation != self._federation:
            yours, ours = heard.federation.hex()[:12], self._federation.hex()[:12]
            why = difference(heard.terms, self._terms)
            return f"you are in federation {yours}…, this node is in {ours}…{'; ' * bool(why)}{why}"
        if why := difference(heard.terms, self._terms):
            return f"you and this node do not agree: {why}"
        if peer in self._exclusions:
            self._told.add(peer)
            return self._why(self._exclusions[peer])
        try:
            shown = self._parse(heard.ticket)
            until = self._admissible_until(peer, shown)
        except TicketError as error:
            skew = heard.clock - self._clock()
            clocks = (
                f"; note that our clocks differ by {_duration(skew)}" if abs(skew) > MAX_SKEW_SECONDS else ""
            )
            return f"{error.reason}{clocks}"
        return self._admit(peer, (shown, until), heard.clock - self._clock())

    @staticmethod
    def _parse(text: str) -> Credentials:
        try:
            return parse_credentials_untrusted(text)
        except TicketError as error:
            raise TicketError(f"the ticket shown is not valid: {error.reason}") from None

    def _admissible_until(self, peer: PeerId, shown: Credentials) -> float:
        """Until when ``peer`` may be here. Raises TicketError unless it is a member, or what it shows admits
        it.
        """
        manifest = self._manifest
        if manifest is not None and peer in manifest.members:
            return math.inf
        if manifest is not None and not (shown.tickets or shown.successions):
            invite = f"ask an issuer to run: {invitation(peer)}"
            how = f"sent no ticket; {invite}" if manifest.issuers else "it has no issuer who could invite you"
            raise TicketError(f"you are not listed in this federation's manifest and {how}")
        try:
            if manifest is None:
                shown.check_holder(self._federation, self._clock(), peer=peer)
            else:
                shown.check(manifest, self._federation, self._clock(), peer=peer)
            ground = self._exclusions.proof_against(shown.names(self._federation, peer))
        except TicketError as error:
            raise TicketError(f"the ticket shown is not valid: {error.reason}") from None
        if ground is not None:
            raise TicketError(self._why(ground))
        if manifest is not None:
            return shown.admitted_until(manifest, self._federation, peer)
        return min((ticket.expires for ticket in shown.tickets), default=math.inf)

    def _admit(self, peer: PeerId, place: tuple[Credentials, float], skew: float) -> str | None:
        if self._manifest is None:
            self._make_room(peer)
        if peer not in self._admitted and len(self._admitted) >= MAX_MEMBERS:
            self.expired()
        if peer not in self._admitted and len(self._admitted) >= MAX_MEMBERS:
            return f"this node knows {MAX_MEMBERS} members already, the most a federation can have"
        if peer not in self._listed and self._gave_much_away(place[0]):
            return "two other keys have taken that place already"
        self._admitted[peer] = place
        self._skews.pop(peer, None)
        if peer in self._listed or not place[0].successions:  # a place is no crowd of clocks
            self._skews[peer] = skew
        if abs(skew) > MAX_SKEW_SECONDS:
            log.warning("the clocks of peer %s and of this node differ by %s", peer, _duration(skew))
        return None

    def _make_room(self, peer: PeerId) -> None:
        """Forget, for a further one of whom nothing is known, the one that has been here longest."""
        unproved = [each for each in self._admitted if each not in self._named]
        if peer not in {*self._named, *unproved} and len(unproved) >= MAX_PROVISIONAL:
            del self._admitted[unproved[0]]
            self._skews.pop(unproved[0], None)

    @property
    def _listed(self) -> Collection[PeerId]:
        return () if self._manifest is None else self._manifest.members

    def _gave_much_away(self, shown: Credentials) -> bool:
        """Whether one of the keys in ``shown`` has named two others as well. With two, everybody can tell
        that it is not honest; any number of them would be as many peers.
        """
        named = [each for admitted, _ in self._admitted.values() for each in admitted.successions]
        for own in shown.successions:
            rivals = {
                each.successor
                for each in named
                if each.author == own.author and each.federation == self._federation
            }
            if len(rivals - {own.successor}) >= 2:
                return True
        return False

    def adopt(self, manifest: Manifest) -> dict[PeerId, str]:
        """Judge by ``manifest`` from now on. Returns those let in provisionally who must go, with the
        reasons.

        Raises TicketProblem if this node itself may not take part: it is not listed, and its ticket does not
        admit it.
        """
        if manifest.digest != self._federation:
            raise ValueError("the manifest is another federation's")
        shown = self._own_place(self._tickets, manifest)
        self._require_own_place(manifest, shown)
        self._shown, self._manifest, self._terms = shown, manifest, terms_of(manifest)
        return self.expired()

    def expired(self) -> dict[PeerId, str]:
        """Forget those who would not be let in now; return them, with the reasons."""
        refused: dict[PeerId, str] = {}
        for peer, (shown, _) in list(self._admitted.items()):
            try:
                self._admitted[peer] = shown, self._admissible_until(peer, shown)
            except TicketError as error:
                refused[peer] = error.reason
                del self._admitted[peer]
                self._skews.pop(peer, None)
        return refused

    def _require_own_place(self, manifest: Manifest, shown: Credentials) -> None:
        try:
            shown.check(manifest, self._federation, self._clock(), peer=self._own)
        except TicketError as error:
            if self._ticket_file is None:
                what = f"{self._own} is not a member of federation {manifest.name!r}, and no ticket is"
                how = f"{self._remedy()}; then name the file under `ticket`"
                raise TicketProblem(f"{_FIELD}: {what} configured", how) from None
            what = f"{_FIELD}: {self._ticket_file}: this ticket cannot be used: {error}"
            raise TicketProblem(what, self._remedy()) from None

    def exclude(self, ground: Ground) -> dict[PeerId, str]:
        """Let in no more whom ``ground``, which was checked, is against, and forget what they said of
        themselves. Returns those who must go, with the reasons.
        """
        out = self._exclusions.add(ground) or ()
        for peer in out:
            self._admitted.pop(peer, None)
            self._skews.pop(peer, None)
        return {peer: self._why(self._exclusions[peer]) for peer in out}

    @property
    def excluded(self) -> frozenset[PeerId]:
        """Everybody that the grounds given to :meth:`exclude` are against."""
        return self._exclusions.out

    def is_proved_against(self, peer: PeerId) -> bool:
        """Whether ``peer`` is out because of what itself or its issuers signed, not for a new key alone."""
        return self._exclusions.proof_against([peer]) is not None

    def is_member(self, peer: PeerId) -> bool:
        """Whether ``peer``, which is connected, is listed, or was let in and its ticket is still good."""
        if peer in self._exclusions:
            return False
        if self._manifest is not None and peer in self._manifest.members:
            return True
        return peer in self._admitted and self._clock() < self._admitted[peer][1]

    def is_proved(self, peer: PeerId) -> bool:
        """Whether more speaks for ``peer`` than its own word: the manifest, or the operator who named it."""
        return peer in self._named if self._manifest is None else self.is_member(peer)

    def standing(self, peer: PeerId, ticket: str) -> Standing:
        """What ``peer``, connected or not, is that shows this text. Needs a manifest. If it was let in, and
        this holds longer than what it showed then, it stays as long.
        """
        assert self._manifest is not None
        found = standing(self._manifest, self._federation, peer, ticket, self._clock())
        if found is Standing.MEMBER and ticket and peer in self._admitted:
            shown = parse_credentials_untrusted(ticket)
            until = shown.admitted_until(self._manifest, self._federation, peer)
            if until > self._admitted[peer][1]:
                self._admitted[peer] = shown, until
        return found

    @property
    def shown_ticket(self) -> str:
        """What this node shows others who never met it: the text of its credentials, nothing if it is
        listed.
        """
        listed = self._manifest is not None and self._own in self._manifest.members
        return "" if listed else str(self._shown)

    @property
    def succession(self) -> Credentials:
        """How this node came by its place, with what admits its first key; empty if it began with it."""
        return self._shown if self._successions else Credentials()

    @property
    def admitted(self) -> frozenset[PeerId]:
        """Everybody let in since the start and not expired since, connected now or not."""
        return frozenset(self._admitted)

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


def invitation(peer: PeerId) -> str:
    """What an issuer runs to admit ``peer``, if its files have the names that they have in the README."""
    files = "--federation federation.manifest --identity organiser/identity.key --out ticket.txt"
    return f"p2pfl federation invite {peer} {files}"


def read_tickets(path: Path) -> tuple[Ticket, ...]:
    """The tickets in the file ``path``, one a line, at least one. Raises TicketProblem, which names the key
    of the config that the file stands at.
    """
    try:
        with open(path, "rb", opener=regular_only) as file:
            data = file.read(MAX_TICKET_LINES * MAX_TEXT)
    except FileNotFoundError:
        raise TicketProblem(
            f"{_FIELD}: {path}: no such file", "save the ticket that you were sent under this name"
        ) from None
    except OSError as error:
        raise TicketProblem(
            f"{_FIELD}: {path}: cannot be read: {reason_of(error)}", "check the path and its permissions"
        ) from None
    text = data.decode("ascii", errors="replace")
    if holds_secret_key(text):  # a key file begins with lines of explanation
        raise TicketProblem(
            f"{_FIELD}: {path}: this is a secret key, not a ticket",
            "keep it to yourself; name the ticket that the issuer sent",
        )
    try:
        return tuple(map(parse_ticket_untrusted, text.split() or [""]))
    except TicketError as error:
        raise TicketProblem(
            f"{_FIELD}: {path}: no usable ticket: {error}", "ask the issuer to send the ticket again"
        ) from None


def _latest(tickets: Iterable[Ticket], manifest: Manifest | None) -> tuple[Ticket, ...]:
    """Of each issuer the ticket that lasts longest, and of these as many as a quorum may ask for; all of one
    key, that for which enough of them last longest.
    """
    best: dict[tuple[PeerId, PeerId], Ticket] = {}
    for ticket in sorted(tickets, key=lambda ticket: ticket.expires):
        best[ticket.peer, ticket.issuer] = ticket
    named = [each for each in best.values() if manifest is None or each.issuer in manifest.issuers]
    lasting = sorted(named or best.values(), key=lambda ticket: (-ticket.expires, ticket.issuer))
    quorum = MAX_QUORUM if manifest is None else manifest.issuer_quorum
    of_keys = [[each for each in lasting if each.peer == key] for key in {each.peer for each in lasting}]
    chosen = max(of_keys, key=lambda own: (len(own[:quorum]), own[:quorum][-1].expires, own[0].peer))
    return tuple(chosen[:MAX_QUORUM])


def _duration(seconds: float) -> str:
    seconds = abs(seconds)
    if seconds < 7200:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h" if seconds < 172_800 else f"{round(seconds / 86_400)} days"
