"""Noise against its claims: sensitivity, grids, shares, variance, sampling; and the budget that pays."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.crypto.discrete_gaussian import LARGEST_SIGMA, DiscreteGaussian
from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.crypto.ring import RING_16, RING_32, RING_64, Encoding, encode, largest_fraction_bits
from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.gossip.manifest import GroupSpec, Manifest, PrivacySpec, TabularTask, TrainingSpec, from_toml
from p2pfl.gossip.thresholds import thresholds
from p2pfl.heart_disease import FEDERATION_TOML
from p2pfl.node.accountant import Mechanism, epsilon
from p2pfl.node.errors import PrivacyError
from p2pfl.node.own_learner import warn_of_delta
from p2pfl.node.privacy import (
    GRID_SIGMA,
    LEAST_SIGMA,
    STAGES,
    Budget,
    StepNoise,
    calibrated,
    dimension,
    noise,
    noise_source,
    poisson_sample,
    stage_plan,
    step_noise,
)
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer

FOUR = thresholds(4, 1)


@cache
def manifest(mode: str = "distributed", rounds: int = 40, local_steps: int = 1) -> Manifest:
    issuer = Identity.from_seed(bytes(32)).peer_id
    draft = from_toml(FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", issuer))
    training = replace(draft.training, rounds=rounds, local_steps=local_steps)
    return calibrated(replace(draft, training=training, privacy=draft.privacy.with_mode(mode)))


def with_noise(agreed: Manifest, multiplier: float, **training: Any) -> Manifest:
    """``agreed`` with every noise multiplier set."""
    privacy = replace(
        agreed.privacy,
        noise_multiplier=multiplier,
        statistics_noise_multiplier=multiplier,
        evaluation_noise_multiplier=multiplier,
    )
    spec: TrainingSpec = replace(agreed.training, **training)
    return replace(agreed, privacy=privacy, training=spec)


# -- plans
def test_the_statistics_of_an_extreme_record_are_as_long_as_their_noise_is_for() -> None:
    agreed = manifest()
    assert isinstance(agreed.task, TabularTask)
    cells = [
        [column.high] if column.kind == "numeric" else [0.0] * (len(column.levels) - 1)
        for column in agreed.task.columns
    ]
    row = np.array([[number for some in cells for number in some]])
    added = Trainer(agreed, Table(row, np.zeros(1)), None, seeded_random(b"")).statistics()
    plan = stage_plan(agreed, "statistics", len(added))
    assert np.linalg.norm(added) == pytest.approx(plan.sensitivity)


@pytest.mark.parametrize("mode", ["distributed", "local"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_grid_is_the_finest_that_the_noise_allows(mode: str, stage: str) -> None:
    agreed = manifest(mode)
    plan = stage_plan(agreed, stage, dimension(agreed, stage))
    smallest = thresholds(agreed.groups.minimum, 1)
    if mode == "local" and stage == "training":
        assert plan.sigma(smallest) == 0
        assert LEAST_SIGMA <= step_noise(agreed, plan.dimension).sigma <= GRID_SIGMA
        return
    assert LEAST_SIGMA <= plan.sigma(smallest) <= GRID_SIGMA
    finer = plan.encoding.fraction_bits + 1
    fits_the_ring = finer <= largest_fraction_bits(2 * agreed.groups.size - 1, plan.encoding.limit)
    finer_plan = replace(plan, encoding=Encoding(finer, 1.0))
    assert not fits_the_ring or finer_plan.sigma(smallest) > GRID_SIGMA


@pytest.mark.parametrize(
    ("members", "colluders"), [(3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (4, 2), (5, 2), (6, 2), (7, 2)]
)
def test_honest_shares_make_up_the_claimed_noise(members: int, colluders: int) -> None:
    """In the smallest sum that is ever opened, without the colluders' shares, the multiplier is what the
    ledger says.
    """
    agreed = manifest()
    agreed = replace(agreed, groups=replace(agreed.groups, colluders=colluders, minimum=colluders + 2))
    plan = stage_plan(agreed, "training", 14)
    group = thresholds(members, colluders)
    honest = group.minimum_survivors - colluders
    total = math.sqrt(honest) * plan.sigma(group)
    rounded_sensitivity = plan.sensitivity * 2**plan.encoding.fraction_bits + math.sqrt(plan.dimension)
    assert total / rounded_sensitivity == pytest.approx(agreed.privacy.noise_multiplier, rel=1e-4)
    assert total / rounded_sensitivity >= agreed.privacy.noise_multiplier
    assert plan.mechanism(group).noise_multiplier == agreed.privacy.noise_multiplier
    assert plan.mechanism(group).members == members


@pytest.mark.parametrize(
    ("members", "colluders", "spent"),
    [(4, 1, 1), (5, 1, 1), (5, 1, 2), (6, 1, 2), (6, 2, 1), (7, 1, 3), (7, 3, 1)],
)
def test_shares_make_up_the_noise_without_those_of_members_with_no_budget_left(
    members: int, colluders: int, spent: int
) -> None:
    """In the smallest sum that is ever opened, all that is neither a colluder's nor a spent member's."""
    agreed = manifest()
    agreed = replace(agreed, groups=GroupSpec(size=5, minimum=colluders + 2, colluders=colluders))
    plan, group = stage_plan(agreed, "training", 14), thresholds(members, colluders)
    assert plan.hides(group, spent)
    counted = group.minimum_survivors - colluders - spent
    assert counted >= 1
    whole = math.sqrt(group.minimum_survivors - colluders) * plan.sigma(group)
    assert math.sqrt(counted) * plan.sigma(group, spent) == pytest.approx(whole)
    entry = plan.mechanism(group, spent)
    assert (entry.spent, entry.noise_multiplier) == (spent, agreed.privacy.noise_multiplier)
    assert entry.against(colluders) == entry.noise_multiplier
    long = replace(plan, dimension=4000)
    drawn = noise_source(long, group, seeded_random(b"spent"), spent)
    assert drawn is not None
    assert float(drawn.take(4000).astype(float).std()) == pytest.approx(long.sigma(group, spent), rel=0.06)


def test_where_too_many_have_no_budget_left_nobody_can_be_hidden() -> None:
    plan = stage_plan(manifest(), "training", 14)
    assert [plan.hides(FOUR, spent) for spent in range(4)] == [True, True, False, False]
    with pytest.raises(ValueError, match="not a release"):
        plan.mechanism(FOUR, 2)
    large = stage_plan(with_noise(manifest(), 5.0), "training", 4_000_000)
    most = [large.sigma(FOUR, spent) for spent in (0, 1)]
    assert most[0] <= LARGEST_SIGMA
    assert large.hides(FOUR, 0)
    assert large.hides(FOUR, 1) is (most[1] <= LARGEST_SIGMA)


def test_noise_of_ones_own_needs_nobody() -> None:
    plan = stage_plan(manifest("local"), "statistics", 11)
    assert plan.hides(FOUR, 4)
    assert plan.sigma(FOUR, 4) == plan.sigma(FOUR)
    assert plan.mechanism(FOUR, 4) == plan.mechanism(FOUR)


def test_an_organisation_is_hidden_whole() -> None:
    agreed = manifest("organisation")
    plans = [stage_plan(agreed, stage, dimension(agreed, stage)) for stage in STAGES]
    assert [plan.subject for plan in plans] == ["organisation"] * 3
    assert [(plan.sampling_rate, plan.releases_per_round) for plan in plans] == [(1.0, 1)] * 3
    training = plans[1]
    assert training.sensitivity == agreed.privacy.clip_norm
    honest = math.sqrt(FOUR.minimum_survivors - FOUR.colluders)
    hidden = agreed.privacy.clip_norm * 2**training.encoding.fraction_bits
    assert honest * training.sigma(FOUR) >= agreed.privacy.noise_multiplier * hidden
    budget = Budget(agreed.privacy)
    for plan, rounds in zip(plans, (1, agreed.training.rounds, 2), strict=True):
        assert budget.allows(plan, rounds)
        for _ in range(rounds):
            budget.spend(plan.mechanism(FOUR))
    assert not any(budget.allows(plan, 3) for plan in plans)
    assert 0.99 * agreed.privacy.epsilon < budget.spent.pld <= agreed.privacy.epsilon


def test_full_noise_at_every_node_in_mode_local() -> None:
    agreed = manifest("local")
    plan = stage_plan(agreed, "statistics", 11)
    whole = plan.sensitivity * 2**plan.encoding.fraction_bits * agreed.privacy.statistics_noise_multiplier
    assert plan.sigma(FOUR) >= whole
    step = step_noise(agreed, 14)
    assert step.sigma >= agreed.privacy.noise_multiplier * agreed.privacy.clip_norm * 2**step.fraction_bits


def test_mode_none_has_no_noise_and_no_price() -> None:
    agreed = manifest("none")
    for stage in STAGES:
        plan = stage_plan(agreed, stage, dimension(agreed, stage))
        assert not plan.charged
        assert not noise(plan, FOUR, seeded_random(b"")).any()
        with pytest.raises(LocalProtocolError):
            plan.mechanism(FOUR)


def test_what_is_charged() -> None:
    agreed = manifest("local", 10, 3)
    entries = [stage_plan(agreed, stage, dimension(agreed, stage)).mechanism(FOUR) for stage in STAGES]
    privacy = agreed.privacy
    group = (4, 3, 1)
    assert entries == [
        Mechanism("statistics", "train", "local", privacy.statistics_noise_multiplier, 1.0, 1, *group),
        Mechanism("training", "train", "local", privacy.noise_multiplier, 0.25, 3, *group),
        Mechanism("evaluation", "test", "local", privacy.evaluation_noise_multiplier, 1.0, 1, *group),
    ]


def test_unknown_stage_is_our_bug() -> None:
    with pytest.raises(LocalProtocolError):
        stage_plan(manifest(), "mixing", 3)
    with pytest.raises(LocalProtocolError):
        dimension(manifest(), "mixing")


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_noise_that_the_ring_cannot_hold_is_refused(mode: str) -> None:
    if mode == "distributed":
        with pytest.raises(PrivacyError, match="too fine"):
            stage_plan(with_noise(manifest(mode), 1.0, expected_batch=1e7), "training", 14)
        with pytest.raises(PrivacyError, match="does not fit"):
            stage_plan(with_noise(manifest(mode), 5.0, learning_rate=1e6), "training", 14)
    with pytest.raises(PrivacyError, match="does not fit"):
        stage_plan(with_noise(manifest(mode), 1e6), "statistics", 2000)
    with pytest.raises(PrivacyError, match="does not fit"):
        step_noise(with_noise(manifest(mode), 1e4), 25_000_000)


def test_a_large_model_gets_a_finer_grid_before_rounding_swamps_it() -> None:
    plan = stage_plan(with_noise(manifest(), 5.0), "training", 40_000)
    scaled = plan.sensitivity * 2**plan.encoding.fraction_bits
    assert math.sqrt(40_000) < scaled / 3
    assert GRID_SIGMA < plan.sigma(FOUR) <= LARGEST_SIGMA
    agreed = with_noise(manifest("local"), 20.0)
    step = step_noise(agreed, 25_000_000)
    needed = agreed.privacy.noise_multiplier * agreed.privacy.clip_norm * 2**step.fraction_bits
    assert needed < step.sigma < 1.3 * needed


# -- rings
def test_a_wider_ring_changes_nothing_where_the_noise_decides() -> None:
    narrow, wide = (stage_plan(with_noise(manifest(), 5.0, ring_bits=b), "training", 14) for b in (32, 64))
    assert wide == replace(narrow, encoding=replace(narrow.encoding, ring=RING_64))
    for stage in ("statistics", "evaluation"):
        assert stage_plan(with_noise(manifest(), 5.0, ring_bits=64), stage, 3).encoding.ring == RING_32


def test_a_wider_ring_has_room_for_a_larger_limit_and_for_finer_noise() -> None:
    fine = with_noise(manifest(), 1.0, expected_batch=1e7)
    with pytest.raises(PrivacyError, match="too fine") as caught:
        stage_plan(fine, "training", 14)
    assert "ring_bits" in str(caught.value.hint)
    plan = stage_plan(with_noise(fine, 1.0, ring_bits=64), "training", 14)
    assert plan.sigma(FOUR) > LEAST_SIGMA
    large = with_noise(manifest(), 5.0, ring_bits=64, parameter_limit=1e9)
    assert stage_plan(large, "training", 14).encoding.limit == 1e9


def test_no_grid_under_noise_is_finer_than_float64_allows() -> None:
    """Two neighbours are each off by a few roundings, and one step must still cover them."""
    plan = stage_plan(with_noise(manifest(), 1.0, expected_batch=1e6, ring_bits=64), "training", 14)
    encoding = plan.encoding
    assert math.ldexp(encoding.limit, encoding.fraction_bits) == 2**34
    ulp = math.ldexp(math.ulp(math.nextafter(encoding.limit, 0)), encoding.fraction_bits)
    assert 2 * 8 * ulp / 2 <= 2**-15 - 2**-16
    unnoised = stage_plan(replace(manifest("none"), training=large_ring()), "training", 14)
    assert unnoised.encoding.fraction_bits == largest_fraction_bits(7, 64.0, RING_64) == 53


def large_ring() -> TrainingSpec:
    return replace(manifest("none").training, ring_bits=64)


@pytest.mark.parametrize("expected_batch", [40.0, 2.0])
def test_sixteen_bits_hold_a_small_model_and_its_noise(expected_batch: float) -> None:
    bits_and_limit = {"ring_bits": 16, "parameter_limit": 1.0}
    agreed = with_noise(manifest(), 5.0, expected_batch=expected_batch, **bits_and_limit)
    plan = stage_plan(agreed, "training", 14)
    assert plan.encoding.ring == RING_16
    for members in range(3, 8):
        sigma = plan.sigma(thresholds(members, 1))
        assert sigma >= LEAST_SIGMA
        parameters = members * math.ldexp(plan.encoding.limit, plan.encoding.fraction_bits)
        assert parameters + 8 * math.sqrt(members) * sigma <= 2**15


@pytest.mark.parametrize(("multiplier", "dimension"), [(5.0, 10_000), (60.0, 100), (1.0, 10_000)])
def test_sixteen_bits_are_refused_where_rounding_would_take_most_of_the_noise(
    multiplier: float, dimension: int
) -> None:
    agreed = with_noise(manifest(), multiplier, ring_bits=16, parameter_limit=1.0)
    with pytest.raises(PrivacyError, match=r"training\.ring_bits: 16 are too few") as caught:
        stage_plan(agreed, "training", dimension)
    assert "take 32" in str(caught.value.hint)


# -- the noise itself
def moments(samples: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate(samples).astype(float)
    return float(values.mean()), float(values.var())


@pytest.mark.parametrize(
    ("mode", "stage"), [("distributed", "training"), ("distributed", "statistics"), ("local", "statistics")]
)
def test_measured_variance_of_the_noise(mode: str, stage: str) -> None:
    plan = replace(stage_plan(manifest(mode), stage, dimension(manifest(mode), stage)), dimension=14)
    random = seeded_random(b"variance")
    count = 3000
    mean, variance = moments([noise(plan, FOUR, random) for _ in range(count)])
    samples = count * plan.dimension
    sigma = plan.sigma(FOUR)
    assert abs(mean) < 5 * sigma / math.sqrt(samples)
    assert variance == pytest.approx(sigma**2, rel=5 * math.sqrt(2 / samples))


def test_measured_noise_of_a_local_step() -> None:
    step = step_noise(manifest("local"), 14)
    noise = step.source(seeded_random(b"step"))
    truth = np.linspace(-3, 3, 14)
    errors = np.array([step.apply(truth.copy(), noise) - truth for _ in range(3000)])
    sigma = step.sigma * 2.0**-step.fraction_bits
    assert sigma >= manifest("local").privacy.noise_multiplier * manifest("local").privacy.clip_norm
    assert errors.var() == pytest.approx(sigma**2, rel=5 * math.sqrt(2 / errors.size))
    on_grid = np.ldexp(step.apply(truth.copy(), noise), step.fraction_bits)
    assert np.array_equal(on_grid, np.rint(on_grid))


@pytest.mark.parametrize(("sigma", "dtype"), [(1e3, "f8"), (1e3, "f4"), (2.0**22, "f4")])
@pytest.mark.parametrize("dimension", [0, 1, 14, (1 << 15) + 3])
def test_a_noised_step_is_its_nearest_grid_point_and_the_integers_of_the_sampler(
    dimension: int, sigma: float, dtype: str
) -> None:
    """Exactly, in the place of the total; in float64 where float32 has not all integers of this size."""
    step = StepNoise(fraction_bits=7, sigma=sigma)
    total = np.random.default_rng(1).normal(scale=3.0, size=dimension).astype(dtype)
    before = total.astype(float)
    noised = step.apply(total, step.source(seeded_random(b"step")))
    whole_batches = 1 << 16  # a source draws these, whatever a step takes
    drawn = DiscreteGaussian(sigma).sample(whole_batches, seeded_random(b"step"))[:dimension]
    assert (noised is total) == (sigma == 1e3)
    assert noised is total or noised.dtype == np.float64
    assert np.array_equal(noised, (np.rint(before * 128) + drawn) / 128)


def test_what_float32_cannot_hold_is_a_function_of_what_is_noised() -> None:
    """Sums of 2^25 and more: whether a neighbour's total is one step off, once noised it is rounded alike."""
    step = StepNoise(fraction_bits=10, sigma=1000.0)
    total = np.full(1000, 2.0**16 + 2.0**-6, np.float32)
    drawn = DiscreteGaussian(1000.0).sample(1 << 16, seeded_random(b"step"))[: len(total)]
    exact = np.rint(total.astype(float) * 1024) + drawn
    noised = step.apply(total, step.source(seeded_random(b"step")))
    assert np.array_equal(noised, exact.astype(np.float32) / np.float32(1024))


@pytest.mark.parametrize("bits", [16, 32, 64])
@given(
    values=st.lists(st.floats(-60, 60), min_size=1, max_size=20),
    change=st.lists(st.floats(-1, 1), min_size=20, max_size=20),
    seed=st.integers(0, 2**32),
)
def test_rounding_adds_at_most_one_step_a_coordinate(
    bits: int, values: list[float], change: list[float], seed: int
) -> None:
    """The bound behind the sqrt(d): with the same coins, neighbours' integers differ by less than s +
    sqrt(d).
    """
    training = {"ring_bits": bits, "parameter_limit": 1.0 if bits == 16 else 64.0}
    plan = stage_plan(with_noise(manifest(), 5.0, **training), "training", len(values))
    near = np.array(values)
    direction = np.array(change[: len(values)])
    far = near + direction * (plan.sensitivity / max(float(np.linalg.norm(direction)), 1.0))
    here, there = (
        encode(vector, plan.encoding, seeded_random(b"%d" % seed))[0].view(f"<i{bits // 8}").astype(float)
        for vector in (near, far)
    )
    moved = plan.sensitivity * 2**plan.encoding.fraction_bits
    assert np.linalg.norm(here - there) <= moved + (1 + 2**-15) * math.sqrt(len(values))


# -- sampling
@pytest.mark.parametrize("rate", [0.01, 0.25, 0.9])
def test_sampling_is_poisson(rate: float) -> None:
    draws = np.array([poisson_sample(200, rate, seeded_random(b"%d" % seed)) for seed in range(500)])
    tolerance = 5 * math.sqrt(rate * (1 - rate) / draws.size)
    assert draws.mean() == pytest.approx(rate, abs=tolerance)
    sizes = draws.sum(axis=1)
    assert sizes.var() == pytest.approx(200 * rate * (1 - rate), rel=0.35)  # a fixed batch size would give 0
    assert draws.mean(axis=0).std() < 3 * math.sqrt(rate * (1 - rate) / len(draws))


def test_sampling_compares_all_64_bits() -> None:
    below = int(0.25 * 2**64)
    words = [0, below - 1, below, 2**64 - 1]

    def random(count: int) -> bytes:
        assert count == 8 * len(words)
        return b"".join(word.to_bytes(8, "little") for word in words)

    assert poisson_sample(4, 0.25, random).tolist() == [True, True, False, False]


def test_sampling_at_the_ends() -> None:
    assert poisson_sample(1000, 1.0, seeded_random(b"")).all()
    assert not poisson_sample(1000, 1e-300, seeded_random(b"")).any()
    assert poisson_sample(1000, 1 - 2**-53, seeded_random(b"")).all()
    assert len(poisson_sample(0, 0.5, seeded_random(b""))) == 0


# -- budget
def spend_all(agreed: Manifest, ledger: Sequence[Mechanism] = ()) -> tuple[int, Budget]:
    """Train until refused."""
    budget = Budget(agreed.privacy, ledger)
    plan = stage_plan(agreed, "training", 14)
    for count in range(1000):
        if not budget.allows(plan):
            return count, budget
        budget.spend(plan.mechanism(FOUR))
    raise AssertionError("never refused")


@pytest.mark.parametrize(("mode", "rounds", "steps"), [("distributed", 40, 1), ("local", 10, 4)])
def test_a_calibrated_run_fits_and_one_more_round_does_not(mode: str, rounds: int, steps: int) -> None:
    agreed = manifest(mode, rounds, steps)
    budget = Budget(agreed.privacy)
    statistics = stage_plan(agreed, "statistics", dimension(agreed, "statistics"))
    assert budget.allows(statistics)
    budget.spend(statistics.mechanism(FOUR))
    count, spent = spend_all(agreed, [statistics.mechanism(FOUR)])
    assert count == rounds
    assert 0.99 * agreed.privacy.epsilon < spent.spent.pld <= agreed.privacy.epsilon
    evaluation = stage_plan(agreed, "evaluation", 3)
    for allowed in (True, True, False):  # test records have a budget of their own, for two evaluations
        assert spent.allows(evaluation) is allowed
        if allowed:
            spent.spend(evaluation.mechanism(FOUR))
    assert spent.spent.pld <= agreed.privacy.epsilon


def test_a_lost_statistics_round_costs_training_rounds() -> None:
    agreed = manifest()
    plan = stage_plan(agreed, "statistics", dimension(agreed, "statistics"))
    ledger = [plan.mechanism(FOUR)] * 2
    count, budget = spend_all(agreed, ledger)
    assert 0 < count < agreed.training.rounds
    assert budget.spent == epsilon(
        [*ledger, *[stage_plan(agreed, "training", 14).mechanism(FOUR)] * count], 1e-4
    )


def test_budget_goes_on_from_the_ledger() -> None:
    agreed = manifest()
    plan = stage_plan(agreed, "training", 14)
    whole, _ = spend_all(agreed)
    rest, _ = spend_all(agreed, [plan.mechanism(FOUR)] * 7)
    assert rest == whole - 7


def test_budget_does_not_forget_what_others_than_training_cost() -> None:
    agreed = manifest()
    training = stage_plan(agreed, "training", 14)
    statistics = stage_plan(agreed, "statistics", dimension(agreed, "statistics"))
    budget = Budget(agreed.privacy)
    assert budget.allows(training)
    for _ in range(10):
        budget.spend(statistics.mechanism(FOUR))
    assert not budget.allows(training)
    assert not budget.allows(statistics)


def test_a_round_of_many_releases_fits_whole_or_not_at_all() -> None:
    agreed = manifest("local", 10, 4)
    plan = stage_plan(agreed, "training", 14)
    assert plan.releases_per_round == 4
    single = replace(plan.mechanism(FOUR), count=1)
    most = 0
    while epsilon([replace(single, count=most + 1)], agreed.privacy.delta).pld <= agreed.privacy.epsilon:
        most += 1
    for left in range(6):
        budget = Budget(agreed.privacy, [replace(single, count=most - left)])
        assert budget.allows(plan) is (left >= 4)
        assert budget.allows(plan, left)
        assert not budget.allows(plan, left + 1)


def test_mode_none_has_no_budget() -> None:
    agreed = manifest("none")
    assert Budget(agreed.privacy).allows(stage_plan(agreed, "training", 14))
    assert calibrated(agreed) == agreed


def test_a_delta_that_gives_records_away_is_said(caplog: pytest.LogCaptureFixture) -> None:
    spec = PrivacySpec("distributed", 1.0, 1e-3)
    for harmless in ((spec, 999), (PrivacySpec("none"), 1 << 20), (replace(spec, mode="organisation"), 5000)):
        warn_of_delta(*harmless)
    assert not caplog.records
    warn_of_delta(spec, 1000)
    assert "privacy.delta 0.001 is no less than one in 1000" in caplog.text
