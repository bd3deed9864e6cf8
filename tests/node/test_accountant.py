"""The accountant against computations that share nothing with it: closed forms, quadrature, our own RDP."""

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest
import renyi

from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node import accountant, epsilons
from p2pfl.node.accountant import (
    EVALUATIONS,
    Mechanism,
    calibrate,
    epsilon,
    ladder,
    releases_within,
    surely_within,
)

DELTA = 1e-4


def gaussian(multiplier: float, count: int = 1, **changes: Any) -> Mechanism:
    plain = Mechanism("statistics", "train", "distributed", multiplier, 1.0, count, 4, 3, 1)
    return replace(plain, **changes)


def sampled(multiplier: float, rate: float, count: int, **changes: object) -> Mechanism:
    return gaussian(multiplier, count, stage="training", sampling_rate=rate, **changes)


# -- independent computations
def analytic_epsilon(multiplier: float, count: int, delta: float) -> float:
    """Exact, for ``count`` Gaussian mechanisms (Balle, Wang 2018, Theorem 8), by bisection."""

    def spent_delta(eps: float) -> mpmath.mpf:
        mu = mpmath.sqrt(count) / multiplier
        upper = mpmath.ncdf(mu / 2 - eps / mu)
        return upper - mpmath.exp(eps) * mpmath.ncdf(-mu / 2 - eps / mu)

    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if spent_delta(middle) > delta else (low, middle)
    return high


def quadrature_delta(multiplier: float, rate: float, eps: float) -> float:
    """Hockey-stick divergence of one sampled Gaussian, the worse direction, by integrating the densities."""

    def density(x: mpmath.mpf) -> mpmath.mpf:
        return mpmath.npdf(x, 0, multiplier)

    def mixture(x: mpmath.mpf) -> mpmath.mpf:
        return (1 - rate) * density(x) + rate * mpmath.npdf(x, 1, multiplier)

    def divergence(p: Callable[[Any], Any], q: Callable[[Any], Any]) -> mpmath.mpf:
        grid = [multiplier * edge for edge in range(-12, 13)]
        return mpmath.quad(lambda x: max(p(x) - mpmath.exp(eps) * q(x), mpmath.mpf(0)), grid)

    return float(max(divergence(mixture, density), divergence(density, mixture)))


# -- epsilon
@pytest.mark.parametrize(("multiplier", "count"), [(0.5, 1), (1.0, 1), (4.0, 1), (4.0, 25), (30.0, 100)])
def test_gaussian_is_exact(multiplier: float, count: int) -> None:
    spent = epsilon([gaussian(multiplier, count)], DELTA)
    exact = analytic_epsilon(multiplier, count, DELTA)
    assert exact <= spent.pld <= exact * 1.001 + 2e-4
    assert spent.pld <= spent.rdp


@pytest.mark.parametrize(("multiplier", "rate"), [(0.8, 0.1), (2.0, 0.25), (1.0, 0.5)])
def test_one_sampled_gaussian_against_quadrature(multiplier: float, rate: float) -> None:
    spent = epsilon([sampled(multiplier, rate, 1)], DELTA).pld
    assert quadrature_delta(multiplier, rate, spent) <= DELTA * 1.001
    assert quadrature_delta(multiplier, rate, spent - 0.002) > DELTA


@pytest.mark.parametrize(
    "releases",
    [
        [(1.1, 0.01, 1000)],
        [(2.0, 0.05, 200)],
        [(8.0, 1.0, 1), (5.5, 0.25, 40)],
        [(6.0, 1.0, 1), (1.5, 0.5, 20), (3.0, 0.1, 100)],
    ],
)
def test_composition_against_our_own_rdp(releases: list[tuple[float, float, int]]) -> None:
    spent = epsilon([sampled(z, rate, count) for z, rate, count in releases], DELTA)
    ours = renyi.epsilon(releases, DELTA)
    assert spent.rdp <= ours * (1 + 1e-6)  # it may use fractional orders, we only whole ones
    assert ours <= spent.rdp * 1.02
    assert 0.8 * spent.rdp < spent.pld < spent.rdp


def test_order_and_grouping_do_not_matter() -> None:
    together = [gaussian(8.0), sampled(5.0, 0.25, 40)]
    apart = [sampled(5.0, 0.25, 1)] * 25 + [gaussian(8.0)] + [sampled(5.0, 0.25, 5)] * 3
    assert epsilon(together, DELTA) == epsilon(apart, DELTA)


def test_epsilon_grows_with_every_entry() -> None:
    ledger = [gaussian(8.0)] + [sampled(5.0, 0.25, 10)] * 4
    spent = [epsilon(ledger[:length], DELTA) for length in range(len(ledger) + 1)]
    assert all(a.pld < b.pld and a.rdp < b.rdp for a, b in itertools.pairwise(spent))
    assert spent[0].pld == spent[0].rdp == 0


def test_training_and_test_records_do_not_add_up() -> None:
    train, test = gaussian(8.0), gaussian(4.0, stage="evaluation", subject="test")
    assert epsilon([train, test], DELTA) == epsilon([test], DELTA)
    assert epsilon([train, test, gaussian(3.0)], DELTA) == epsilon([train, gaussian(3.0)], DELTA)


def test_absl_stays_silent(caplog: pytest.LogCaptureFixture) -> None:
    absl = logging.getLogger("absl")
    level = absl.level
    with caplog.at_level(logging.DEBUG):
        epsilon([sampled(0.61, 0.09, 17)], DELTA)
    assert not caplog.records
    assert absl.level == level


def test_more_releases_than_the_grid_can_bear_fall_back_to_rdp() -> None:
    spent = epsilon([sampled(400.0, 0.01, 10**8)], DELTA)
    assert spent.pld == spent.rdp == pytest.approx(renyi.epsilon([(400.0, 0.01, 10**8)], DELTA), rel=0.01)


@pytest.mark.parametrize("sigma", [10.0, 40.0])
def test_sum_of_discrete_gaussians_costs_what_is_charged(sigma: float) -> None:
    """Two shares of ``sigma`` grid steps against sensitivity s: exact delta at the epsilon charged for the
    continuous noise.
    """
    sensitivity = round(sigma / 2)
    charged = epsilon([gaussian(math.sqrt(2) * sigma / sensitivity)], DELTA).pld
    reach = int(14 * sigma)
    support = np.arange(-reach, reach + 1)
    share = np.exp(-(support**2) / (2 * sigma**2))
    law = np.convolve(share, share) / share.sum() ** 2
    shifted = np.concatenate([np.zeros(sensitivity), law])
    law = np.concatenate([law, np.zeros(sensitivity)])
    assert np.maximum(law - math.exp(charged) * shifted, 0).sum() <= DELTA * 1.001


# -- ladder
def test_ladder_of_distributed_noise() -> None:
    # k = 8, c = 2: t = 6, so u - c = 4 shares make up z. 2u = 12 > 8 + c' holds up to c' = 3.
    entry = gaussian(8.0, members=8, minimum_survivors=6, colluders=2)
    rungs = dict(ladder([entry], DELTA))
    assert list(rungs) == [2, 3, 4, 5, 6, 7]
    assert rungs[2] == epsilon([gaussian(8.0)], DELTA)
    assert rungs[3] == epsilon([gaussian(8.0 * math.sqrt(3 / 4))], DELTA)
    alone = epsilon([gaussian(8.0 * math.sqrt(1 / 4))], DELTA)
    assert rungs[4] == rungs[5] == rungs[6] == rungs[7] == alone


@pytest.mark.parametrize(
    ("members", "assumed", "colluders", "spent"),
    [
        *[(4, 1, 2, 0), (4, 1, 3, 0), (5, 1, 2, 0), (5, 1, 3, 0), (6, 2, 3, 0), (8, 3, 4, 0)],
        *[(4, 1, 1, 1), (5, 1, 2, 1), (6, 1, 2, 1), (6, 1, 2, 2), (7, 1, 3, 2), (8, 3, 4, 1)],
    ],
)
def test_ladder_never_promises_more_than_the_noise_that_remains(
    members: int, assumed: int, colluders: int, spent: int
) -> None:
    """Worst leverage of one honest node over up to three sums that colluders get opened, by brute force.

    The first ``spent`` of the honest add numbers that everybody knows, and no noise at all.
    """
    group = thresholds(members, assumed)
    entry = gaussian(
        1.0, members=members, minimum_survivors=group.minimum_survivors, colluders=assumed, spent=spent
    )
    honest = range(members - colluders)
    subsets = [
        subset
        for size in range(max(group.threshold - colluders, 1), len(honest) + 1)
        for subset in itertools.combinations(honest, size)
    ]
    worst = 0.0
    for opened in itertools.chain.from_iterable(itertools.combinations(subsets, n) for n in (1, 2, 3)):
        if _can_all_open(opened, colluders, group.threshold):
            rows = np.array([[float(node in subset) for node in honest[spent:]] for subset in opened])
            worst = max(worst, float(np.diag(np.linalg.pinv(rows) @ rows).max()))
    share = 1 / (group.minimum_survivors - assumed - spent)  # variance that a member adds, in units of z²
    assert entry.against(colluders) ** 2 <= share / worst + 1e-9


def _can_all_open(opened: Sequence[tuple[int, ...]], colluders: int, threshold: int) -> bool:
    """Whether signers can be found: t per set, colluders sign any number of sets, an honest member one that
    it is in.
    """
    everyone = sorted({node for subset in opened for node in subset})
    for choice in itertools.product(range(-1, len(opened)), repeat=len(everyone)):
        signed = [0] * len(opened)
        for node, which in zip(everyone, choice, strict=True):
            if which >= 0 and node in opened[which]:
                signed[which] += 1
        if all(count + colluders >= threshold for count in signed):
            return True
    return False


def test_ladder_where_a_member_has_spent_its_budget() -> None:
    # k = 8, c = 1: t = 5, so of five shares in a sum one is a colluder's and two do not count.
    entry = gaussian(8.0, members=8, minimum_survivors=5, colluders=1, spent=2)
    rungs = dict(ladder([entry], DELTA))
    assert rungs[1] == epsilon([gaussian(8.0)], DELTA)
    assert rungs[2] == rungs[7] == epsilon([gaussian(8.0 * math.sqrt(1 / 2))], DELTA)
    counted = replace(entry, spent=0)
    assert [entry.against(c) / entry.against(1) for c in (1, 2)] == [1, math.sqrt(1 / 2)]
    assert counted.against(8) / counted.against(1) == math.sqrt(1 / 4)


def test_ladder_of_local_noise_is_flat() -> None:
    rungs = ladder([gaussian(8.0, kind="local"), sampled(5.0, 0.25, 10, kind="local")], DELTA)
    assert [colluders for colluders, _ in rungs] == [1, 2, 3]
    assert len({spent for _, spent in rungs}) == 1


def test_ladder_over_groups_of_different_sizes() -> None:
    small, large = gaussian(8.0), gaussian(8.0, members=7, minimum_survivors=5)
    rungs = ladder([small, large], DELTA)
    assert [colluders for colluders, _ in rungs] == [1, 2, 3, 4, 5, 6]
    assert all(a.pld <= b.pld for (_, a), (_, b) in itertools.pairwise(rungs))
    assert ladder([], DELTA) == []


# -- budget arithmetic
def test_releases_within_is_the_largest_count_that_fits() -> None:
    ledger = [gaussian(8.0), gaussian(0.1, subject="test")]
    count = releases_within(ledger, "train", 5.0, 0.25, 1.0, DELTA)
    assert epsilon([gaussian(8.0), sampled(5.0, 0.25, count)], DELTA).pld <= 1.0
    assert epsilon([gaussian(8.0), sampled(5.0, 0.25, count + 1)], DELTA).pld > 1.0
    assert releases_within([gaussian(1.0)], "train", 5.0, 0.25, 1.0, DELTA) == 0


@pytest.mark.parametrize(("limit", "rate"), [(1.0, 0.25), (8.0, 1.0)])
def test_calibration_is_tight(limit: float, rate: float) -> None:
    found = calibrate(limit, DELTA, 40, rate)
    train = [gaussian(found.statistics), sampled(found.training, rate, 40)]
    test = [gaussian(found.evaluation, EVALUATIONS, subject="test")]
    for ledger in (train, test):
        assert epsilon(ledger, DELTA).pld <= limit
        less = [replace(ledger[-1], noise_multiplier=ledger[-1].noise_multiplier - 1e-4)]
        assert epsilon(ledger[:-1] + less, DELTA).pld > limit
    for multiplier in (found.training, found.statistics, found.evaluation):
        assert multiplier == round(multiplier, 4)


def test_calibration_asks_more_noise_for_more() -> None:
    base = calibrate(1.0, DELTA, 40, 0.25)
    assert calibrate(1.0, DELTA, 40, 0.5).training > base.training
    stricter = calibrate(0.5, DELTA, 80, 0.25)
    assert stricter.training > 2 * base.training
    assert stricter.statistics > base.statistics
    assert stricter.evaluation > base.evaluation


def test_an_organisation_pays_for_everything() -> None:
    found = calibrate(1.0, DELTA, 40, 1.0, "organisation")
    whole: dict[str, Any] = {"kind": "organisation", "subject": "organisation"}
    statistics = gaussian(found.statistics, **whole)
    training = gaussian(found.training, 40, stage="training", **whole)
    evaluation = gaussian(found.evaluation, EVALUATIONS, stage="evaluation", **whole)
    spent = epsilon([statistics, training, evaluation], DELTA).pld
    assert 0.999 < spent <= 1.0
    for part in ([statistics, training], [training, evaluation]):
        assert epsilon(part, DELTA).pld < spent - 0.02
    assert epsilon([statistics], DELTA).pld == pytest.approx(epsilon([evaluation], DELTA).pld, rel=1e-3)


@pytest.mark.parametrize(
    ("limit", "delta", "releases", "rate"),
    [(0.01, 1e-6, 10, 0.5), (1000.0, 1e-3, 1, 1.0), (8.0, 1e-5, 2000, 0.01)],
)
def test_calibration_far_from_the_usual(limit: float, delta: float, releases: int, rate: float) -> None:
    found = calibrate(limit, delta, releases, rate)
    ledger = [gaussian(found.statistics), sampled(found.training, rate, releases)]
    assert epsilon(ledger, delta).pld <= limit
    assert epsilon([ledger[0], sampled(found.training - 1e-4, rate, releases)], delta).pld > limit


def test_calibration_ends_where_no_noise_will_do() -> None:
    with pytest.raises(ValueError, match="no usable noise meets"):
        calibrate(1e-5, 1e-12, 40, 0.25)


def test_calibration_ends_where_any_noise_will_do() -> None:
    assert calibrate(1000.0, 0.1, 1, 0.01).training == 0.01


# -- ledger entries
def test_entries_survive_the_ledger() -> None:
    entry = sampled(5.6259, 0.1, 3, members=6, minimum_survivors=4)
    stored = unpack_untrusted(pack(entry.to_canonical()), 1000)
    assert Mechanism.from_canonical(stored) == entry
    assert isinstance(stored, dict)
    assert "spent" not in stored
    some = replace(entry, spent=1)
    assert Mechanism.from_canonical(unpack_untrusted(pack(some.to_canonical()), 1000)) == some


@pytest.mark.parametrize(
    "damage",
    [
        {"noise_multiplier": "nan"},
        {"noise_multiplier": "0.0"},
        {"noise_multiplier": "1e0"},
        {"noise_multiplier": 5},
        {"sampling_rate": "1.5"},
        {"count": 0},
        {"count": True},
        {"subject": "both"},
        {"kind": "none"},
        {"kind": "organisation"},
        {"subject": "organisation"},
        {"spent": 2},
        {"spent": -1},
        {"minimum_survivors": 1},
        {"minimum_survivors": 5},
        {"extra": 1},
    ],
)
def test_damaged_entries_are_refused(damage: dict[str, object]) -> None:
    fields = gaussian(8.0).to_canonical()
    assert isinstance(fields, dict)
    with pytest.raises(ValueError):
        Mechanism.from_canonical(fields | damage)
    with pytest.raises(ValueError):
        Mechanism.from_canonical([*fields])


@pytest.mark.parametrize("releases", [((1.35, 1.0, 1),), ((0.7, 1.0, 3),), ((30.0, 1.0, 1), (2.0, 1.0, 2))])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_releases_from_all_records_have_a_closed_form(releases: epsilons.Releases, delta: float) -> None:
    """Never below what they cost, and near to what dp-accounting finds over its orders."""
    closed = accountant._rdp(releases, delta)
    assert epsilons.pld(releases, delta, 1e-4) <= closed
    assert closed == pytest.approx(epsilons.rdp(releases, delta), rel=1e-3)


@pytest.mark.parametrize(("limit", "within"), [(3.0, True), (2.9, False)])
def test_a_release_from_all_records_is_within_a_limit_for_sure(limit: float, within: bool) -> None:
    spent = [Mechanism("training", "train", "distributed", 1e6, 0.1, 1, 4, 3, 1)]
    assert surely_within(spent, "train", 1.35, limit, 1e-4) is within
