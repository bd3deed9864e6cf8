"""One round machine, driven by hand: proposals, attempts, what comes early, what its driver does wrong."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.deadlines import Patience, Phase
from p2pfl.gossip.errors import LocalProtocolError, RemoteProtocolError
from p2pfl.gossip.events import (
    Completed,
    Contribute,
    Contribution,
    Effect,
    Evidence,
    PeerFound,
    PeerLost,
    Prepared,
    Received,
    Send,
    SetTimer,
    Skipped,
    TimerExpired,
)
from p2pfl.gossip.masking import Secrets
from p2pfl.gossip.messages import (
    Ack,
    Bundle,
    Proposal,
    Ready,
    Survivors,
    roster_digest,
)
from p2pfl.gossip.rehearsal import EPOCH_ROSTER, FEDERATION, FixedTiming, Rehearsal, identity_of
from p2pfl.gossip.round import RoundMachine
from p2pfl.gossip.suite import SUITE
from p2pfl.gossip.wire import signed

VALUES = np.random.default_rng(1).integers(0, 2**32, (16, 5), dtype=np.uint32)
FOUR = VALUES[:4]
IDENTITIES = [identity_of(number) for number in range(4)]
GROUP = tuple(identity.peer_id for identity in IDENTITIES)
STRANGER = identity_of(99)


def machine(number: int = 1, **changes: object) -> RoundMachine:
    arguments: dict[str, object] = {
        "identity": IDENTITIES[number],
        "federation": FEDERATION,
        "roster_digest": EPOCH_ROSTER,
        "round": 7,
        "group": GROUP,
        "minimum": 3,
        "colluders": 1,
        "timing": FixedTiming(),
        "random": seeded_random(b"%d" % number),
    }
    return RoundMachine(**(arguments | changes))  # type: ignore[arg-type]  # the defaults above have the right types


def prepared(number: int = 1) -> tuple[RoundMachine, Ready]:
    """A machine that has begun, and its ready."""
    it = machine(number)
    effects = it.handle(Prepared(7, "training", 5, bytes(32)), 0.0)
    return it, next(e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Ready))


@pytest.mark.parametrize("spent", [False, True])
def test_a_ready_says_whether_the_budget_is_spent(spent: bool) -> None:
    effects = machine(1).handle(Prepared(7, "training", 5, bytes(32), spent=spent), 0.0)
    said = {e.message.spent for e in effects if isinstance(e, Send) and isinstance(e.message, Ready)}
    assert said == {spent}


def ready(number: int, attempt: int = 0, **changes: object) -> Ready:
    identity = IDENTITIES[number] if number < 4 else STRANGER
    key = SUITE.new_key(seeded_random(b"%d/%d" % (number, attempt)))
    keys = (key.public, key.public)
    place = (FEDERATION, EPOCH_ROSTER, 7, attempt)
    plain = Ready(identity.peer_id, *place, "training", 5, *keys, bytes(32), bytes(32))
    return signed(identity, replace(plain, **changes))  # type: ignore[arg-type]


def propose(author: int, *readies: Ready, attempt: int = 0) -> Received:
    identity = IDENTITIES[author]
    return Received(GROUP[author], signed(identity, Proposal(GROUP[author], 7, attempt, readies)))


def kinds(effects: Iterable[Effect]) -> set[tuple[type, int]]:
    """What is sent: type and attempt."""
    return {
        (type(e.message), e.message.attempt)  # type: ignore[attr-defined]
        for e in effects
        if isinstance(e, Send)
    }


def test_a_proposal_that_leaves_out_a_ready_member_is_refused() -> None:
    it, ours = prepared()
    it.handle(Received(GROUP[2], ready(2)), 0.0)
    effects = it.handle(propose(0, ready(0), ours, ready(3)), 0.1)
    assert kinds(effects) == {(Ready, 1)}
    it, ours = prepared()
    it.handle(Received(GROUP[2], ready(2)), 0.0)
    assert kinds(it.handle(propose(0, ready(0), ours, ready(3)), 5.0)) == {(Ready, 1)}, "at any time"


def test_a_proposal_that_leaves_out_a_lost_member_is_accepted() -> None:
    it, ours = prepared()
    it.handle(Received(GROUP[2], ready(2)), 0.0)
    it.handle(PeerLost(GROUP[2]), 0.05)
    assert kinds(it.handle(propose(0, ready(0), ours, ready(3)), 0.1)) == {(Bundle, 0)}


def test_one_who_is_not_on_the_roster_calls_nobody_away_at_once() -> None:
    """Others may have passed the commitment point, and need us. More than c of them do call us away."""
    it, ours = prepared()
    it.handle(PeerLost(GROUP[2]), 0.05)
    it.handle(propose(0, ready(0), ours, ready(3)), 0.1)
    it.handle(PeerFound(GROUP[2]), 0.1)
    assert kinds(it.handle(Received(GROUP[2], ready(2, attempt=1)), 0.15)) == set()
    assert kinds(it.handle(Received(GROUP[3], ready(3, attempt=1)), 0.2)) == {(Ready, 1)}


def test_a_proposal_that_leaves_out_a_silent_member_has_to_wait() -> None:
    it, ours = prepared()
    assert kinds(it.handle(propose(0, ready(0), ours, ready(3)), 0.1)) == set()
    assert kinds(it.handle(TimerExpired("any"), 0.999)) == set()
    assert kinds(it.handle(TimerExpired("any"), 1.0)) == {(Bundle, 0)}


def test_and_is_refused_if_the_silent_member_speaks_up_meanwhile() -> None:
    it, ours = prepared()
    it.handle(propose(0, ready(0), ours, ready(3)), 0.1)
    assert kinds(it.handle(Received(GROUP[2], ready(2)), 0.2)) == {(Ready, 1)}


def test_a_proposal_without_us_or_too_small_is_refused() -> None:
    it, _ = prepared()
    assert not kinds(it.handle(propose(0, ready(0), ready(2), ready(3)), 0.1)), "it may be late itself"
    assert kinds(it.handle(TimerExpired("patience"), it._attendance.patient_until)) == {(Ready, 1)}
    it, ours = prepared()
    assert kinds(it.handle(propose(0, ready(0), ours), 2.0)) == {(Ready, 1)}
    it, ours = prepared()
    other = signed(IDENTITIES[1], replace(ours, mask_key=ready(1).mask_key))
    assert kinds(it.handle(propose(0, ready(0), other, ready(2), ready(3)), 0.1)) == {(Ready, 1)}


MALFORMED: dict[str, Callable[[Ready], list[Ready]]] = {
    "nobody": lambda ours: [],
    "a stranger": lambda ours: [ready(0), ours, ready(2), ready(99)],
    "another order": lambda ours: [ours, ready(0), ready(2), ready(3)],
    "one member twice": lambda ours: [ready(0), ours, ours, ready(3)],
    "two stages": lambda ours: [ready(0), ours, ready(2, stage="evaluation"), ready(3)],
    "two lengths": lambda ours: [ready(0), ours, ready(2, dim=6), ready(3)],
    "another attempt": lambda ours: [ready(0), ours, ready(2, attempt=1), ready(3)],
    "another round": lambda ours: [ready(0), ours, ready(2, round=8), ready(3)],
    "another federation": lambda ours: [ready(0), ours, ready(2, federation=bytes(32)), ready(3)],
    "a bad key": lambda ours: [ready(0), ours, ready(2, bundle_key=bytes(32)), ready(3)],
}


@pytest.mark.parametrize("case", MALFORMED)
def test_no_honest_convener_proposes(case: str) -> None:
    it, ours = prepared()
    with pytest.raises(RemoteProtocolError) as caught:
        it.handle(propose(0, *MALFORMED[case](ours)), 0.1)
    assert caught.value.peer == GROUP[0]
    good = it.handle(propose(2, ready(0), ours, ready(2), ready(3)), 0.1)
    assert kinds(good) == {(Bundle, 0)}, "and nothing has changed"


def test_readies_of_others_elsewhere() -> None:
    it, _ = prepared()
    with pytest.raises(RemoteProtocolError, match="another federation"):
        it.handle(Received(GROUP[0], ready(0, federation=bytes(32))), 0.1)
    with pytest.raises(RemoteProtocolError, match="stranger"):
        it.handle(Received(STRANGER.peer_id, ready(99)), 0.1)
    with pytest.raises(RemoteProtocolError, match="stranger to the group or of another author"):
        it.handle(Received(GROUP[0], ready(2)), 0.1)
    for elsewhere in (ready(0, epoch_roster=bytes(32), attempt=2), ready(0, round=8, attempt=2)):
        assert it.handle(Received(GROUP[0], elsewhere), 0.1) == []


def test_who_says_it_again_and_again_does_not_say_what_is_usual() -> None:
    """Deadlines follow from a median over all: of one time for each member and roster."""
    patience = Patience()
    it, other = machine(1, patience=patience), machine(2)
    both = [each.handle(Prepared(7, "training", 5, bytes(32)), 0.0) for each in (it, other)]
    ours, theirs = (next(e.message for e in effects if isinstance(e, Send)) for effects in both)
    assert isinstance(ours, Ready)
    assert isinstance(theirs, Ready)
    agreed = propose(0, ready(0), ours, theirs, ready(3))
    it.handle(agreed, 0.1)
    dealt = [e for e in other.handle(agreed, 0.1) if isinstance(e, Send) and isinstance(e.message, Bundle)]
    bundle = next(e.message for e in dealt if e.peer == GROUP[1])
    for _ in range(64):
        it.handle(Received(GROUP[2], bundle), 0.2)
    assert patience.durations.expected(Phase.SHARE, GROUP, 100.0) == 100.0


def test_whoever_keeps_talking_without_being_ready_sets_few_timers() -> None:
    """When it would count as silent moves on with every word."""
    patience = Patience()
    for peer in GROUP:
        patience.connected(peer, True, 0.0)
    it = machine(1, patience=patience, timing=FixedTiming(ready_seconds=60.0, round_seconds=100.0))
    it.handle(Prepared(7, "training", 5, bytes(32)), 0.0)
    timers = set()
    for tick in range(1000):
        now = tick / 100
        patience.heard(GROUP[2], now)
        effects = it.handle(Received(GROUP[2], signed(IDENTITIES[2], Ack(GROUP[2], 7, 0, bytes(32)))), now)
        timers |= {e.key for e in effects if isinstance(e, SetTimer)}
    assert 1 < len(timers) < 20


def test_a_later_attempt_is_followed_and_an_earlier_one_ignored() -> None:
    it, _ = prepared()
    assert kinds(it.handle(Received(GROUP[0], ready(0, attempt=2)), 0.1)) == {(Ready, 2)}
    assert it.handle(Received(GROUP[2], ready(2, attempt=1)), 0.1) == []
    assert it.handle(Received(GROUP[0], ready(0, attempt=2)), 0.1) == []
    early = Ack(GROUP[3], 7, 3, bytes(32))
    assert kinds(it.handle(Received(GROUP[3], signed(IDENTITIES[3], early)), 0.1)) == {(Ready, 3)}


def test_every_attempt_has_fresh_secrets() -> None:
    it, first = prepared()
    effects = it.handle(Received(GROUP[0], ready(0, attempt=1)), 0.1)
    second = next(e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Ready))
    assert {first.mask_key, first.bundle_key}.isdisjoint({second.mask_key, second.bundle_key})
    assert first.commitment != second.commitment


def test_a_group_that_split_over_two_proposals_tries_again() -> None:
    it, ours = prepared()
    it.handle(propose(0, ready(0), ours, ready(2), ready(3)), 0.1)
    elsewhere = signed(IDENTITIES[3], Ack(GROUP[3], 7, 0, bytes(32)))
    assert kinds(it.handle(Received(GROUP[3], elsewhere), 0.2)) == {(Ready, 1)}


def test_what_came_early_and_breaks_the_rules_is_evidence() -> None:
    it, ours = prepared()
    readies = (ready(0), ours, ready(2), ready(3))
    wrong = signed(IDENTITIES[3], Bundle(GROUP[3], 7, 0, roster_digest(readies), GROUP[2], bytes(40)))
    it.handle(Received(GROUP[3], wrong), 0.1)
    effects = it.handle(propose(0, *readies), 0.2)
    assert Evidence(GROUP[3], "a bundle for somebody else", (wrong,)) in effects


def test_early_messages_are_bounded() -> None:
    it, _ = prepared()
    for number in range(50):
        it.handle(Received(GROUP[3], signed(IDENTITIES[3], Ack(GROUP[3], 7, 0, bytes([number] * 32)))), 0.1)
    assert len(list(it._forming._early)) == 2


def test_the_driver_is_told_what_it_did_wrong() -> None:
    it = machine()
    with pytest.raises(LocalProtocolError):
        it.handle(Prepared(8, "training", 5, bytes(32)), 0.0)
    with pytest.raises(LocalProtocolError):
        it.handle(Prepared(7, "training", 0, bytes(32)), 0.0)
    with pytest.raises(LocalProtocolError):
        it.handle(Contribution(7, FOUR[0]), 0.0)
    it.handle(Prepared(7, "training", 5, bytes(32)), 0.0)
    with pytest.raises(LocalProtocolError):
        it.handle(Prepared(7, "training", 5, bytes(32)), 0.0)
    with pytest.raises(LocalProtocolError):
        it.handle(Contribution(7, FOUR[0]), 0.0)
    with pytest.raises(LocalProtocolError):
        it.handle(Completed, 0.0)  # type: ignore[arg-type]
    for group in ((GROUP[0], GROUP[2], GROUP[3]), (*GROUP, GROUP[1])):
        with pytest.raises(LocalProtocolError):
            machine(group=group)


def test_a_contribution_after_the_end_is_no_mistake() -> None:
    """It was asked for, and the round ended while it was made."""
    slow: list[Effect] = []
    it, _ = prepared()
    slow += it.handle(TimerExpired("round/7/end"), 30.0)
    assert [type(effect) for effect in slow] == [Skipped]
    assert it.handle(Contribution(7, FOUR[0]), 31.0) == []
    assert it.handle(Received(GROUP[0], ready(0)), 31.0) == []


def test_readies_that_come_before_we_are_prepared_count() -> None:
    late = machine(0)
    for number in (1, 2, 3):
        late.handle(Received(GROUP[number], ready(number)), 0.0)
    effects = late.handle(Prepared(7, "training", 5, bytes(32)), 0.0)
    assert (Proposal, 0) in kinds(effects)


def test_survivors_settled_before_we_sent_anything_end_the_attempt_and_nothing_else() -> None:
    """Three of four deal no bundles, and sign that our vector is in."""
    it = machine(0)
    sent = it.handle(Prepared(7, "training", 5, bytes(32)), 0.0)
    readies = [next(e.message for e in sent if isinstance(e, Send) and isinstance(e.message, Ready))]
    for identity in IDENTITIES[1:]:
        secrets = Secrets.fresh(SUITE, seeded_random(identity.seed))
        keys = (secrets.mask_key.public, secrets.bundle_key.public, SUITE.commit(secrets.seed))
        place = (FEDERATION, EPOCH_ROSTER, 7, 0, "training", 5)
        readies.append(signed(identity, Ready(identity.peer_id, *place, *keys, bytes(32))))
        it.handle(Received(identity.peer_id, readies[-1]), 0.1)
    context, entries = (
        (7, 0, roster_digest(tuple(readies))),
        tuple((number, bytes(32)) for number in range(4)),
    )
    effects = [
        effect
        for identity in IDENTITIES[1:]
        for effect in it.handle(
            Received(identity.peer_id, signed(identity, Survivors(identity.peer_id, *context, entries))), 0.2
        )
    ]
    again = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Ready)]
    assert {ready.attempt for ready in again} == {1}
    assert not any(isinstance(e, Contribute) for e in effects)


def test_messages_of_another_round_federation_or_group_change_nothing() -> None:
    recorded = Rehearsal(FOUR).run().net.sent
    for changes in ({"round": 8}, {"federation": bytes(32)}, {"roster_digest": bytes(32)}):
        it = machine(**changes)
        it.handle(Prepared(it.round, "training", 5, bytes(32)), 0.0)
        for sent in recorded:
            if sent.receiver == GROUP[1]:
                effects: list[Effect] = []
                with suppress(RemoteProtocolError):
                    effects = it.handle(Received(sent.sender, sent.message), 0.1)
                assert kinds(effects) <= {(Ready, 1)}, sent
                assert not any(isinstance(effect, Contribute | Completed) for effect in effects)
