"""Members that do anything at random, and honest ones on a network that does: many rounds from seeds."""

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from attackers import EXCHANGES, GROUP, Attacker, attacker, audit, rehearse

from p2pfl.crypto import labels
from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.events import Effect, Event, PeerFound, PeerLost, Received, Send
from p2pfl.gossip.messages import Ack, Bundle, Masked, Message, Part, Proposal, Ready
from p2pfl.gossip.rehearsal import Rehearsal, Wrap
from p2pfl.gossip.simulation import Link, unreliable
from p2pfl.gossip.wire import digest

exchanges = pytest.mark.parametrize("exchange", EXCHANGES)
FORMING = (Ready, Proposal, Bundle, Ack)


class Liar:
    """Changes, drops, doubles, delays and passes on messages, to some or to all, about one in ``often``."""

    def __init__(self, seed: int, often: int, spared: tuple[type[Message], ...]) -> None:
        self._random, self._often, self._spared = np.random.default_rng(seed), often, spared
        self._later: list[Send] = []

    def wrap(self) -> Wrap:
        return attacker(self._change, self._react)

    def _one(self, things: "list[Any] | tuple[Any, ...]") -> Any:
        return things[int(self._random.integers(len(things)))]

    def _change(self, me: Attacker, send: Send) -> Iterable[Send]:
        if self._random.integers(self._often) or isinstance(send.message, self._spared):
            return (send,)
        match self._random.integers(6):
            case 0:
                return ()
            case 1:
                return (send, send)
            case 2:
                self._later.append(send)
                return ()
            case 3:
                return (send, self._lie(me, send))
            case _:
                return (self._lie(me, send),)

    def _react(self, me: Attacker, event: Event, now: float) -> Iterable[Effect]:
        if self._random.integers(self._often) or not isinstance(event, Received):
            return ()
        late, self._later = self._later, []
        message = self._one([event.message, *me.heard[-20:], *me.said[-20:]])
        if isinstance(message, self._spared):
            return late
        peer = self._one([peer for peer in GROUP[:7] if peer != me.peer])
        return (*late, Send(peer, message), self._lie(me, Send(peer, message)))

    def _lie(self, me: Attacker, send: Send) -> Send:
        message = send.message
        for _ in range(int(self._random.integers(1, 3))):
            one = self._one(
                [each.name for each in fields(message) if each.name not in ("author", "signature")]
            )
            others = [m for m in [*me.heard, *me.said] if type(m) is type(message)]
            value = getattr(self._one(others), one) if others and self._random.integers(2) else None
            value = self._other(getattr(message, one)) if value is None else value
            message = replace(message, **{one: value})
        if isinstance(message, Masked):
            message = replace(message, digest=digest(labels.MASKED_DIGEST, message.data))
        if isinstance(message, Part):
            message = replace(message, digest=digest(labels.PART_DIGEST, message.data))
        return Send(send.peer, message if message.LABEL is None else me.sign(message))

    def _other(self, value: Any) -> Any:
        match value:
            case str():
                return self._one(GROUP)
            case int():
                return max(0, value + int(self._random.integers(-2, 3)))
            case bytes():
                at = int(self._random.integers(len(value) + 1))
                other = value[:at] + bytes([self._random.integers(256)]) + value[at + 1 :]
                return self._one([other, other, other, value[:at], bytes(len(value))])
            case tuple() if value:
                at = int(self._random.integers(len(value)))
                changed = (*value[:at], self._other(value[at]), *value[at + 1 :])
                return self._one(
                    [changed, changed, value[:at] + value[at + 1 :], value[::-1], (*value, value[at])]
                )
            case _:
                return value


def lies(exchange: str, seed: int) -> None:
    """One or two liars in a group of five to seven; they spare the forming in half of the rounds, which would
    often end there.
    """
    random = np.random.default_rng(seed)
    colluders = int(random.integers(1, 3))
    members = int(random.integers(4 + colluders, 8))
    numbers = random.choice(members, colluders, replace=False)
    often, spared = int(random.choice([3, 10, 40])), FORMING if random.integers(4) else ()
    wrap = {int(number): Liar(seed + int(number), often, spared).wrap() for number in numbers}
    rehearsal = rehearse(exchange, wrap, members, colluders=colluders, seed=seed).run()
    audit(rehearsal, wrap, own_values=False)


@exchanges
def test_whatever_a_few_members_do_the_others_agree_and_accuse_nobody_else(exchange: str) -> None:
    for seed in range(40):
        lies(exchange, seed)


@pytest.mark.slow
@exchanges
def test_whatever_they_do_for_longer(exchange: str) -> None:
    for seed in range(1000, 3000):
        lies(exchange, seed)


def once_it_is_formed(link: Link) -> Link:
    """Nothing happens to the messages before."""

    def fate(sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator) -> Iterable[float]:
        return (0.01,) if isinstance(message, FORMING) else link(sender, receiver, message, rng)

    return fate


def troubled(exchange: str, seed: int) -> Rehearsal:
    """Honest members, of which some die, over connections that delay, drop, double, and break."""
    random = np.random.default_rng(seed)
    members = int(random.integers(4, 9))
    victims = random.choice(members, int(random.integers(0, 3)), replace=False)
    high, drop, duplicate = (
        random.choice(these) for these in ([0.05, 0.3, 0.8, 1.5], [0, 0, 0.01, 0.1], [0, 0.3])
    )
    link = unreliable(0.0, float(high), float(drop), float(duplicate))
    rehearsal = rehearse(
        exchange,
        {},
        members,
        seed=seed,
        codec=False,
        colluders=int(random.integers(0, 2)),
        link=once_it_is_formed(link),
        crashes={int(number): int(random.integers(30, 350)) for number in victims},
        loss_seconds=(0.05, 0.7, None)[random.integers(3)],
    )
    for _ in range(int(random.integers(0, 4))):
        one, other = (GROUP[number] for number in random.choice(members, 2, replace=False))
        lost = float(random.uniform(0.05, 3.0))
        found = lost + float(random.uniform(0.01, 1.5))
        for a, b in ((one, other), (other, one)):
            rehearsal.net.post(a, PeerLost(b), lost)
            rehearsal.net.post(b, PeerFound(a), found)
    return rehearsal


@exchanges
def test_no_trouble_makes_honest_members_disagree_or_accuse_each_other(exchange: str) -> None:
    for seed in range(60):
        audit(troubled(exchange, seed).run(), {})


@pytest.mark.slow
@exchanges
def test_nor_does_more_of_it(exchange: str) -> None:
    for seed in range(1000, 3000):
        audit(troubled(exchange, seed).run(), {})
