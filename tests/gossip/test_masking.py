"""What holds shares and masks together, and that nothing of them is left when they have served."""

from dataclasses import replace

import numpy as np
import pytest
from attackers import EXCHANGES, GROUP, Attacker, all_complete, attacked, attacker, lying, reachable, rehearse

from p2pfl.crypto.agreement import OneTimeKey
from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.randomness import RandomBytes, seeded_random
from p2pfl.gossip.masking import Masking, Secrets
from p2pfl.gossip.messages import Message, Ready, Reveal
from p2pfl.gossip.roster import Roster
from p2pfl.gossip.suite import SUITE


def a_roster(members: int, keys_from: dict[int, int]) -> tuple[Roster, list[Secrets]]:
    """The readies of so many; of some with the mask key of another."""
    secrets = [Secrets.fresh(SUITE, seeded_random(b"%d" % number)) for number in range(members)]
    readies = []
    for number, (peer, own) in enumerate(zip(GROUP, secrets, strict=False)):
        key = secrets[keys_from.get(number, number)].mask_key.public
        keys = (key, own.bundle_key.public, SUITE.commit(own.seed))
        readies.append(Ready(peer, bytes(32), bytes(32), 7, 0, "training", 4, *keys, bytes(32)))
    return Roster.of(readies, 1), secrets


def test_a_member_with_the_key_of_another_does_not_undo_its_mask() -> None:
    """Member 1 adds its mask with member 2 and takes away that with member 0, who copied the key of 2."""
    roster, secrets = a_roster(3, {0: 2})
    masked, alone = np.zeros(64, np.uint32), np.zeros(64, np.uint32)
    masking = Masking(roster, 1, secrets[1], SUITE)
    masking.masker().apply(masked)
    SUITE.mask(masking._self_mask(secrets[1].seed)).add_to(alone)
    assert not np.array_equal(masked, alone)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_and_learns_nothing_by_it(exchange: str) -> None:
    """Its masks do not cancel, so the sum is noise: the round is lost, or whatever it likes to contribute."""

    def lie(me: Attacker, ready: Ready, to: PeerId) -> Message:
        copied = [m.mask_key for m in me.heard if isinstance(m, Ready) and m.author == GROUP[2]]
        return replace(ready, mask_key=copied[0]) if copied else ready

    wrap = {0: attacker(lying(Ready, lie))}
    attacked(exchange, wrap, prepared_at=[0.5, 0, 0, 0, 0, 0], own_values=False)


def test_fewer_than_the_threshold_put_no_secret_together() -> None:
    roster, secrets = a_roster(6, {})
    dealt, sealed = Masking(roster, 0, secrets[0], SUITE).deal(seeded_random(b"deal"))
    shares = {0: dealt} | {
        holder: Masking(roster, holder, secrets[holder], SUITE).open(0, data)
        for holder, data in sealed.items()
    }
    threshold = roster.thresholds.threshold
    for few in (threshold, threshold - 1):
        seed = SUITE.combine({holder: shares[holder].seed for holder in range(few)}, few)
        key = SUITE.combine({holder: shares[holder].key for holder in range(few)}, few)
        assert (seed == secrets[0].seed) == (few == threshold)
        assert (SUITE.key_of(key).public == secrets[0].mask_key.public) == (few == threshold)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_no_secret_is_left_after_the_sum(exchange: str) -> None:
    """Neither our own, nor others' that were put together, nor shares that were not revealed to all."""
    secrets: set[bytes] = set()

    def seed(random: RandomBytes) -> bytes:
        secrets.add(made := SUITE.new_seed(random))
        return made

    def key(random: RandomBytes) -> OneTimeKey:
        secrets.add((made := SUITE.new_key(random)).secret)
        return made

    def split(secret: bytes, holders: int, threshold: int, random: RandomBytes) -> list[bytes]:
        secrets.update(made := SUITE.split(secret, holders, threshold, random))
        return made

    suite = replace(SUITE, new_seed=seed, new_key=key, split=split)
    rehearsal = rehearse(exchange, {}, suite=suite).run()
    all_complete(rehearsal, {})
    shown = {
        share
        for sent in rehearsal.net.sent
        if isinstance(sent.message, Reveal)
        for share in sent.message.shares
    }
    assert len(secrets - shown) == 6 * (1 + 2 + 6), "a seed, two keys, and the shares of one of them, each"
    for machine in rehearsal.net.machines.values():
        left = {thing for thing in reachable(machine, secrets) if isinstance(thing, bytes)}
        assert not left & (secrets - shown)
