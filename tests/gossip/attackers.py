"""Members that follow the protocol but for one thing, and what must hold whatever they do."""

import gc
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from types import FunctionType, ModuleType
from typing import Any, Final

import numpy as np
from exchanges import CUTS

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.events import Effect, Event, Received, Send
from p2pfl.gossip.messages import (
    Message,
    Part,
    Plan,
    Proposal,
    Reveal,
    Survivors,
    roster_digest,
    survivors_digest,
)
from p2pfl.gossip.rehearsal import Rehearsal, Wrap, identity_of
from p2pfl.gossip.round import RoundMachine
from p2pfl.gossip.simulation import Machine
from p2pfl.gossip.thresholds import thresholds
from p2pfl.gossip.wire import digest, signed

DIM: Final = 29
VALUES: Final = np.random.default_rng(3).integers(0, 2**32, (10, DIM), dtype=np.uint32)
GROUP: Final = tuple(identity_of(number).peer_id for number in range(10))
EXCHANGES: Final = list(CUTS)
ALL: Final = range(6)
"""Members, if a test does not say otherwise."""


@dataclass
class Attacker:
    """An honest machine, with what it sends changed on the way out, and with what it says besides."""

    machine: RoundMachine
    identity: Identity
    change: "Change"
    react: "React"
    twist: "Twist"
    heard: list[Message] = field(default_factory=list)
    said: list[Message] = field(default_factory=list)

    @property
    def peer(self) -> PeerId:
        return self.identity.peer_id

    def handle(self, event: Event, now: float) -> list[Effect]:
        if isinstance(event, Received):
            self.heard.append(event.message)
        out: list[Effect] = []
        try:
            effects = self.machine.handle(self.twist(self, event), now)
        except RemoteProtocolError:  # of accomplices, it thinks nothing of it
            effects = []
        for effect in effects:
            changed = list(self.change(self, effect)) if isinstance(effect, Send) else [effect]
            self.said += [new.message for new in changed if isinstance(new, Send)]
            out += changed
        return out + list(self.react(self, event, now))

    def sign(self, message: Message) -> Message:
        """As its own."""
        return signed(self.identity, replace(message, author=self.peer))

    def tell_all(self, *messages: Message) -> list[Effect]:
        """To everybody in the tests, as they are."""
        others = [peer for peer in GROUP if peer != self.peer]
        return [Send(peer, message) for message in messages for peer in others]


Change = Callable[[Attacker, Send], Iterable[Send]]
React = Callable[[Attacker, Event, float], Iterable[Effect]]
Twist = Callable[[Attacker, Event], Event]
Lie = Callable[[Attacker, Any, PeerId], Message | None]
"""From a message and its receiver to what is sent instead, still to be signed; None: nothing."""


def nothing(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
    return ()


def unchanged(me: Attacker, send: Send) -> Iterable[Send]:
    return (send,)


def believed(me: Attacker, event: Event) -> Event:
    return event


def attacker(change: Change = unchanged, react: React = nothing, twist: Twist = believed) -> Wrap:
    """``change`` what it sends, ``react`` by saying more, ``twist`` what it hears and computes."""
    return lambda machine, identity: Attacker(machine, identity, change, react, twist)


def lying(kind: type[Message], lie: Lie) -> Change:
    """Its own messages of this kind are others."""

    def change(me: Attacker, send: Send) -> Iterable[Send]:
        if not isinstance(send.message, kind) or send.message.author != me.peer:
            return (send,)
        told = lie(me, send.message, send.peer)
        if told is None:
            return ()
        return (Send(send.peer, told if told.LABEL is None else me.sign(told)),)

    return change


def silent_about(*kinds: type[Message]) -> Change:
    return lambda me, send: () if isinstance(send.message, kinds) else (send,)


def both(kind: type[Message], lie: Lie) -> Change:
    """The truth first, and then the lie as well."""
    lies = lying(kind, lie)
    return lambda me, send: (send, *(new for new in lies(me, send) if new is not send))


def changes(*all_of_them: Change) -> Change:
    """One after the other."""

    def change(me: Attacker, send: Send) -> Iterable[Send]:
        sends = [send]
        for each in all_of_them:
            sends = [new for old in sends for new in each(me, old)]
        return sends

    return change


def rehearse(exchange: str, wrap: Mapping[int, Wrap], members: int = 6, **options: Any) -> Rehearsal:
    """A round on bytes with these attackers in it; run it yourself, or let :func:`attacked` do it."""
    return Rehearsal(VALUES[:members], wrap=wrap, cut=CUTS[exchange], **{"codec": True, **options})


def attacked(
    exchange: str, wrap: Mapping[int, Wrap], members: int = 6, *, own_values: bool = True, **options: Any
) -> Rehearsal:
    """The same, run to its end and :func:`audited <audit>`."""
    rehearsal = rehearse(exchange, wrap, members, **options).run()
    audit(rehearsal, wrap, own_values=own_values)
    return rehearsal


def audit(rehearsal: Rehearsal, wrap: Collection[int], *, own_values: bool = True) -> None:
    """What holds for the honest, whatever the others do. ``own_values`` False: attackers contribute what
    they like, as long as it is one and the same for everybody.
    """
    group, dead = rehearsal.group, rehearsal.net.dead
    bad = {group[number] for number in wrap}
    honest = [peer for peer in group if peer not in bad]
    rosters, vectors = proposed(rehearsal), {peer: rehearsal.masked_vectors(peer) for peer in group}
    for peer in honest:
        assert peer in rehearsal.ended or peer in dead, "hangs"
        assert rehearsal.ended_at.get(peer, 0.0) <= rehearsal.timing.round_seconds
        assert rehearsal.contributed.count(peer) <= 1
        assert len(vectors[peer]) <= 1
        contradicts_nothing(rehearsal, peer)
    for ballot in ballots_of(rehearsal, honest):
        chosen = {rosters[ballot.roster][number]: mark for number, mark in ballot.entries}
        assert ballot.author in chosen
        assert all(chosen[peer] in vectors[peer] for peer in chosen.keys() & set(honest)), "was never sent"
    ends = [rehearsal.completed[peer] for peer in honest if peer in rehearsal.completed]
    assert len({(end.survivors, end.total.tobytes()) for end in ends}) <= 1
    for end in ends:
        assert len(end.survivors) >= end.thresholds.minimum_survivors
        if own_values:
            assert np.array_equal(end.total, rehearsal.oracle(end.survivors))
    for witness, evidence in rehearsal.evidence:
        assert witness in bad or evidence.peer in bad, f"{evidence.kind} against an honest member"
    for finder, error in rehearsal.net.errors:
        assert finder in bad or error.peer in bad, f"{error.reason} said of an honest member"
    nothing_but_the_sum(rehearsal, bad, rosters)


def proposed(rehearsal: Rehearsal) -> dict[bytes, list[PeerId]]:
    """The members of every roster that anybody proposed, by its digest."""
    proposals = [sent.message for sent in rehearsal.net.sent if isinstance(sent.message, Proposal)]
    readies = dict.fromkeys(proposal.readies for proposal in proposals)
    return {roster_digest(each): [ready.author for ready in each] for each in readies}


def ballots_of(rehearsal: Rehearsal, authors: Collection[PeerId]) -> Iterable[Survivors]:
    """What these signed, each once; not what others say in their name."""
    return dict.fromkeys(
        sent.message
        for sent in rehearsal.net.sent
        if isinstance(sent.message, Survivors) and sent.sender == sent.message.author in authors
    )


def nothing_but_the_sum(
    rehearsal: Rehearsal, bad: Set[PeerId], rosters: Mapping[bytes, list[PeerId]]
) -> None:
    """Of no honest member both secrets can be put together, by anybody: the attackers have their shares of
    both, and everybody's reveals. So each vector keeps its self-mask, or its masks with all honest survivors.
    """
    messages = [sent.message for sent in rehearsal.net.sent]
    sets = {
        survivors_digest(m.roster, m.entries): dict(m.entries)
        for m in messages
        if isinstance(m, Survivors) and m.author not in bad
    }
    holders: dict[tuple[bytes, PeerId, bool], set[PeerId]] = {}
    for reveal in messages:
        if isinstance(reveal, Reveal) and reveal.author not in bad:
            for number, peer in enumerate(rosters[reveal.roster]):
                shown = (reveal.roster, peer, number in sets[reveal.survivors])
                holders.setdefault(shown, set(bad & set(rosters[reveal.roster]))).add(reveal.author)
    for roster, peer, which in holders:
        threshold = thresholds(len(rosters[roster]), rehearsal._colluders).threshold
        other = holders.get((roster, peer, not which), set())
        few = min(len(holders[roster, peer, which]), len(other))
        assert peer in bad or few < threshold, "both secrets of an honest member"


def contradicts_nothing(rehearsal: Rehearsal, author: PeerId) -> None:
    """It signed one thing in one place, or it could be excluded for good; and one set for one roster only."""
    said: dict[object, bytes] = {}
    for sent in rehearsal.net.sent:
        message = sent.message
        if sent.sender == author == message.author and message.LABEL is not None:
            names = ("attempt", "roster", "recipient", "plan", "chunk")
            place: tuple[object, ...] = tuple(getattr(message, name, None) for name in names)
            if isinstance(message, Survivors | Reveal):
                place = ()
            if isinstance(message, Plan):
                again = said.setdefault((message.TAG, message.mark), b"") or (Survivors.TAG,) not in said
                said[message.TAG, message.mark] = b"said"
                assert again, "a plan after it has signed"
            else:
                known = said.setdefault((message.TAG, *place), message.signed_bytes())
                assert known == message.signed_bytes(), f"two values of {message.TAG}"


def honest_of(rehearsal: Rehearsal, wrap: Collection[int]) -> list[PeerId]:
    return [peer for number, peer in enumerate(rehearsal.group) if number not in wrap]


def all_complete(rehearsal: Rehearsal, wrap: Collection[int], survivors: Iterable[int] | None = None) -> None:
    """Every honest member has the sum; over these, if given."""
    honest = honest_of(rehearsal, wrap)
    reasons = Counter(skip.reason for skip in rehearsal.skipped.values())
    assert set(honest) <= set(rehearsal.completed), f"skipped: {dict(reasons)}"
    if survivors is not None:
        chosen = tuple(rehearsal.group[number] for number in survivors)
        assert rehearsal.completed[honest[0]].survivors == chosen


def accusations(rehearsal: Rehearsal, wrap: Collection[int]) -> set[tuple[int, str]]:
    """Which honest member holds evidence, and of what kind."""
    return {
        (rehearsal.group.index(witness), evidence.kind)
        for witness, evidence in rehearsal.evidence
        if rehearsal.group.index(witness) not in wrap
    }


def reachable(thing: object, *but: object) -> Iterator[object]:
    """Whatever is kept alive from here, but for code and what the test itself keeps."""
    seen = set(map(id, but))
    to_do = [thing]
    while to_do:
        one = to_do.pop()
        if id(one) in seen or isinstance(one, type | ModuleType):
            continue
        seen.add(id(one))
        yield one
        to_do += [one.__closure__] if isinstance(one, FunctionType) else gc.get_referents(one)


def kept_bytes(thing: object) -> int:
    """Bytes of all byte strings that are kept alive from here, each counted once."""
    return sum(len(one) for one in reachable(thing) if isinstance(one, bytes))


def without(*numbers: int) -> list[int]:
    return [number for number in ALL if number not in numbers]


def machine_of(rehearsal: Rehearsal, number: int) -> RoundMachine:
    machine: Machine = rehearsal.net.machines[rehearsal.group[number]]
    assert isinstance(machine, RoundMachine)
    return machine


def falls_silent_at(kind: type[Message]) -> Change:
    """From the first message of this kind on, nothing."""
    over: list[bool] = []

    def change(me: Attacker, send: Send) -> Iterable[Send]:
        if isinstance(send.message, kind):
            over.append(True)
        return () if over else (send,)

    return change


def place(context: Message) -> tuple[int, int, bytes]:
    values = vars_of(context)
    return values["round"], values["attempt"], values["roster"]  # type: ignore[return-value]


def elsewhere(message: Message, **place: Any) -> Message:
    """The same, of another round or attempt."""
    return replace(message, **place)


def vars_of(message: Message) -> dict[str, object]:
    return {name: getattr(message, name) for name in message.__dataclass_fields__}


def plus_one(data: bytes | memoryview) -> bytes:
    """One more in the first element."""
    elements = np.frombuffer(data, np.uint32).copy()
    elements[0] += 1
    return elements.tobytes()


def part_with(part: Part, data: bytes | memoryview) -> Part:
    return replace(part, data=data, digest=digest(labels.PART_DIGEST, data))
