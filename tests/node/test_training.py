"""Training against slow obvious oracles: finite differences, one record at a time, plain SGD."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.gossip.manifest import (
    LEAST_CLIP_NORM,
    Column,
    DenseModel,
    GroupSpec,
    Manifest,
    PrivacySpec,
    TabularTask,
    TimingSpec,
    TrainingSpec,
)
from p2pfl.node.errors import ManifestProblem
from p2pfl.node.privacy import LOSS_CAP, poisson_sample, stage_plan, step_noise
from p2pfl.node.training.metrics import Evaluation
from p2pfl.node.training.models import Model
from p2pfl.node.training.preprocessing import Standardiser, statistics_of
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer

Vector = NDArray[np.float64]

LOGISTIC = DenseModel("logistic")
MLP = DenseModel("mlp", (4, 3))
MODELS = pytest.mark.parametrize("spec", [LOGISTIC, MLP], ids=["logistic", "mlp"])


@cache
def manifest(
    mode: str = "none",
    spec: DenseModel = LOGISTIC,
    sampling_rate: float = 0.5,
    local_steps: int = 1,
    clip_norm: float = 0.3,
) -> Manifest:
    noise = (4.0, 1e-4, clip_norm, 2.0, 2.0, 2.0) if mode != "none" else (0.0, 0.0, clip_norm)
    return Manifest(
        name="test",
        issuers=(Identity.from_seed(bytes(32)).peer_id,),
        members=(),
        task=TabularTask(
            "tabular",
            "y",
            ("1",),
            (
                Column("a", "numeric", -2.0, 2.0),
                Column("b", "numeric", 0.0, 9.0),
                Column("c", "categorical", levels=("u", "v")),
            ),
        ),
        model=spec,
        training=TrainingSpec(5, 0.7, sampling_rate, 20.0, local_steps),
        privacy=PrivacySpec(mode, *noise),  # type: ignore[arg-type]  # parametrized
        groups=GroupSpec(),
        timing=TimingSpec(),
    )


def table(count: int = 60, seed: int = 0) -> Table:
    rng = np.random.default_rng(seed)
    features = np.column_stack(
        [rng.uniform(-2, 2, count), rng.uniform(0, 9, count), rng.integers(0, 2, count)]
    ).astype(np.float64)
    labels = (features[:, 0] + 0.2 * features[:, 1] + rng.normal(size=count) > 1).astype(np.float64)
    return Table(features, labels)


def trainer(agreed: Manifest, records: Table | None = None, seed: bytes = b"seed") -> Trainer:
    return Trainer(agreed, records or table(), table(30, 1), seeded_random(seed))


def parameters_of(model: Model, seed: int = 3) -> Vector:
    return np.random.default_rng(seed).normal(size=model.dimension)


# -- oracles
def slow_logit(model: Model, parameters: Vector, record: Vector) -> float:
    """One record through the layers, by the layout."""
    values = record
    for weight, bias in zip(model.layout[::2], model.layout[1::2], strict=True):
        if weight is not model.layout[0]:
            values = np.tanh(values)
        matrix = parameters[weight.start : weight.stop].reshape(weight.shape)
        values = matrix @ values + parameters[bias.start : bias.stop]
    return float(values[0])


def slow_loss(model: Model, parameters: Vector, record: Vector, label: float) -> float:
    probability = 1 / (1 + math.exp(-slow_logit(model, parameters, record)))
    return -math.log(probability if label else 1 - probability)


def slow_gradient(model: Model, parameters: Vector, record: Vector, label: float) -> Vector:
    """Central differences, one parameter at a time."""
    gradient = np.zeros_like(parameters)
    for index in range(len(parameters)):
        step = np.zeros_like(parameters)
        step[index] = 1e-5
        up, down = (slow_loss(model, parameters + sign * step, record, label) for sign in (1, -1))
        gradient[index] = (up - down) / 2e-5
    return gradient


MARGIN = 1 + 2.0**-12
"""By how much records are clipped harder, for the rounding of large sums."""


def slow_clipped_sum(model: Model, parameters: Vector, inputs: Vector, labels: Vector, norm: float) -> Vector:
    """One record at a time, as the definition of DP-SGD reads (Abadi et al. 2016, algorithm 1)."""
    total = np.zeros_like(parameters)
    for record, label in zip(inputs, labels, strict=True):
        gradient = slow_gradient(model, parameters, record, label)
        length = float(np.linalg.norm(gradient))
        total += gradient if length <= norm else gradient * (norm / length)
    return total


# -- gradients
@MODELS
@pytest.mark.parametrize("norm", [0.05, 0.7, math.inf])
def test_clipped_gradients_against_one_record_at_a_time(spec: DenseModel, norm: float) -> None:
    model = Model(spec, 3)
    parameters, rng = parameters_of(model), np.random.default_rng(1)
    inputs, labels = rng.normal(size=(12, 3)), rng.integers(0, 2, 12).astype(np.float64)
    expected = slow_clipped_sum(model, parameters, inputs, labels, norm / MARGIN)
    assert model.summed_gradient(parameters, inputs, labels, norm) == pytest.approx(expected, abs=1e-8)


@MODELS
def test_an_empty_batch_has_no_gradient(spec: DenseModel) -> None:
    model = Model(spec, 3)
    assert not model.summed_gradient(parameters_of(model), np.zeros((0, 3)), np.zeros(0), 1.0).any()


@settings(max_examples=30)
@given(st.lists(st.floats(-8, 8), min_size=3, max_size=3), st.sampled_from([0.0, 1.0]), st.integers(0, 100))
def test_no_record_has_more_than_the_clip_norm(record: list[float], label: float, seed: int) -> None:
    model = Model(MLP, 3)
    parameters = 20 * parameters_of(model, seed)
    gradient = model.summed_gradient(parameters, np.array([record]), np.array([label]), 0.25)
    assert np.linalg.norm(gradient) <= 0.25 * (1 + 1e-12)


def test_a_record_without_gradient_stays_zero() -> None:
    model = Model(LOGISTIC, 3)
    saturated = np.array([1e4, 0.0, 0.0, 0.0])
    gradient = model.summed_gradient(saturated, np.array([[8.0, 0.0, 0.0]]), np.array([1.0]), 0.1)
    assert gradient.tolist() == [0, 0, 0, 0]


# -- models
@MODELS
def test_layout_covers_the_vector(spec: DenseModel) -> None:
    model = Model(spec, 3)
    edges = [0, *(slot.stop for slot in model.layout)]
    assert [slot.start for slot in model.layout] == edges[:-1]
    assert model.dimension == edges[-1] == spec.parameters(3)
    assert model.layout[0].name == "0.weight"


def test_initial_parameters_are_the_same_everywhere() -> None:
    assert not Model(LOGISTIC, 3).initial(b"any").any()
    first = Model(MLP, 3).initial(b"seed")
    assert first.tolist() == Model(MLP, 3).initial(b"seed").tolist()
    assert first.tolist() != Model(MLP, 3).initial(b"other").tolist()
    # Pinned: another platform or version must not start elsewhere.
    assert first[:3].tolist() == [0.1768204716169611, -0.4592565226379246, -0.17958942896564667]
    slots = {slot.name: first[slot.start : slot.stop] for slot in Model(MLP, 3).layout}
    assert np.abs(slots["0.weight"]).max() <= 1 / math.sqrt(3)
    assert np.abs(slots["1.weight"]).max() <= 1 / math.sqrt(4)
    assert len(set(slots["0.weight"])) == 12
    for name in ("0.bias", "1.bias", "2.weight", "2.bias"):
        assert not slots[name].any()


def test_initial_weights_are_uniform() -> None:
    model = Model(DenseModel("mlp", (100,)), 25)
    weights = model.initial(b"uniform")[:2500] * 5
    assert weights.mean() == pytest.approx(0, abs=5 / math.sqrt(3 * 2500))
    assert weights.var() == pytest.approx(1 / 3, rel=0.1)


def test_trainers_start_from_the_manifest() -> None:
    agreed = manifest(spec=MLP)
    first, second, elsewhere = (
        trainer(one, seed=seed).initial_parameters().tolist()
        for one, seed in ((agreed, b"a"), (agreed, b"b"), (replace(agreed, seed=1), b"a"))
    )
    assert first == second != elsewhere


# -- contributions
def inputs_of(agreed: Manifest, records: Table, statistics: Vector) -> Vector:
    noised = agreed.privacy.mode != "none"
    assert isinstance(agreed.task, TabularTask)
    return Standardiser.from_statistics(agreed.task, statistics, noised=noised).inputs(records)


@MODELS
def test_no_clip_and_no_noise_is_plain_sgd(spec: DenseModel) -> None:
    agreed = manifest("none", spec, sampling_rate=1.0, local_steps=3)
    one = trainer(agreed)
    statistics, start = one.statistics(), one.initial_parameters() + 0.1
    model, expected = Model(spec, 3), start.copy()
    inputs = inputs_of(agreed, table(), statistics)
    for _ in range(3):
        step = slow_clipped_sum(model, expected, inputs, table().labels, math.inf)
        expected -= 0.7 / 20 * step
    assert one.contribution(start, statistics) == pytest.approx(expected, abs=1e-7)


def test_a_distributed_step_clips_a_poisson_sample() -> None:
    agreed = manifest("distributed")
    statistics, start = trainer(agreed).statistics(), np.array([0.3, -0.2, 0.1, 0.5])
    chosen = poisson_sample(60, 0.5, seeded_random(b"seed"))
    assert 0 < chosen.sum() < 60
    inputs = inputs_of(agreed, table(), statistics)[chosen]
    step = slow_clipped_sum(Model(LOGISTIC, 3), start, inputs, table().labels[chosen], 0.3 / MARGIN)
    assert trainer(agreed).contribution(start, statistics) == pytest.approx(start - 0.7 / 20 * step, abs=1e-8)
    assert start.tolist() == [0.3, -0.2, 0.1, 0.5]


def test_one_record_moves_a_distributed_contribution_by_at_most_the_sensitivity() -> None:
    agreed = manifest("distributed", MLP, sampling_rate=1.0)
    whole = table()
    statistics = trainer(agreed).statistics()
    start = parameters_of(Model(MLP, 3))
    here = trainer(agreed, whole).contribution(start, statistics)
    moves = []
    for left_out in range(len(whole)):
        rest = Table(np.delete(whole.features, left_out, axis=0), np.delete(whole.labels, left_out))
        moves.append(np.linalg.norm(here - trainer(agreed, rest).contribution(start, statistics)))
    sensitivity = stage_plan(agreed, "training", len(start)).sensitivity
    assert max(moves) <= sensitivity * (1 + 1e-9)
    assert max(moves) > 0.99 * sensitivity


def test_an_empty_sample_leaves_the_model() -> None:
    agreed = manifest("distributed", sampling_rate=1e-9)
    one = trainer(agreed)
    start = np.array([0.3, -0.2, 0.1, 0.5])
    assert one.contribution(start, one.statistics()).tolist() == start.tolist()


def test_every_step_samples_anew() -> None:
    agreed = manifest("none")
    one = trainer(agreed)
    start, statistics = np.zeros(4), one.statistics()
    assert one.contribution(start, statistics).tolist() != one.contribution(start, statistics).tolist()


def test_without_training_the_model_is_passed_on() -> None:
    for mode in ("distributed", "local"):
        one = trainer(manifest(mode))
        start = np.array([0.3, -0.2, 0.1, 0.5])
        assert one.contribution(start, one.statistics(), train=False).tolist() == start.tolist()


def test_every_local_step_carries_its_full_noise() -> None:
    """With no record sampled, the model after H steps is H steps of noise, each with the noise of its own."""
    agreed = manifest("local", sampling_rate=1e-9, local_steps=4)
    one = trainer(agreed)
    statistics, start = one.statistics(), np.zeros(4)
    ends = np.array([one.contribution(start, statistics) for _ in range(1500)])
    step = step_noise(agreed, 4)
    sigma = step.sigma * 2.0**-step.fraction_bits * 0.7 / 20
    assert sigma >= 2.0 * 0.3 * 0.7 / 20
    assert ends.var() == pytest.approx(4 * sigma**2, rel=5 * math.sqrt(2 / ends.size))
    assert abs(ends.mean()) < 5 * 2 * sigma / math.sqrt(ends.size)


def test_local_noise_comes_with_the_gradient() -> None:
    agreed = manifest("local", sampling_rate=1.0)
    statistics, start = trainer(agreed).statistics(), np.array([0.3, -0.2, 0.1, 0.5])
    inputs = inputs_of(agreed, table(), statistics)
    step = slow_clipped_sum(Model(LOGISTIC, 3), start, inputs, table().labels, 0.3)
    noise = step_noise(agreed, 4)
    noised = noise.apply(step.copy(), noise.source(seeded_random(b"seed")))
    assert not np.allclose(noised, step, atol=1e-3)
    contribution = trainer(agreed).contribution(start, statistics)
    assert contribution == pytest.approx(start - 0.7 / 20 * noised, abs=2 * 0.7 / 20 * 2.0**-10)


def test_divergence_is_reported() -> None:
    agreed = manifest("none", MLP, sampling_rate=1.0)
    with pytest.raises(ManifestProblem, match="diverged"):
        trainer(agreed).contribution(np.full(MLP.parameters(3), np.nan), trainer(agreed).statistics())


@pytest.mark.parametrize("mode", ["distributed", "local", "organisation"])
def test_divergence_shows_to_nobody_else(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    """That a node stops is seen by everybody, and depends on its records: so it goes on as if idle."""
    one = trainer(manifest(mode, MLP, sampling_rate=1.0))
    start = np.full(MLP.parameters(3), np.nan)
    assert np.array_equal(one.contribution(start, one.statistics()), start, equal_nan=True)
    assert one.idle.startswith("training diverged")
    assert "its records taught nothing" in caplog.text
    one.contribution(start, one.statistics(), train=False)
    assert not one.idle


def test_more_records_weigh_more() -> None:
    """The mean over members of unequal size is one step of pooled SGD: denominators are public constants."""
    agreed = manifest("none", sampling_rate=1.0)
    small, large = table(20, 5), table(80, 6)
    both = Table(np.vstack([small.features, large.features]), np.concatenate([small.labels, large.labels]))
    statistics, start = trainer(agreed, both).statistics(), np.array([0.3, -0.2, 0.1, 0.5])
    parts = [trainer(agreed, records).contribution(start, statistics) for records in (small, large)]
    mean = trainer(agreed).mean(np.sum(parts, axis=0), 2)
    pooled_manifest = replace(agreed, training=replace(agreed.training, expected_batch=40.0))
    pooled = trainer(pooled_manifest, both).contribution(start, statistics)
    assert mean == pytest.approx(pooled, abs=1e-12)


def test_inputs_follow_the_statistics() -> None:
    agreed = manifest("none", sampling_rate=1.0)
    one, start = trainer(agreed), np.array([0.3, -0.2, 0.1, 0.5])
    statistics = one.statistics()
    other = statistics * [1, 0.5, 0.9, 1, 1]
    first = one.contribution(start, statistics)
    second = one.contribution(start, other)
    assert first.tolist() != second.tolist()
    assert trainer(agreed).contribution(start, other) == pytest.approx(second)
    assert one.contribution(start, statistics) == pytest.approx(first)


def test_the_least_clip_norm_of_a_manifest_is_one_that_is_clipped_to() -> None:
    agreed = manifest("distributed", sampling_rate=1.0, clip_norm=LEAST_CLIP_NORM)
    one, start = trainer(agreed), np.zeros(4)
    moved = np.linalg.norm(one.contribution(start, one.statistics()) - start)
    step = agreed.training.learning_rate / agreed.training.expected_batch
    assert 0 < moved <= step * 60 * LEAST_CLIP_NORM


# -- mode organisation
def organisation(clip_norm: float = 0.05) -> Manifest:
    return manifest("organisation", MLP, local_steps=4, clip_norm=clip_norm)


def test_an_organisation_clips_all_that_it_changes_in_a_round() -> None:
    """Several plain steps, as in mode none, and of what they change together the norm is cut."""
    agreed = organisation()
    plain = replace(agreed, privacy=agreed.privacy.with_mode("none"))
    statistics, start = trainer(agreed).statistics(), parameters_of(Model(MLP, 3))
    # Mode none trusts its statistics more than a noised mode does; these leave nothing to doubt.
    moved = trainer(plain).contribution(start, statistics) - start
    assert np.linalg.norm(moved) > 0.05
    found = trainer(agreed).contribution(start, statistics) - start
    assert found == pytest.approx(moved * (0.05 / np.linalg.norm(moved)), rel=1e-5)
    assert 0.9999 * 0.05 < np.linalg.norm(found) <= 0.05
    generous = organisation(1e3)
    assert trainer(generous).contribution(start, statistics) - start == pytest.approx(moved)


@pytest.mark.parametrize("count", [1, 3, 60])
def test_an_organisation_adds_no_more_than_a_record_would(count: int) -> None:
    """Its statistics and evaluation are means: neither its size nor its records show beyond noise."""
    agreed = organisation()
    one = Trainer(agreed, table(count), table(count, 1), seeded_random(b""))
    statistics, parameters = one.statistics(), parameters_of(one.model) * 100
    assert isinstance(agreed.task, TabularTask)
    assert statistics == pytest.approx(statistics_of(agreed.task, table(count)) / count)
    evaluation = one.evaluation(parameters, statistics)
    assert evaluation[1] == 1
    found = {"statistics": statistics, "evaluation": evaluation}
    found["training"] = one.contribution(parameters, statistics) - parameters
    for stage, vector in found.items():
        assert np.linalg.norm(vector) <= stage_plan(agreed, stage, len(vector)).sensitivity
    assert Trainer(agreed, table(), None, seeded_random(b"")).evaluation(parameters, statistics).sum() == 0


def test_weight_decay_shrinks_before_the_step() -> None:
    agreed = manifest("none", sampling_rate=1.0)
    decayed = replace(agreed, training=replace(agreed.training, weight_decay=0.5))
    statistics, start = trainer(agreed).statistics(), np.array([0.3, -0.2, 0.1, 0.5])
    step = trainer(agreed).contribution(start, statistics) - start
    assert trainer(decayed).contribution(start, statistics) == pytest.approx(start * (1 - 0.7 * 0.5) + step)


# -- evaluation
def test_a_nodes_own_area_under_the_curve_is_exact_and_the_released_sums_are_not() -> None:
    agreed = manifest("distributed")
    one, records = trainer(agreed), table(200, 1)
    statistics, parameters = one.statistics(), np.array([0.02, -0.02, 0.01, 0.005])  # next to no spread
    result = one.evaluate(parameters, statistics, records)
    scores, positive = one.predict(parameters, statistics, records), records.labels > 0
    pairs = scores[positive][:, None] - scores[~positive]
    assert result.figures["auc"] == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean(), abs=1e-12)
    assert abs(Evaluation.of(agreed, result.sums).figures["auc"] - result.figures["auc"]) > 0.01


def test_evaluation_against_one_record_at_a_time() -> None:
    agreed = manifest("distributed", MLP)
    one, records = trainer(agreed), table(30, 1)
    model, statistics = Model(MLP, 3), one.statistics()
    parameters = parameters_of(model)
    inputs = inputs_of(agreed, records, statistics)
    logits = [slow_logit(model, parameters, record) for record in inputs]
    losses = [slow_loss(model, parameters, *pair) for pair in zip(inputs, records.labels, strict=True)]
    result = one.evaluate(parameters, statistics)
    assert result.sums[0] == np.sum((np.array(logits) > 0) == (records.labels > 0))
    assert result.total == 30
    assert max(losses) > LOSS_CAP
    assert result.sums[2] == pytest.approx(sum(min(loss, LOSS_CAP) for loss in losses))
    assert sum(result.sums[3:]) == 30
    assert one.evaluation(parameters, statistics).tolist() == list(result.sums)
    probabilities = [1 / (1 + math.exp(-logit)) for logit in logits]
    assert one.predict(parameters, statistics, records) == pytest.approx(probabilities)


def test_one_record_adds_at_most_the_sensitivity() -> None:
    agreed = manifest("distributed")
    one = trainer(agreed)
    sensitivity = stage_plan(agreed, "evaluation", 51).sensitivity
    for scale in (0.0, 1.0, 1e3):
        for label in (0.0, 1.0):
            record = Table(np.array([[2.0, 9.0, 1.0]]), np.array([label]))
            result = one.evaluate(np.full(4, scale), one.statistics(), record)
            assert math.hypot(*result.sums) <= sensitivity


def test_one_record_adds_exactly_the_sensitivity_to_statistics_at_worst() -> None:
    agreed = manifest("distributed")
    sensitivity = stage_plan(agreed, "statistics", 5).sensitivity
    norms = [
        np.linalg.norm(trainer(agreed, Table(np.array([[a, b, 1.0]]), np.ones(1))).statistics())
        for a in (-2.0, 0.1, 2.0)
        for b in (0.0, 4.5, 9.0)
    ]
    assert max(norms) == pytest.approx(sensitivity, rel=1e-12)


def test_no_test_records_add_nothing() -> None:
    agreed = manifest("distributed")
    one = Trainer(agreed, table(), None, seeded_random(b""))
    assert not one.evaluation(np.zeros(4), one.statistics()).any()
    assert math.isnan(one.evaluate(np.zeros(4), one.statistics()).accuracy)


def test_accuracy_of_a_noised_evaluation_stays_within_bounds() -> None:
    agreed, rest = manifest("distributed"), [0.0] * 48
    assert Evaluation.of(agreed, [31.0, 30.0, 1.0, *rest]).accuracy == 1
    assert Evaluation.of(agreed, [-2.0, 30.0, 1.0, *rest]).accuracy == 0
    assert math.isnan(Evaluation.of(agreed, [3.0, -1.0, 0.0, *rest]).accuracy)
    known = {"total": 30.0, "accuracy": 0.8, "mean_loss": 0.3}
    assert Evaluation.of(agreed, [24.0, 30.0, 9.0, *rest]).as_dict() == pytest.approx(known)
    assert Evaluation.of(agreed, [3.0, -1.0, 0.0, *rest]).as_dict() == {"total": -1.0}
    with pytest.raises(ValueError, match="3 sums"):
        Evaluation.of(agreed, [3.0, 4.0, 0.0])


def test_dimensions_are_those_of_the_vectors() -> None:
    one = trainer(manifest("distributed", MLP))
    vectors = {
        "statistics": one.statistics(),
        "training": one.initial_parameters(),
        "evaluation": one.evaluation(one.initial_parameters(), one.statistics()),
    }
    for stage, vector in vectors.items():
        assert vector.shape == (one.dimension(stage),)
        assert vector.dtype == np.float64
    with pytest.raises(LocalProtocolError):
        one.dimension("mixing")


# -- learning
@MODELS
@pytest.mark.parametrize("mode", ["none", "distributed", "local"])
def test_it_learns(spec: DenseModel, mode: str) -> None:
    agreed = manifest(mode, spec, 0.5, 1, 1.0)
    agreed = replace(agreed, training=replace(agreed.training, expected_batch=500.0, learning_rate=4.0))
    one = Trainer(agreed, table(1000), table(400, 9), seeded_random(b"learn"))
    statistics, parameters = one.statistics(), one.initial_parameters()
    start = one.evaluate(parameters, statistics)
    for _ in range(60):
        parameters = one.contribution(parameters, statistics)
    end = one.evaluate(parameters, statistics)
    assert end.accuracy > 0.75
    assert end.figures["mean_loss"] < 0.8 * start.figures["mean_loss"]


@pytest.mark.slow
def test_four_hospitals_reach_the_published_accuracy() -> None:
    """The table that benchmarks/heart_disease.py prints meets its targets, on fewer seeds."""
    script = Path(__file__).parents[2] / "benchmarks" / "heart_disease.py"
    result = subprocess.run(
        [sys.executable, script, "--seeds", "3", "--json"], capture_output=True, text=True, check=True
    )
    rows = json.loads(result.stdout)
    assert set(rows[0]) == {"name", "params", "value", "unit", "baseline", "ratio", "target", "met"}
    assert [row["met"] for row in rows if row["target"] is not None] == [True] * 4


# -- the proximal term
def proximal(strength: float, steps: int = 3) -> Manifest:
    agreed = manifest("none", MLP, sampling_rate=1.0, local_steps=steps)
    return replace(agreed, training=replace(agreed.training, proximal=strength))


def test_without_a_proximal_term_nothing_changes() -> None:
    plain = manifest("none", MLP, local_steps=3)
    none = replace(plain, training=replace(plain.training, proximal=0.0))
    statistics, start = trainer(plain).statistics(), parameters_of(Model(MLP, 3))
    ends = [trainer(agreed).contribution(start, statistics).tobytes() for agreed in (plain, none)]
    assert ends[0] == ends[1]


def test_the_strongest_proximal_term_leaves_one_step_from_the_start() -> None:
    """With learning_rate · proximal = 1 a step goes back all the way before it takes its gradient's."""
    one = trainer(proximal(1 / 0.7))
    statistics, start = one.statistics(), parameters_of(Model(MLP, 3))
    model, expected = Model(MLP, 3), start.copy()
    inputs = inputs_of(proximal(0), table(), statistics)
    for _ in range(3):
        expected = start - 0.7 / 20 * slow_clipped_sum(model, expected, inputs, table().labels, math.inf)
    assert one.contribution(start, statistics) == pytest.approx(expected, abs=1e-7)


def test_a_proximal_term_is_the_gradient_of_its_penalty() -> None:
    one = trainer(proximal(0.4, 2))
    statistics, start = one.statistics(), parameters_of(Model(MLP, 3))
    first = trainer(proximal(0, 2))._step(start, statistics)
    middle = start - 0.7 / 20 * first
    second = trainer(proximal(0, 2))._step(middle, statistics)
    expected = middle - 0.7 / 20 * second - 0.7 * 0.4 * (middle - start)
    assert one.contribution(start, statistics) == pytest.approx(expected, abs=1e-12)
