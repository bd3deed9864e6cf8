"""Membership inference finds members where nothing hides them, and not where noise does."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from p2pfl.attacks.added import Organisations, Records
from p2pfl.attacks.group import Group, federate
from p2pfl.attacks.measures import Success
from p2pfl.attacks.membership import confidence, infer_membership
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
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.training.table import Table

torch.set_num_threads(1)

ROSTER = thresholds(3, 1)


def manifest(mode: str = "none", **training: float) -> Manifest:
    spec = TrainingSpec(4, 1.0, 0.5, 10.0)
    noise = (1.0, 1e-4, 1.0, 8.0, 8.0, 8.0) if mode != "none" else ()
    return Manifest(
        name="attacked",
        issuers=(Identity.from_seed(bytes(32)).peer_id,),
        members=(),
        task=TabularTask(
            "tabular", "y", ("1",), tuple(Column(name, "numeric", -3.0, 3.0) for name in "abcdefgh")
        ),
        model=DenseModel("logistic"),
        training=replace(spec, **training),  # type: ignore[arg-type]
        privacy=PrivacySpec(mode, *noise),  # type: ignore[arg-type]
        groups=GroupSpec(size=3, minimum=3),
        timing=TimingSpec(),
    )


def tables(count: int = 20) -> list[Table]:
    """Labels are coins, so a model can only learn them by heart."""
    rng = np.random.default_rng(5)
    return [
        Table(rng.normal(size=(count, 8)), rng.integers(0, 2, count).astype(np.float64)) for _ in range(3)
    ]


@cache
def attacked(mode: str, **training: float) -> dict[tuple[str, str], Success]:
    random, rng = seeded_random(b"attack"), np.random.default_rng(6)
    results = infer_membership(manifest(mode, **training), tables(), 20, random, rng)
    return {(result.view, result.method): result.success for result in results}


def test_without_privacy_members_are_found() -> None:
    found = attacked("none", rounds=8, momentum=0.5, weight_decay=0.01)
    assert found["model", "loss threshold"].auc.low > 0.55
    assert found["model", "likelihood ratio"].auc.value > found["model", "loss threshold"].auc.value
    insider = found["insider", "likelihood ratio"]
    assert insider.auc.low > 0.9
    assert insider.caught.low > 0.3


def test_whole_members_are_found_where_nothing_hides_them_and_else_not() -> None:
    found = {}
    for mode in ("none", "organisation"):
        random, rng = seeded_random(b"attack"), np.random.default_rng(6)
        agreed = manifest(mode, rounds=2, sampling_rate=0.9, weight_decay=0.01)
        results = infer_membership(agreed, tables(), 40, random, rng, unit="organisation")
        found[mode] = {(result.view, result.method): result.success.auc.value for result in results}
    assert all(auc > 0.8 for auc in found["none"].values())
    assert found["none"]["insider", "likelihood ratio"] > 0.95
    assert all(auc < 0.65 for auc in found["organisation"].values())


def test_of_an_absent_member_no_record_takes_part() -> None:
    agreed = manifest("none", sampling_rate=1.0)
    other = tables()[0]
    swapped = [*tables()[:2], Table(other.features + 1, 1 - other.labels)]
    seen, same = (federate(agreed, each, ROSTER, seeded_random(b"run"), [2]) for each in (tables(), swapped))
    assert (seen.models == same.models).all()
    assert (seen.statistics == same.statistics).all()
    here = federate(agreed, tables(), ROSTER, seeded_random(b"run"))
    assert not np.allclose(here.models[-1], seen.models[-1])
    added = Organisations(agreed, tables(), seeded_random(b"added"))
    assert here.statistics * 3 == pytest.approx(added.statistics.sum(axis=0), abs=0.02)
    moved = added.of_each(here.models[0], here.statistics)
    assert here.models[1] - here.models[0] == pytest.approx(moved.mean(axis=0), abs=1e-6)
    assert here.others[0] - 2 * here.models[0] == pytest.approx(moved[1:].sum(axis=0), abs=1e-6)


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_with_noise_they_are_not(mode: str) -> None:
    for success in attacked(mode).values():
        assert success.auc.value < 0.62
        assert success.caught.value < 0.06


def test_every_attack_is_the_same_for_the_same_seed() -> None:
    attack = [
        infer_membership(manifest(rounds=1), tables(4), 5, seeded_random(b"a"), np.random.default_rng(seed))
        for seed in (1, 1, 2)
    ]
    assert attack[0] == attack[1] != attack[2]


def test_an_insider_sees_all_but_what_it_added_itself() -> None:
    agreed = manifest("distributed")
    group = Group(agreed, ROSTER, seeded_random(b"sum"))
    values = [np.full(9, float(number)) for number in range(3)]
    found = [group.sum("training", values) for _ in range(200)]
    noise = 2.0 ** -group.plan("training").encoding.fraction_bits * group.plan("training").sigma(ROSTER)
    totals, others = (np.array([getattr(one, name) for one in found]) for name in ("total", "others"))
    assert totals.mean() == pytest.approx(3, abs=0.2 * noise)
    assert totals.std() == pytest.approx(noise * 3**0.5, rel=0.1)
    assert others.std() == pytest.approx(noise * 2**0.5, rel=0.1)
    assert (totals - others).mean() == pytest.approx(0, abs=0.2 * noise)
    assert (totals - others).std() == pytest.approx(noise, rel=0.1)


def test_a_federation_without_noise_is_steps_of_all_members() -> None:
    agreed = manifest("none", sampling_rate=1.0, momentum=0.5)
    seen = federate(agreed, tables(), ROSTER, seeded_random(b"run"))
    one, *rest = [Records(agreed, table) for table in tables()]
    assert seen.statistics * 3 == pytest.approx(
        sum(part.statistics.sum(axis=0) for part in (one, *rest)), abs=0.02
    )
    model, before = seen.models[0], seen.models[0]
    for released, others in zip(seen.models[1:], seen.others, strict=True):
        ahead = 0.5 * (model - before)
        moved = [part.of_all(model, seen.statistics) + model + ahead for part in (one, *rest)]
        assert released == pytest.approx(sum(moved) / 3, abs=1e-6)
        assert others == pytest.approx(sum(moved[1:]), abs=1e-6)
        before, model = model, released


@pytest.mark.parametrize("mode", ["none", "distributed", "local"])
def test_steps_are_of_the_chosen_records_clipped_and_not_noised(mode: str) -> None:
    agreed = replace(manifest(mode), privacy=replace(manifest(mode).privacy, clip_norm=0.3))
    table = tables()[0]
    steps, statistics = Records(agreed, table), np.zeros(17)
    model = np.linspace(-1, 1, 9)
    each = steps.of_each(model, statistics)
    assert each.sum(axis=0) == pytest.approx(steps.of_all(model, statistics))
    lengths = np.linalg.norm(each, axis=1) * 10.0  # times expected_batch / learning_rate
    assert (lengths.max() > 0.5) if mode == "none" else (0.299 < lengths.max() <= 0.3)


def test_confidence_is_higher_for_the_right_label() -> None:
    agreed = manifest()
    ones, zeros = np.ones(2), np.zeros(2)
    low, high = confidence(agreed, np.array([0.2, 0.9]), ones)
    assert (low, high) == pytest.approx((np.log(0.25), np.log(9)))
    assert confidence(agreed, np.array([0.2, 0.9]), zeros) == pytest.approx((-low, -high))
    margins = replace(agreed, model=DenseModel("svm"))
    assert confidence(margins, np.array([-2.0, 3.0]), ones).tolist() == [-2, 3]
    assert confidence(margins, np.array([-2.0, 3.0]), zeros).tolist() == [2, -3]
    classes = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    found = confidence(agreed, classes, np.array([0, 1]))
    assert found == pytest.approx((0, np.log(1 / 9)))
    task = TabularTask("tabular", "y", columns=(Column("a", "numeric", 0.0, 1.0),), low=0.0, high=2.0)
    number = replace(agreed, task=task, model=DenseModel("linear"))
    assert confidence(number, np.array([0.5, 0.0]), np.array([0.0, 0.0])).tolist() == [-0.25, 0]
