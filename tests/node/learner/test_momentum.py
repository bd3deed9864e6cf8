"""Momentum: that of the released models, added after clipping and noise."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from learner.members import IDENTITIES, ROUNDS, Make, manifest, one_round
from numpy.typing import NDArray

from p2pfl.gossip.manifest import (
    Column,
    DenseModel,
    Manifest,
    TabularTask,
    TrainingSpec,
)
from p2pfl.node.learner import Learner


def least_squares(momentum: float, mode: str = "none") -> Manifest:
    """A quadratic: every record enters every step, and nothing is noised."""
    agreed = manifest(mode)
    column = Column("x", "numeric", -3.0, 3.0)
    training = TrainingSpec(ROUNDS, 0.3, 1.0, 200.0, momentum=momentum, ring_bits=64)
    task = TabularTask("tabular", "y", columns=(column,), low=-1.0, high=1.0)
    return replace(agreed, task=task, model=DenseModel("linear"), training=training)


def released_parameters(learners: list[Learner]) -> list[NDArray[np.float64]]:
    """Of every training round."""
    found = []
    for round in range(ROUNDS + 1):
        one_round(learners, round)
        assert learners[0].released is not None
        found.append(learners[0].released.parameters)
    return found


def test_without_momentum_nothing_changes(make: Make, tmp_path: Path) -> None:
    plain = manifest("none")
    without = replace(plain, training=replace(plain.training, momentum=0.0))
    first = released_parameters(make(plain))[-1]
    for number in range(len(IDENTITIES)):
        (tmp_path / str(number)).rename(tmp_path / f"plain {number}")
    assert released_parameters(make(without))[-1].tobytes() == first.tobytes()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_momentum_on_a_quadratic_is_heavy_ball(make: Make, momentum: float) -> None:
    """x ← x - lr · gradient + β (x - the one before), of the mean of the members' losses."""
    learners = make(least_squares(momentum))
    found = released_parameters(learners)
    statistics = learners[0].released.statistics  # type: ignore[union-attr]
    inputs = [np.column_stack([each._trainer._train_inputs(statistics, np.ones(200, bool)), np.ones(200)])
              for each in learners]  # fmt: skip
    labels = [each._trainer._train.labels for each in learners]
    hessian = sum(one.T @ one for one in inputs) / 800
    slope = sum(one.T @ wanted for one, wanted in zip(inputs, labels, strict=True)) / 800
    before = last = np.zeros(2)
    for parameters in found[1:]:
        before, last = last, last - 0.3 * (hessian @ last - slope) + momentum * (last - before)
        assert parameters == pytest.approx(last, abs=1e-9)
    assert np.linalg.norm(last) > 0.1


@pytest.mark.parametrize("mode", ["distributed", "local", "organisation"])
def test_momentum_is_added_to_what_is_clipped_and_noised(make: Make, mode: str) -> None:
    """Whoever trains nothing contributes the same momentum: it is of what was released, and costs nothing."""
    agreed = manifest(mode)
    agreed = replace(agreed, training=replace(agreed.training, momentum=0.9, sampling_rate=1e-9))
    learner, *others = make(agreed)
    for round in range(3):
        one_round([learner, *others], round)
    assert learner.released is not None
    way = learner.released.parameters - learner.recent[1].parameters
    learner.prepare(3)
    assert learner._pending is not None
    pending = learner._pending
    off = pending.values - learner.released.parameters - 0.9 * way
    if mode != "local":
        assert np.abs(off).max() < 1e-12
    assert np.abs(way).max() > 0
    spent = learner._without_records(pending, 2).values
    assert spent == pytest.approx(learner.released.parameters + 0.9 * way)


def test_who_was_away_adds_no_momentum(make: Make) -> None:
    agreed = replace(manifest("none"), training=replace(manifest("none").training, momentum=0.9))
    learner, *others = make(agreed)
    for round in range(3):
        one_round([learner, *others], round)
    assert learner.released is not None
    still = learner.released.parameters
    assert not np.array_equal(learner._with_momentum(still), still)
    [again, *_] = make(agreed)
    assert np.array_equal(again._with_momentum(still), still)
    learner.adopt(replace(learner.released, round=5))
    assert np.array_equal(learner._with_momentum(still), still)


def test_a_federation_with_momentum_learns(make: Make) -> None:
    agreed = manifest()
    slow = replace(agreed.training, learning_rate=0.2, momentum=0.8)
    learners = make(replace(agreed, training=slow))
    for round in range(ROUNDS + 2):
        one_round(learners, round)
    own = learners[0].own_evaluation()
    assert own is not None
    assert own.accuracy > 0.85
