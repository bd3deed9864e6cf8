"""Epsilon bounded from below, by canaries sent through the code that nodes run: below the claim as it is, and
above it with half the noise, without clipping, without noise.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from p2pfl.attacks.canaries import Scores, audit, with_canaries
from p2pfl.attacks.group import Group
from p2pfl.attacks.report import claims
from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.manifest import (
    Column,
    DenseModel,
    GroupSpec,
    Manifest,
    PrivacySpec,
    TabularTask,
    TimingSpec,
    TrainingSpec,
)
from p2pfl.node.accountant import epsilon
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer

torch.set_num_threads(1)

Vector = NDArray[np.float64]

DELTA = 1e-2


def manifest(
    mode: str, *, multiplier: float, rate: float = 1.0, rounds: int = 1, clip: float = 1.0
) -> Manifest:
    return Manifest(
        name="audited",
        issuers=(Identity.from_seed(bytes(32)).peer_id,),
        members=(),
        task=TabularTask("tabular", "y", ("1",), (Column("a", "numeric", -1.0, 1.0),)),
        model=DenseModel("logistic"),
        training=TrainingSpec(rounds, 0.5, rate, 20.0),
        privacy=PrivacySpec(mode, 1.0, DELTA, clip, *[multiplier] * 3),  # type: ignore[arg-type]
        groups=GroupSpec(),
        timing=TimingSpec(),
    )


def training_bound(agreed: Manifest, runs: int = 20) -> float:
    return audit(with_canaries(agreed), runs, seeded_random(b"audit")).bound(DELTA)


def organisation_bound(agreed: Manifest, runs: int = 400) -> float:
    canaries = with_canaries(agreed, "organisation")
    return audit(canaries, runs, seeded_random(b"audit"), unit="organisation").bound(DELTA)


@cache
def sampled(mode: str) -> tuple[Manifest, float]:
    """Two rounds on samples, and what they are claimed to cost."""
    agreed = manifest(mode, multiplier=1.0, rate=0.5, rounds=2)
    return agreed, claims(agreed)[1]


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_canaries_show_much_of_the_claim_and_not_more(mode: str) -> None:
    agreed, claim = sampled(mode)
    assert 0.45 * claim < training_bound(agreed) <= claim


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_canaries_show_half_the_noise(mode: str) -> None:
    agreed, claim = sampled(mode)
    halved = replace(agreed, privacy=replace(agreed.privacy, noise_multiplier=0.5))
    assert training_bound(halved) > claim


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_canaries_show_that_nothing_is_clipped(mode: str) -> None:
    """The same noise, and a clip norm that no gradient reaches."""
    agreed, claim = sampled(mode)
    unclipped = replace(agreed.privacy, noise_multiplier=0.1, clip_norm=10.0)
    assert training_bound(replace(agreed, privacy=unclipped)) > claim


def test_canaries_show_that_every_record_is_sampled() -> None:
    agreed, claim = sampled("distributed")
    whole = replace(agreed, training=replace(agreed.training, sampling_rate=1.0))
    assert training_bound(whole) > claim


def test_canaries_that_are_organisations_show_half_the_noise_and_updates_that_are_not_clipped() -> None:
    agreed = manifest("organisation", multiplier=1.5, rate=0.5)
    claim = claims(agreed)[1]
    assert 0.3 * claim < organisation_bound(agreed) <= claim
    halved = replace(agreed, privacy=replace(agreed.privacy, noise_multiplier=0.5))
    assert organisation_bound(halved) > claim
    unclipped = replace(agreed.privacy, noise_multiplier=0.15, clip_norm=10.0)
    assert organisation_bound(replace(agreed, privacy=unclipped)) > claim


def test_without_noise_canaries_are_plain_to_see() -> None:
    agreed = manifest("distributed", multiplier=1.0)
    none = replace(agreed, privacy=agreed.privacy.with_mode("none"))
    assert training_bound(none) > 6


# -- one release at a time, of what one record or one organisation can add at most
def release_bound(
    agreed: Manifest, summed: Manifest, stage: str, values: tuple[Vector, Vector], trials: int
) -> float:
    """From sums as in ``summed`` over the fewest survivors, in which the last member's vector is the first of
    ``values`` or the second; scored by the noise of ``agreed``.
    """
    roster, random = agreed.groups.thresholds, seeded_random(b"release")
    group, plan = Group(summed, roster, random), Group(agreed, roster, random).plan(stage)
    there, gone = values
    direction = (there - gone) / np.linalg.norm(there - gone)
    # Noise of its own holds against everybody else.
    others = roster.colluders if agreed.privacy.mode == "local" else roster.minimum_survivors - 1
    rest = [np.zeros_like(gone)] * others

    def score(vector: Vector) -> float:
        moved = (group.sum(stage, [*rest, vector]).others - gone) @ direction / plan.sensitivity
        return float(moved - 0.5) / plan.noise_multiplier**2

    present, absent = (np.array([score(vector) for _ in range(trials)]) for vector in values)
    return Scores(present, absent).bound(DELTA)


def released(agreed: Manifest, stage: str, records: Table) -> Vector:
    """What a member with these records adds to a round of ``stage``."""
    one = Trainer(agreed, records, records, seeded_random(b"records"))
    middle = Trainer(agreed, Table(np.zeros((1, 1)), np.zeros(1)), None, seeded_random(b"")).statistics()
    start = np.zeros(one.dimension("training"))
    match stage:
        case "statistics":
            return one.statistics()
        case "training":
            return one.contribution(start, middle)
    return one.evaluation(start, middle)


@pytest.mark.parametrize("stage", ["statistics", "training", "evaluation"])
@pytest.mark.parametrize("mode", ["distributed", "local", "organisation"])
def test_no_release_shows_more_than_its_claim(mode: str, stage: str) -> None:
    """Of one extreme record, or of an organisation that has a hundred of them; without noise it would."""
    if (mode, stage) == ("local", "training"):
        pytest.skip("its noise comes with the gradient, and is in the audits above")
    agreed = manifest(mode, multiplier=1.5)
    count = 100 if mode == "organisation" else 1
    there = released(agreed, stage, Table(np.ones((count, 1)), np.zeros(count)))
    roster = agreed.groups.thresholds
    plan = Group(agreed, roster, seeded_random(b"")).plan(stage)
    assert 0.8 * plan.sensitivity < np.linalg.norm(there)
    claim = epsilon([plan.mechanism(roster)], DELTA).pld
    values = there, np.zeros_like(there)
    assert 0.2 * claim < release_bound(agreed, agreed, stage, values, 700) <= claim
    bare = replace(agreed, privacy=agreed.privacy.with_mode("none"))
    assert release_bound(agreed, bare, stage, values, 200) > claim
