"""A member that sends far too much: it fills no memory, and what is asked for again is not sent again."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
from attackers import (
    ALL,
    DIM,
    EXCHANGES,
    GROUP,
    Attacker,
    all_complete,
    attacked,
    attacker,
    kept_bytes,
    machine_of,
    part_with,
    place,
)

from p2pfl.gossip.events import Effect, Event, Received, Send
from p2pfl.gossip.messages import (
    Check,
    Fetch,
    Masked,
    Message,
    Part,
    Plan,
    Pledge,
    Survivors,
)
from p2pfl.gossip.rehearsal import Wrap
from p2pfl.gossip.scatter import Scatter

exchanges = pytest.mark.parametrize("exchange", EXCHANGES)


def flood(make: Callable[[Attacker, Message, int], Message | None], count: int) -> Wrap:
    """So many of them to everybody, at the first sign of every new kind of message."""
    seen: set[type[Message]] = set()

    def react(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        context = next((m for m in me.said if hasattr(m, "roster")), None)
        if not isinstance(event, Received) or context is None or type(event.message) in seen:
            return ()
        seen.add(type(event.message))
        made = [made for number in range(count) if (made := make(me, context, number)) is not None]
        return me.tell_all(*(m if m.LABEL is None else me.sign(m) for m in made))

    return attacker(react=react)


def mark(number: int) -> bytes:
    return number.to_bytes(32, "big")


LONG = bytes(8 * DIM)  # much more than a chunk has here, and as much as the codec takes


def parts_of_unknown_plans(me: Attacker, context: Message, number: int) -> Message:
    return part_with(Part(me.peer, *place(context), mark(number), number % 13, b"", b""), bytes(8))


def parts_of_one_plan(me: Attacker, context: Message, number: int) -> Message:
    return part_with(Part(me.peer, *place(context), mark(0), number, b"", b""), bytes(8))


def long_parts_of_one_plan(me: Attacker, context: Message, number: int) -> Message:
    return part_with(Part(me.peer, *place(context), mark(0), number % 500, b"", b""), LONG)


def checks_of_unknown_plans(me: Attacker, context: Message, number: int) -> Message:
    return Check(me.peer, *place(context), mark(number), (bytes(32),) * 12, bytes(4096))


def chunks_for_others(me: Attacker, context: Message, number: int) -> Message:
    return Masked.of(me.peer, place(context), number % 500 + 1, bytes(4 * DIM))


def vectors(me: Attacker, context: Message, number: int) -> Message:
    return Masked.of(me.peer, place(context), 0, mark(number)[-1:] * (4 * DIM))


def plans(me: Attacker, context: Message, number: int) -> Message:
    return Plan(me.peer, *place(context), tuple((other, mark(number)) for other in ALL), tuple(ALL))


def ballots(me: Attacker, context: Message, number: int) -> Message:
    entries = tuple((other, mark(number)) for other in ALL)
    return Survivors(me.peer, *place(context), entries, mark(number))


def pledges(me: Attacker, context: Message, number: int) -> Message:
    return Pledge(me.peer, *place(context), (mark(number),) * 12)


def fetches(me: Attacker, context: Message, number: int) -> Message:
    return Fetch(me.peer, *place(context), "part", GROUP[number % 10], number % 12, mark(number))


FLOODS = {
    "broadcast": [vectors, parts_of_unknown_plans, chunks_for_others, ballots, fetches],
    "scatter": [
        *(
            parts_of_unknown_plans,
            parts_of_one_plan,
            long_parts_of_one_plan,
            checks_of_unknown_plans,
            chunks_for_others,
            plans,
        ),
        *(ballots, pledges, fetches),
    ],
}


@pytest.mark.parametrize(
    ("exchange", "make"), [(exchange, make) for exchange in FLOODS for make in FLOODS[exchange]]
)
def test_a_flood_fills_no_memory(
    exchange: str, make: Callable[[Attacker, Message, int], Message | None]
) -> None:
    """Three times as much of it leaves no more behind, and it all comes to a good end."""
    kept = []
    usual = kept_bytes(machine_of(attacked(exchange, {}), 1))
    for count in (20, 60):
        wrap = {3: flood(make, count)}
        rehearsal = attacked(exchange, wrap, own_values=False)
        all_complete(rehearsal, wrap)
        kept.append(kept_bytes(machine_of(rehearsal, 1)))
    assert kept[1] <= kept[0] + 1000
    assert kept[1] <= usual + 12_000


def asked_for(message: Message) -> list[Fetch]:
    """What may be asked for once this was heard, in every word that does not matter for what it is."""
    match message:
        case Pledge():
            what = [("masked", message.author, chunk, message.mark) for chunk in range(12)]
        case Masked():
            what = [("masked", message.author, chunk, message.digest) for chunk in range(5)]
        case Part():
            what = [("part", peer, message.chunk, message.plan) for peer in GROUP]
        case Check():
            what = [("check", message.author, chunk, message.plan) for chunk in range(5)]
        case _:
            return []
    return [Fetch(message.author, *place(message), kind, of, chunk, name) for kind, of, chunk, name in what]


@exchanges
def test_what_is_asked_for_again_is_not_sent_again(exchange: str) -> None:
    asked: set[bytes] = set()

    def react(me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        if not isinstance(event, Received) or event.message.signature in asked:
            return ()
        asked.add(event.message.signature)
        return me.tell_all(*(replace(fetch, author=me.peer) for fetch in asked_for(event.message) * 3))

    wrap = {3: attacker(react=react)}
    rehearsal = attacked(exchange, wrap)
    all_complete(rehearsal, wrap, ALL)
    got = Counter(
        (sent.sender, sent.message.signature)
        for sent in rehearsal.net.sent
        if sent.receiver == GROUP[3] and isinstance(sent.message, Masked | Part | Check)
    )
    assert max(got.values()) == 2, "as it is said to everybody, and once more on request"
    if exchange == "scatter":
        handed_out = {signature for _, signature in got}
        assert len(handed_out) > 12 * 5, "every chunk of everybody was handed out"


def test_chunks_that_are_for_others_are_not_kept() -> None:
    """A member gives each of its chunks to everybody."""

    def change(me: Attacker, send: Send) -> Iterable[Send]:
        return (
            [Send(peer, send.message) for peer in GROUP[:6]] if isinstance(send.message, Masked) else [send]
        )

    wrap = {3: attacker(change)}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, ALL)
    for number in (0, 1, 5):
        mine = machine_of(rehearsal, number)._sum
        assert mine is not None
        assert isinstance(mine._exchange, Scatter)
        assert {chunk for of, chunk in mine._exchange._held if of == GROUP[3]} == {number, number + 6}


def test_parts_that_are_longer_than_any_are_not_kept() -> None:
    wrap = {3: flood(long_parts_of_one_plan, 20)}
    rehearsal = attacked("scatter", wrap)
    all_complete(rehearsal, wrap, ALL)
    reasons = Counter(error.reason for _, error in rehearsal.net.errors)
    assert reasons.keys() == {"a part of the wrong length"}
    assert reasons.total() >= 100
