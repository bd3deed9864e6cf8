"""The noise of the vectorised engine against the Gaussian that it stands for."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from torch import Tensor

from p2pfl.simulation.noise import Gaussian

COUNT = 1 << 21


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return Gaussian(torch.Generator().manual_seed(seed)).fill(torch.full(shape, math.nan))


def test_the_numbers_have_the_moments_of_a_gaussian() -> None:
    numbers = drawn(COUNT).double()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        error = math.sqrt(variance / COUNT)
        assert float((numbers**power).mean()) == pytest.approx(moment, abs=5 * error)


@pytest.mark.parametrize("at", [-4.0, -3.0, -1.0, 0.0, 0.5, 2.0, 3.5])
def test_as_many_lie_below_as_of_a_gaussian(at: float) -> None:
    share = NormalDist().cdf(at)
    error = math.sqrt(share * (1 - share) / COUNT) + 2**-17
    assert float((drawn(COUNT) < at).double().mean()) == pytest.approx(share, abs=5 * error)


def test_every_quantile_is_drawn() -> None:
    assert len(np.unique(drawn(COUNT).numpy())) == 1 << 16


def test_numbers_of_one_word_and_of_the_next_are_independent() -> None:
    numbers = drawn(COUNT).double()
    for distance in range(1, 9):
        for values in (numbers, numbers.square() - 1):
            product = float((values[distance:] * values[:-distance]).mean()) / float(values.square().mean())
            assert product == pytest.approx(0, abs=5 / math.sqrt(COUNT))


@pytest.mark.parametrize("shape", [(1,), (3, 7), (5, 1), (2, 2)])
def test_all_of_any_shape_is_filled_the_same_from_the_same_seed(shape: tuple[int, ...]) -> None:
    assert drawn(*shape).isfinite().all()
    assert torch.equal(drawn(*shape), drawn(*shape))
    assert not torch.equal(drawn(*shape), drawn(*shape, seed=1))
