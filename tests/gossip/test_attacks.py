"""Attacks on a round, mounted on the real machines: what the attacker gets, and what becomes of the others.

Six members, of which one may collude: t = 4, and two may vanish. What holds for the honest in every case is
in :func:`attackers.audit`; the tests say what else does.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pytest
from attackers import (
    EXCHANGES,
    GROUP,
    Attacker,
    Change,
    Lie,
    accusations,
    all_complete,
    attacked,
    attacker,
    audit,
    both,
    changes,
    honest_of,
    kept_bytes,
    lying,
    machine_of,
    rehearse,
    silent_about,
)

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.events import Effect, Event, PeerLost, Received, Send
from p2pfl.gossip.messages import (
    Ack,
    Bundle,
    Check,
    Fetch,
    Held,
    Masked,
    Message,
    Part,
    Plan,
    Pledge,
    Proposal,
    Ready,
    Result,
    Reveal,
    Survivors,
)
from p2pfl.gossip.rehearsal import Wrap

ALL = range(6)
exchanges = pytest.mark.parametrize("exchange", EXCHANGES)
scatter = "scatter"


def without(*numbers: int) -> list[int]:
    return [number for number in ALL if number not in numbers]


# ---- saying nothing

SAID = {
    "broadcast": (Masked, Survivors, Reveal, Result),
    "scatter": (Masked, Pledge, Held, Plan, Part, Check, Survivors, Reveal, Result),
}
WITHHELD = [(exchange, kind) for exchange, kinds in SAID.items() for kind in kinds]


def falls_silent_at(kind: type[Message]) -> Change:
    """From the first message of this kind on, nothing."""
    over: list[bool] = []

    def change(me: Attacker, send: Send) -> Iterable[Send]:
        if isinstance(send.message, kind):
            over.append(True)
        return () if over else (send,)

    return change


@pytest.mark.parametrize("number", [0, 5])
@pytest.mark.parametrize(("exchange", "kind"), WITHHELD)
def test_whoever_withholds_one_kind_of_message_stops_nobody(
    exchange: str, kind: type[Message], number: int
) -> None:
    wrap = {number: attacker(silent_about(kind))}
    all_complete(attacked(exchange, wrap), wrap)


@pytest.mark.parametrize("number", [0, 5])
@pytest.mark.parametrize(("exchange", "kind"), WITHHELD)
def test_whoever_falls_silent_after_contributing_stops_nobody(
    exchange: str, kind: type[Message], number: int
) -> None:
    """After it has learned the sum, too: it takes it along, and the others have it as well."""
    wrap = {number: attacker(falls_silent_at(kind))}
    all_complete(attacked(exchange, wrap), wrap)


@exchanges
@pytest.mark.parametrize("kind", [Ready, Proposal, Bundle, Ack])
def test_whoever_falls_silent_before_stops_nobody_or_spoils_the_round(
    exchange: str, kind: type[Message]
) -> None:
    wrap = {0: attacker(falls_silent_at(kind))}
    rehearsal = attacked(exchange, wrap)
    if rehearsal.skipped.keys() - {GROUP[0]}:
        assert not any(rehearsal.masked_vectors(peer) for peer in honest_of(rehearsal, wrap))
