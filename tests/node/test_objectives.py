"""Losses and measures against the formulas, record by record; what one record can add to an evaluation."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2pfl.gossip.manifest import Column, DenseModel, ImageTask, SequenceModel, TabularTask, TextTask
from p2pfl.node.training.objectives import Classes, NextCharacter, Number, Objective, TwoClasses, objective
from p2pfl.node.training.text import PADDING

Array = NDArray[Any]
X = (Column("x", "numeric", 0, 1),)
RNG = np.random.default_rng(0)


def losses(goal: Objective, outputs: Array, targets: Array) -> list[float]:
    found: list[float] = goal.losses(torch.from_numpy(outputs), torch.from_numpy(targets)).tolist()
    return found


def test_every_task_has_its_objective() -> None:
    logistic, svm, mlp = DenseModel("logistic"), DenseModel("svm"), DenseModel("mlp", (3,))
    two, number = TabularTask("tabular", "y", ("1",), X), TabularTask("tabular", "y", (), X, low=1, high=3)
    several = TabularTask("tabular", "y", (), X, classes=("a", "b", "c"), class_weights=(1, 2, 3))
    images = ImageTask("images", 2, 2, ("a", "b"))
    assert objective(two, logistic) == TwoClasses(hinge=False)
    assert objective(two, svm) == TwoClasses(hinge=True)
    assert objective(several, mlp) == Classes(3, False, (1, 2, 3))
    assert objective(several, svm) == Classes(3, True, (1, 2, 3))
    assert objective(images, svm) == Classes(2, True)
    assert objective(number, mlp) == Number(1, 3)
    text = TextTask("text", "abc", 4, "line")
    assert objective(text, SequenceModel("gru", 2, (4,), 3)) == NextCharacter(3)


# -- losses
def test_two_classes() -> None:
    outputs, targets = np.array([2.0, 2.0, -0.5]), np.array([1.0, 0.0, 1.0])
    log = [math.log1p(math.exp(-2)), math.log1p(math.exp(2)), math.log1p(math.exp(0.5))]
    assert losses(TwoClasses(False), outputs, targets) == pytest.approx(log)
    assert losses(TwoClasses(True), outputs, targets) == [0, 3, 1.5]
    weighed = losses(TwoClasses(False, (0.5, 3)), outputs, targets)
    assert weighed == pytest.approx([3 * log[0], 0.5 * log[1], 3 * log[2]])
    correct, found = TwoClasses(False, (0.5, 3)).measured(outputs, targets)
    assert correct.tolist() == [1, 0, 0]
    assert found == pytest.approx(log)  # weights are for training only


def test_several_classes() -> None:
    outputs, targets = RNG.normal(size=(5, 3)), np.array([0, 2, 1, 1, 0])
    log = [-row[k] + math.log(sum(map(math.exp, row))) for row, k in zip(outputs, targets, strict=True)]
    hinge = [
        sum(max(0, 1 - (1 if k == j else -1) * row[j]) for j in range(3))
        for row, k in zip(outputs, targets, strict=True)
    ]
    weights = (1.0, 2.0, 5.0)
    assert losses(Classes(3, False), outputs, targets) == pytest.approx(log)
    assert losses(Classes(3, True), outputs, targets) == pytest.approx(hinge)
    weighed = [weights[k] * loss for k, loss in zip(targets, log, strict=True)]
    assert losses(Classes(3, False, weights), outputs, targets) == pytest.approx(weighed)
    correct, found = Classes(3, False, weights).measured(outputs, targets)
    assert correct.tolist() == [float(row.argmax() == k) for row, k in zip(outputs, targets, strict=True)]
    assert found * math.log2(3) == pytest.approx(log)
    assert Classes(3, False).predicted(outputs).sum(axis=1) == pytest.approx(1)
    assert Classes(3, True).predicted(outputs).tolist() == outputs.tolist()


def test_two_listed_classes_cost_what_a_positive_one_does() -> None:
    logit = RNG.normal(size=6)
    targets = np.array([0, 1, 1, 0, 1, 0])
    listed = losses(Classes(2, False), np.stack([-logit / 2, logit / 2], 1), targets)
    assert listed == pytest.approx(losses(TwoClasses(False), logit, targets.astype(np.float64)))
    assert Classes(2, False).unit == TwoClasses(False).unit == 1


def test_a_number() -> None:
    goal = Number(100, 300)
    outputs, targets = np.array([0.5, -3.0]), np.array([0.0, 1.0])
    assert losses(goal, outputs, targets) == [0.125, 8]
    assert goal.predicted(outputs).tolist() == [250, 100]
    closeness, squares = goal.measured(outputs, targets)
    assert closeness.tolist() == [0.75, 0]  # 50 of 200 off; 200 of 200
    assert (squares * goal.unit).tolist() == [50.0**2, 200.0**2]


def test_characters() -> None:
    goal = NextCharacter(3)
    outputs = RNG.normal(size=(2, 4, 3))
    targets = np.array([[0, 2, 1, PADDING], [1, PADDING, PADDING, PADDING]], np.int16)
    log = np.log(np.exp(outputs).sum(-1, keepdims=True)) - outputs
    first = np.mean([log[0, at, k] for at, k in enumerate((0, 2, 1))])
    assert losses(goal, outputs, targets) == pytest.approx([first, log[1, 0, 1]])
    correct, found = goal.measured(outputs, targets)
    right = [outputs[0, at].argmax() == k for at, k in enumerate((0, 2, 1))]
    assert correct == pytest.approx([np.mean(right), float(outputs[1, 0].argmax() == 1)])
    assert found * math.log2(3) == pytest.approx([first, log[1, 0, 1]])


# -- what one record can add
@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), st.integers(0, 2))
def test_one_record_is_right_by_one_at_most(outputs: list[float], target: int) -> None:
    scores = np.array([outputs])
    cases: list[tuple[Objective, Array, Array]] = [
        (TwoClasses(False), scores[:, 0], np.array([float(target > 0)])),
        (TwoClasses(True), scores[:, 0], np.array([float(target > 0)])),
        (Classes(3, False), scores, np.array([target])),
        (Classes(3, True), scores, np.array([target])),
        (Number(0, 1), scores[:, 0], np.array([target - 1.0])),
        (NextCharacter(3), scores[:, np.newaxis], np.array([[target]], np.int16)),
    ]
    for goal, given_, wanted in cases:
        correct, found = goal.measured(given_, wanted)
        assert correct.shape == found.shape == (1,)
        assert 0 <= correct[0] <= 1
        assert found[0] >= 0


def test_knowing_nothing_costs_less_than_the_cap() -> None:
    for classes in (2, 10, 65, 1024):
        _, found = Classes(classes, False).measured(np.zeros((1, classes)), np.array([0]))
        assert found[0] == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("objective", "outputs", "targets"),
    [
        (TwoClasses(False), (5,), [0, 1, 1, 0, 1]),
        (TwoClasses(False, (0.5, 2.0)), (5,), [0, 1, 1, 0, 1]),
        (TwoClasses(True, (0.5, 2.0)), (5,), [0, 1, 1, 0, 1]),
        (Classes(3, False), (5, 3), [0, 2, 1, 0, 2]),
        (Classes(3, False, (1, 2, 3)), (5, 3), [0, 2, 1, 0, 2]),
        (Classes(3, True, (1, 2, 3)), (5, 3), [0, 2, 1, 0, 2]),
        (Number(1, 3), (5,), [0.5, -1, 1, 0, 0.25]),
        (NextCharacter(3), (2, 4, 3), [[0, 2, -1, -1], [1, 1, 0, 2]]),
    ],
)
def test_slopes_are_the_derivatives_of_the_losses(
    objective: Objective, outputs: tuple[int, ...], targets: list[object]
) -> None:
    at = torch.from_numpy(np.random.default_rng(1).normal(size=outputs)).requires_grad_()
    wanted = torch.tensor(targets, dtype=at.dtype)
    (expected,) = torch.autograd.grad(objective.losses(at, wanted).sum(), at)
    torch.testing.assert_close(objective.slopes(at.detach(), wanted), expected)
