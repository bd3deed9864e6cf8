"""The pieces fit: a double-masked sum of four survives the loss of one member, exactly."""

import numpy as np

from p2pfl.crypto import labels
from p2pfl.crypto.agreement import OneTimeKey, agree
from p2pfl.crypto.discrete_gaussian import DiscreteGaussian
from p2pfl.crypto.masks import Mask
from p2pfl.crypto.randomness import seeded_random
from p2pfl.crypto.ring import Encoding, decode, encode, largest_fraction_bits
from p2pfl.crypto.shamir import combine, split

MEMBERS, THRESHOLD, LENGTH = 4, 3, 1000


def test_sum_over_the_survivors_is_exact_after_a_member_vanished() -> None:
    random = seeded_random(b"together")
    encoding = Encoding(largest_fraction_bits(MEMBERS, 8.0), 8.0)
    keys = [OneTimeKey.generate(random) for _ in range(MEMBERS)]
    self_masks = [random(32) for _ in range(MEMBERS)]
    inputs, masked = [], []
    for i in range(MEMBERS):
        values, saturated = encode(np.random.default_rng(i).uniform(-1, 1, LENGTH), encoding, random)
        values += DiscreteGaussian(1000.0).sample(LENGTH, random).astype(np.uint32)
        assert saturated == 0
        inputs.append(values.copy())
        for j in range(MEMBERS):
            if j != i:
                seed = agree(keys[i].secret, keys[j].public, labels.PAIRWISE_MASK, b"round 1")
                (Mask(seed).add_to if i < j else Mask(seed).take_from)(values)
        Mask(self_masks[i]).add_to(values)
        masked.append(values)
    key_shares = [split(key.secret, MEMBERS, THRESHOLD, random) for key in keys]
    mask_shares = [split(seed, MEMBERS, THRESHOLD, random) for seed in self_masks]

    vanished, survivors = 2, [0, 1, 3]
    total = masked[0] + masked[1] + masked[3]
    for i in survivors:
        seed = combine({holder: mask_shares[i][holder] for holder in survivors}, THRESHOLD)
        Mask(seed).take_from(total)
    recovered = combine({holder: key_shares[vanished][holder] for holder in survivors}, THRESHOLD)
    assert OneTimeKey.from_secret(recovered) == keys[vanished]
    for i in survivors:
        seed = agree(recovered, keys[i].public, labels.PAIRWISE_MASK, b"round 1")
        (Mask(seed).take_from if i < vanished else Mask(seed).add_to)(total)

    assert np.array_equal(total, inputs[0] + inputs[1] + inputs[3])
    plain = np.sum([np.random.default_rng(i).uniform(-1, 1, LENGTH) for i in survivors], axis=0)
    assert (
        np.abs(decode(total, encoding) - plain).max() < (5 * 1000 * 3**0.5 + 3) * 2.0**-encoding.fraction_bits
    )
