"""The figures that attacks are judged by, against slow obvious ones and known answers."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from p2pfl.attacks.measures import epsilon_bound, success, upper_limit
from p2pfl.attacks.membership import likelihood_ratios

Vector = NDArray[np.float64]


def tail(hits: int, trials: int, rate: float) -> float:
    return sum(math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(hits + 1))


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 20), (19, 20), (150, 400)])
def test_a_higher_rate_would_hardly_give_so_few_hits(hits: int, trials: int) -> None:
    limit = upper_limit(hits, trials, 0.025)
    assert tail(hits, trials, limit) == pytest.approx(0.025, rel=1e-9)
    assert hits / trials < limit < 1


def test_limits_where_nothing_or_everything_hits() -> None:
    assert upper_limit(0, 50, 0.05) == pytest.approx(1 - 0.05 ** (1 / 50))
    assert upper_limit(50, 50, 0.05) == 1
    assert upper_limit(3, 100_000, 0.025) == pytest.approx(8.767 / 100_000, rel=1e-3)  # Poisson's, published


def gaussian(shift: float, count: int = 200_000) -> tuple[Vector, Vector]:
    rng = np.random.default_rng(1)
    return rng.normal(shift, 1, count), rng.normal(0, 1, count)


def delta_of(epsilon: float, shift: float) -> float:
    """Of one Gaussian mechanism: Balle and Wang 2018, theorem 8."""

    def phi(value: float) -> float:
        return math.erfc(-value / math.sqrt(2)) / 2

    return phi(shift / 2 - epsilon / shift) - math.exp(epsilon) * phi(-shift / 2 - epsilon / shift)


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
def test_the_bound_on_epsilon_is_close_and_below(shift: float) -> None:
    true = next(e for e in np.arange(0, 20, 0.01) if delta_of(e, shift) <= 0.01)
    present, absent = gaussian(shift)
    assert 0.6 * true < epsilon_bound(present, absent, 0.01) < true
    assert epsilon_bound(-absent, -present, 0.01) > 0.6 * true  # the other side is looked at, too
    assert epsilon_bound(absent, absent[::-1], 0.01) < 0.05


def test_what_cannot_be_known_from_few_trials_is_not_claimed() -> None:
    for count in (1, 5, 10, 100):
        bound = epsilon_bound(np.ones(count), np.zeros(count), 1e-4)
        assert bound <= math.log(max(count, 2))
    assert epsilon_bound(np.ones(1000), np.zeros(1000), 1e-4) > 4


def test_success_against_pairs_and_a_sorted_list() -> None:
    rng = np.random.default_rng(2)
    members = rng.random((6, 50)) < 0.5
    scores = rng.normal(size=members.shape) + 1.5 * members
    found = success(scores, members, rng)
    inside, outside = scores[members], scores[~members]
    assert found.auc.value == pytest.approx(np.mean(inside[:, None] > outside[None, :]))
    allowed = int(0.01 * len(outside))
    assert found.caught.value == pytest.approx(np.mean(inside > np.sort(outside)[-allowed - 1]))
    for estimate in (found.auc, found.caught):
        assert estimate.low <= estimate.value <= estimate.high


def test_intervals_hold_what_they_should() -> None:
    """Of coins: ½ and 1 %, nearly always within; of a perfect attack: 1."""
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(20):
        members = rng.random((30, 100)) < 0.5
        found = success(rng.normal(size=members.shape), members, rng)
        inside += [found.auc.low <= 0.5 <= found.auc.high, found.caught.low <= 0.01 <= found.caught.high]
    assert 33 <= sum(inside) <= 40
    perfect = success(members.astype(np.float64), members, rng)
    assert perfect.auc.value == perfect.auc.low == perfect.caught.value == 1


def test_likelihood_ratios_against_one_run_at_a_time() -> None:
    rng = np.random.default_rng(4)
    members = rng.random((9, 5)) < 0.5
    members[:2], members[2:4] = True, False
    scores = rng.normal(size=members.shape) + 2 * members
    found = likelihood_ratios(scores, members)
    for run, record in np.ndindex(scores.shape):
        rest = np.arange(len(scores)) != run
        inside = scores[rest & members[:, record], record]
        outside = scores[rest & ~members[:, record], record]
        squares = np.sum((inside - inside.mean()) ** 2) + np.sum((outside - outside.mean()) ** 2)
        variance = squares / (len(inside) + len(outside) - 2)
        score = scores[run, record]
        expected = ((score - outside.mean()) ** 2 - (score - inside.mean()) ** 2) / (2 * variance)
        assert found[run, record] == pytest.approx(expected)
