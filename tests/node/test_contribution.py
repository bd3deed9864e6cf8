"""A contribution taken in pieces is the encoding plus the noise, however it is cut."""

from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.crypto.randomness import seeded_random
from p2pfl.crypto.ring import Encoding, Ring, encode
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.contribution import LazyContribution
from p2pfl.node.privacy import StagePlan, noise

FOUR = thresholds(4, 1)
LENGTH = 70_000  # more than one batch of noise and two blocks of encoding


def plan(bits: Literal[16, 32, 64], mode: Literal["distributed", "none"] = "distributed") -> StagePlan:
    return StagePlan("training", mode, LENGTH, Encoding(8, 2.0, Ring(bits)), 0.5, 1.0, 0.5, 1)


@pytest.mark.parametrize("mode", ["distributed", "none"])
@pytest.mark.parametrize("bits", [16, 32, 64])
@given(cuts=st.lists(st.integers(0, LENGTH), max_size=5))
def test_it_is_the_encoding_plus_the_noise(
    bits: Literal[16, 32, 64], mode: Literal["distributed", "none"], cuts: list[int]
) -> None:
    agreed, values = plan(bits, mode), np.random.default_rng(0).normal(0, 1, LENGTH)
    random = seeded_random(b"same")
    expected, saturated = encode(values, agreed.encoding, random)
    expected += noise(agreed, FOUR, random).astype(expected.dtype)
    contribution = LazyContribution(values, agreed, FOUR, seeded_random(b"same"))
    assert (len(contribution), contribution.shape) == (LENGTH, expected.shape)
    bounds = [0, *sorted(cuts), LENGTH]
    parts = [contribution[start:stop] for start, stop in pairwise(bounds)]
    assert all(part.dtype == contribution.dtype == agreed.encoding.ring.dtype for part in parts)
    assert np.array_equal(np.concatenate(parts), expected)
    assert contribution.saturated == saturated > 0


def test_without_a_group_there_is_no_noise() -> None:
    values = np.arange(10.0) / 8
    contribution = LazyContribution(values, plan(32), None, seeded_random(b"x"))
    assert contribution[:].tolist() == [32 * number for number in range(10)]


def test_nothing_is_drawn_for_what_is_not_finite() -> None:
    def no_randomness(count: int) -> bytes:
        raise AssertionError("randomness was drawn")

    with pytest.raises(ValueError, match="value 2 of 3 is not finite"):
        LazyContribution(np.array([0.0, 1.0, np.inf]), plan(32), FOUR, no_randomness)
