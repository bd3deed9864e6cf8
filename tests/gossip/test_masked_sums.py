"""The arithmetic of masking: what survivors and their shares come to, and what shows nothing."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from attempts import DIM, VALUES, Dealt, a_roster, masked_by

from p2pfl.crypto.ring import RING_16, RING_32, RING_64, Ring
from p2pfl.gossip.masking import Masking
from p2pfl.gossip.recovery import Recovery
from p2pfl.gossip.suite import SUITE


def recovered_from(dealt: Dealt, owner: int, survived: bool, shares: Mapping[int, bytes]) -> bytes | None:
    """What shares by holder of this one secret come to."""
    search = Recovery(dealt.roster, SUITE, frozenset([owner] if survived else []))
    return search._with_secret(owner, shares).secrets.get(owner)


@pytest.mark.parametrize("ring", [RING_16, RING_32, RING_64], ids=lambda ring: f"{ring.bits} bits")
@pytest.mark.parametrize(("members", "colluders"), [(3, 1), (4, 1), (5, 2)])
def test_whoever_survives_the_sum_is_exact(members: int, colluders: int, ring: Ring) -> None:
    dealt = Dealt(members, colluders)
    values = np.random.default_rng(2).integers(0, 1 << ring.bits, (members, DIM), ring.dtype)
    masked = [masked_by(masking, values[number]) for number, masking in enumerate(dealt.maskings)]
    threshold = dealt.roster.thresholds.threshold
    for size in range(threshold, members + 1):
        for survivors in combinations(range(members), size):
            recovered = {}
            for owner in range(members):
                survived = owner in survivors
                shares = dealt.shares(owner, survived, survivors[-threshold:])
                secret = recovered_from(dealt, owner, survived, shares)
                own = dealt.secrets[owner]
                assert secret == (own.seed if survived else own.mask_key.secret)
                recovered[owner] = secret
            total = np.add.reduce([masked[owner] for owner in survivors], dtype=ring.dtype)
            dealt.maskings[0].unmasker(survivors, recovered).apply(total)
            assert np.array_equal(total, np.add.reduce(values[list(survivors)], dtype=ring.dtype))


def test_a_masked_vector_is_not_the_vector() -> None:
    dealt = Dealt(4)
    masked = masked_by(dealt.maskings[0], VALUES[0])
    assert not np.any(masked == VALUES[0])
    SUITE.mask(dealt.maskings[0]._self_mask(dealt.secrets[0].seed)).take_from(masked)
    assert not np.any(masked == VALUES[0]), "pairwise masks remain"


def test_slices_of_a_masked_vector_are_the_whole() -> None:
    masking, values = Dealt(4).maskings[2], np.arange(100_000, dtype=np.uint32)
    whole = masked_by(masking, values)
    assert np.array_equal(masked_by(masking, values, 1, 16_383, 16_384, 16_390, 70_000), whole)


def test_every_attempt_masks_differently() -> None:
    """The same secrets in another roster expand to other masks: the context is the roster digest."""
    masks = set()
    for attempt in range(3):
        roster, secrets = a_roster(4, attempt=attempt)
        masking = Masking(roster, 0, secrets[0], SUITE)
        masks |= {masking._self_mask(secrets[0].seed), masking._pair_seed(secrets[0].mask_key.secret, 0, 1)}
        masks.add(masking._bundle_key(0, 1))
        masks.add(masking._bundle_key(1, 0))
    assert len(masks) == 12


def test_bundles_open_for_their_recipient_only() -> None:
    dealt = Dealt(4)
    with pytest.raises(ValueError):
        dealt.maskings[2].open(0, dealt.sealed[0, 1])
    with pytest.raises(ValueError):
        dealt.maskings[1].open(2, dealt.sealed[0, 1])
    with pytest.raises(ValueError):
        dealt.maskings[0].open(1, dealt.sealed[0, 1])
    with pytest.raises(ValueError):
        dealt.maskings[1].open(0, dealt.sealed[0, 1][:-1])
    short = SUITE.seal(dealt.maskings[0]._bundle_key(0, 1), bytes(65), dealt.roster.digest)
    with pytest.raises(ValueError):
        dealt.maskings[1].open(0, short)


def test_a_recovered_mask_key_opens_no_bundle() -> None:
    dealt = Dealt(4)
    key = dealt.secrets[3].mask_key
    burglar = Masking(dealt.roster, 3, replace(dealt.secrets[3], bundle_key=key), SUITE)
    with pytest.raises(ValueError):
        burglar.open(0, dealt.sealed[0, 3])


def test_fewer_shares_than_the_threshold_recover_nothing() -> None:
    dealt = Dealt(5, 2)
    assert dealt.roster.thresholds.threshold == 4
    assert recovered_from(dealt, 1, True, dealt.shares(1, True, (0, 2, 4))) is None


@pytest.mark.parametrize(("members", "colluders", "wrong"), [(4, 1, 1), (8, 1, 1), (8, 1, 2), (8, 3, 2)])
def test_wrong_shares_are_found_out(members: int, colluders: int, wrong: int) -> None:
    """As long as enough right ones are there, whichever are wrong; with too few, nothing comes out."""
    dealt = Dealt(members, colluders)
    for bad in combinations(range(members), wrong):
        for survived in (True, False):
            shares = dealt.shares(2, survived, range(members))
            shares |= {holder: shares[holder][:-1] + bytes([shares[holder][-1] ^ 1]) for holder in bad}
            shares |= {bad[0]: b"short"}
            own = dealt.secrets[2]
            secret = recovered_from(dealt, 2, survived, shares)
            assert secret is not None
            if survived:
                assert secret == own.seed
            else:  # X25519 ignores five bits of a secret: it may be another one of the same key
                assert SUITE.key_of(secret).public == own.mask_key.public
            good = [holder for holder in shares if holder not in bad]
            few = (*bad, *good[: dealt.roster.thresholds.threshold - 1])
            assert recovered_from(dealt, 2, survived, {holder: shares[holder] for holder in few}) is None


def test_shares_have_no_representation() -> None:
    dealt = Dealt(3)
    assert repr(dealt.held[0][1]) == "<HeldShares>"
    assert "seed" not in repr(dealt.secrets[0])
    assert "secret" not in repr(dealt.secrets[0])
