"""Figures against their textbook definitions, what one record can add, and what noise makes of a figure."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2pfl.gossip.evaluation_spec import metrics_of
from p2pfl.gossip.manifest import (
    Column,
    DenseModel,
    ImageTask,
    SequenceModel,
    TabularTask,
    TaskSpec,
    TextTask,
)
from p2pfl.node.training.metrics import (
    BINS,
    HEAD,
    Evaluation,
    TwoClasses,
    area_under_the_curve,
    area_under_the_curve_of_scores,
    measures,
    summed,
)
from p2pfl.node.training.objectives import objective

Array = NDArray[Any]
X = (Column("x", "numeric", 0, 1),)
TWO = TabularTask("tabular", "y", ("1",), X)
THREE = TabularTask("tabular", "y", (), X, classes=("a", "b", "c"))
NUMBER = TabularTask("tabular", "y", (), X, low=100, high=300)
PICTURES = ImageTask("images", 2, 2, ("a", "b", "c", "d"))
TEXT = TextTask("text", "abc", 2, "line")
TASKS: list[TaskSpec] = [TWO, THREE, NUMBER, PICTURES, TEXT]
MODELS = {False: DenseModel("logistic"), True: DenseModel("svm")}
RNG = np.random.default_rng(0)


def sums_of(task: TaskSpec, outputs: Array, targets: Array, *, hinge: bool = False) -> Array:
    model = SequenceModel("gru", 2, (2,), 3) if task is TEXT else MODELS[hinge]
    goal = objective(task, model)
    return summed(task, outputs, targets, *goal.measured(outputs, targets))


def figures(task: TaskSpec, outputs: Array, targets: Array, *, hinge: bool = False) -> dict[str, float]:
    sums = sums_of(task, outputs, targets, hinge=hinge)
    return Evaluation(tuple(sums), measures(task, hinge=hinge)).figures


# -- figures
def test_figures_are_named_as_in_the_manifest() -> None:
    for task in TASKS:
        found = Evaluation((0.0,) * (HEAD + measures(task).dimension), measures(task)).figures
        assert tuple(found) == metrics_of(task)
        assert all(math.isnan(figure) for figure in found.values())


def test_losses_are_in_the_units_of_the_objective() -> None:
    cases: list[tuple[TaskSpec, bool]] = [
        (TWO, False),
        (TWO, True),
        (THREE, False),
        (THREE, True),
        (TEXT, False),
    ]
    for task, hinge in cases:
        model = SequenceModel("gru", 2, (2,), 3) if task is TEXT else MODELS[hinge]
        sums = [0.0, 2.0, 1.0, *[0.0] * measures(task).dimension]
        found = Evaluation(tuple(sums), measures(task, hinge=hinge)).figures
        assert found["mean_loss"] == pytest.approx(objective(task, model).unit / 2)


def test_two_classes() -> None:
    scores = RNG.normal(size=4000) * 2
    labels = (RNG.random(4000) < 1 / (1 + np.exp(-scores))).astype(np.float64)
    found = figures(TWO, scores, labels)
    positive, others = scores[labels > 0], scores[labels == 0]
    pairs = (positive[:, None] > others).mean()
    assert found["auc"] == pytest.approx(pairs, abs=0.004)  # within a bin nobody comes before anybody
    assert found["accuracy"] == pytest.approx(((scores > 0) == labels).mean())
    assert found["balanced_accuracy"] == pytest.approx(((positive > 0).mean() + (others <= 0).mean()) / 2)
    losses = np.minimum(np.logaddexp(0, np.where(labels > 0, -scores, scores)), 1)
    assert found["mean_loss"] == pytest.approx(losses.mean())


def test_a_curve_that_can_be_drawn_by_hand() -> None:
    counts = {0: [3, 1, 0], 1: [1, 0, 2]}
    others, positive = (np.array(counts[one], np.float64) for one in (0, 1))
    # Of 12 pairs, two positives beat 4 each, one ties with 3.
    assert area_under_the_curve(others, positive) == pytest.approx((2 * 4 + 1.5) / 12)
    assert area_under_the_curve(positive, others) == pytest.approx(1 - (2 * 4 + 1.5) / 12)
    assert math.isnan(area_under_the_curve(others, np.zeros(3)))


def test_a_score_of_nothing_is_a_no() -> None:
    """What every score of an untrained model is: in the bin below the middle, as the prediction has it."""
    sums = sums_of(TWO, np.zeros(3), np.array([0.0, 1.0, 1.0]))[HEAD:].reshape(2, BINS)
    assert sums[0].tolist() == [0] * (BINS // 2 - 1) + [1] + [0] * (BINS // 2)
    assert sums[1][BINS // 2 - 1] == 2
    found = figures(TWO, np.zeros(3), np.array([0.0, 1.0, 1.0]))
    assert (found["auc"], found["balanced_accuracy"]) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("low", "high", "sharpness", "most"),
    [(0.1, 0.4, 1, 0.005), (0.1, 0.4, 4, 0.01), (0.1, 0.4, 1e3, 0.02), (0.003, 0.997, 1, 0.002)],
)
def test_bins_lose_no_more_of_the_curve_than_the_documentation_says(
    low: float, high: float, sharpness: float, most: float
) -> None:
    """At worst, 1e3, a threshold divides the classes; the mean of where it may be in a bin, and the worst."""
    chances = RNG.uniform(low, high, 20_000)
    scores = np.log(chances / (1 - chances))
    lost = []
    for middle in np.linspace(-1.5, -0.7, 9):
        steep = np.clip(sharpness * (scores - middle), -50, 50)
        positive = RNG.random(len(scores)) < 1 / (1 + np.exp(-steep))
        exact = area_under_the_curve_of_scores(scores, positive)
        lost.append(exact - figures(TWO, scores, positive.astype(np.float64))["auc"])
    assert min(lost) > -1e-3
    assert max(lost) < most
    assert np.mean(lost) > most / 20


def test_scores_that_tie_count_half_and_what_is_no_number_is_above_all() -> None:
    scores, positive = np.array([1.0, 1, 2, np.nan]), np.array([False, True, False, True])
    assert area_under_the_curve_of_scores(scores, positive) == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    assert math.isnan(area_under_the_curve_of_scores(scores, np.ones(4, bool)))


def test_the_example_of_the_protocol() -> None:
    text = Path(__file__).parents[2].joinpath("docs/protocol.md").read_text(encoding="utf-8")
    example = "of o = −1, −0.3, 0, 0.1, 0.3 and 5 the bins are 7, 10, 11, 12, 13 and 23"
    assert example in text
    details = TwoClasses().details(np.array([-1, -0.3, 0, 0.1, 0.3, 5]), np.zeros(6), np.zeros(6))
    assert np.flatnonzero(details).tolist() == [7, 10, 11, 12, 13, 23]


def test_errors_that_cannot_be_are_not_known() -> None:
    """Of 10 records: the sums of 1 - |e| and e², and what is known of a number with a range of 200."""
    names = ("mean_absolute_error", "root_mean_squared_error", "r2")
    for right, loss, square, known in [
        (9.0, 0.2, -2.0, "111"),
        (10.2, 0.2, -2.0, "011"),  # nobody is more than right
        (9.0, -0.1, -2.0, "100"),  # a square is no less than 0
        (8.0, 0.2, -2.0, "000"),  # the mean of squares is no less than the square of the mean
        (9.0, 0.2, 6.0, "110"),  # u² is at most 1
        (10.0, 0.0, -2.0, "111"),  # all foreseen, as a sum without noise may say
    ]:
        found = Evaluation((right, 10.0, loss, 0.0, square), measures(NUMBER)).as_dict()
        assert "".join(str(int(name in found)) for name in names) == known, (right, loss)


@pytest.mark.parametrize("hinge", [False, True])
def test_several_classes(hinge: bool) -> None:
    outputs, targets = RNG.normal(size=(50, 3)), RNG.integers(0, 2, 50)  # nobody is of the last class
    found = figures(THREE, outputs, targets, hinge=hinge)
    right = outputs.argmax(1) == targets
    assert found["accuracy"] == pytest.approx(right.mean())
    shares = [right[targets == one].mean() for one in (0, 1)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(shares))


def test_a_number() -> None:
    wanted = RNG.uniform(-1, 1, 200)
    given_ = wanted + 0.2 * RNG.normal(size=200)
    found = figures(NUMBER, given_, wanted)
    truth, guess = 200 + 100 * wanted, 200 + 100 * np.clip(given_, -1, 1)
    assert found["mean_absolute_error"] == pytest.approx(np.abs(guess - truth).mean())
    assert found["root_mean_squared_error"] == pytest.approx(np.sqrt(((guess - truth) ** 2).mean()))
    assert found["r2"] == pytest.approx(
        1 - ((guess - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    )
    assert figures(NUMBER, np.full(2, -1.0), np.array([0.99, 1.0]))["r2"] == -1
    assert "accuracy" not in found


# -- what one record adds
def test_what_own_code_says_of_a_record_is_cut_to_what_one_may_add() -> None:
    outputs, targets = np.zeros((1, 1)), np.zeros(1)
    for right, loss, expected in (
        (9.0, -9.0, (1, 1, 0)),
        (-9.0, 9.0, (0, 1, 1)),
        (np.nan, np.nan, (0, 1, 1)),
    ):
        added = summed(TEXT, outputs, targets, np.array([right]), np.array([loss]))
        assert tuple(added[:HEAD]) == expected


@settings(max_examples=200)
@given(
    st.sampled_from([*[(task, False) for task in TASKS], (TWO, True), (THREE, True)]),
    st.lists(st.one_of(st.floats(-20, 20), st.just(math.inf)), min_size=6, max_size=6),
    st.integers(0, 2),
)
def test_one_record_adds_at_most_the_sensitivity(
    of: tuple[TaskSpec, bool], outputs: list[float], target: int
) -> None:
    task, hinge = of
    scores = np.array(outputs)
    cases: dict[int, tuple[Array, Array]] = {
        id(TWO): (scores[:1], np.array([float(target > 0)])),
        id(THREE): (scores[None, :3], np.array([target])),
        id(NUMBER): (scores[:1], np.array([scores[1] if abs(scores[1]) <= 1 else target - 1.0])),
        id(PICTURES): (scores[None, :4], np.array([target])),
        id(TEXT): (scores.reshape(1, 2, 3), np.array([[target, -1]], np.int16)),
    }
    added = sums_of(task, *cases[id(task)], hinge=hinge)
    assert added.shape == (HEAD + measures(task).dimension,)
    assert np.linalg.norm(added) <= measures(task).sensitivity * (1 + 1e-12)


@pytest.mark.parametrize(
    ("task", "hinge", "outputs", "target"),
    [
        (TWO, True, np.array([1e-9]), np.array([1.0])),  # just right, and still a whole margin off
        (THREE, True, np.array([[-1, -1.0001, -1.0001]]), np.array([0])),
        (NUMBER, False, np.array([1.0]), np.array([1.0])),
    ],
)
def test_the_sensitivity_is_no_larger_than_it_must_be(
    task: TaskSpec, hinge: bool, outputs: Array, target: Array
) -> None:
    norm = np.linalg.norm(sums_of(task, outputs, target, hinge=hinge))
    assert norm >= 0.9 * measures(task).sensitivity


# -- what noise makes of it
@given(
    st.sampled_from(TASKS),
    st.lists(st.floats(-1e9, 1e9), min_size=HEAD + 2 * BINS, max_size=HEAD + 2 * BINS),
)
def test_whatever_the_noise_does_figures_stay_where_they_can_lie(task: TaskSpec, sums: list[float]) -> None:
    evaluation = Evaluation(tuple(sums[: HEAD + measures(task).dimension]), measures(task))
    for name, figure in evaluation.figures.items():
        if math.isnan(figure):
            continue
        low, high = (-1.0, 1.0) if name == "r2" else (0.0, 1.0)
        scale = 200.0 if name.endswith("_error") else 2.0 if name == "mean_loss" else 1.0
        assert low <= figure <= high * scale
    assert all(math.isfinite(figure) for figure in evaluation.as_dict().values())


def test_some_noise_moves_a_figure_a_little() -> None:
    """With 5000 records and noise as in a federation with epsilon 1: not the right figure, but about it."""
    scores = RNG.normal(size=5000) * 2
    labels = (RNG.random(5000) < 1 / (1 + np.exp(-scores))).astype(np.float64)
    exact = sums_of(TWO, scores, labels)
    noised = exact + RNG.normal(size=len(exact)) * 10
    true, found = (Evaluation(tuple(sums), measures(TWO)).figures for sums in (exact, noised))
    assert found == pytest.approx(true, abs=0.02)
    assert found != true
