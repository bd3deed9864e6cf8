"""The cost of noise, measured, against slow obvious ways, and against what real nodes would add."""

import math
from dataclasses import replace

import numpy as np
import pytest

from p2pfl.gossip.manifest import GroupSpec
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.accountant import Kind
from p2pfl.noise_cost import (
    CLIP_NORM,
    LEARNING_RATES,
    SIGNAL,
    Floats,
    Noised,
    _Run,
    accuracies,
    affordable,
    best_possible,
    measure,
    noise_of_mean,
)
from p2pfl.planning import Terms

FREE = Noised("distributed", 0.0)
SMALL = Terms("distributed", 1.0, 1e-5, 40, 3, 0.5, 5, GroupSpec())


def sigmoid(values: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-values)), np.float64)


def test_accuracy_is_that_on_many_fresh_records() -> None:
    rng = np.random.default_rng(1)
    truth = np.array([0.6, 0.0, 0.8])
    models = np.array(
        [[1.0, 0.5, 2.0, 0.7], [0.0, 0.0, 0.0, 1.0], [-0.6, 0.0, -0.8, 0.0], [0.6, 0.0, 0.8, 0.0]]
    )
    inputs = rng.normal(size=(400_000, 3))
    labels = rng.random(len(inputs)) < sigmoid(SIGNAL * inputs @ truth)
    for model, accuracy in zip(models, accuracies(models, truth), strict=True):
        said = inputs @ model[:-1] + model[-1] > 0
        assert np.mean(said == labels) == pytest.approx(accuracy, abs=0.004)
    assert best_possible() == pytest.approx(accuracies(models[3:], truth)[0])


def test_updates_are_sums_over_records_one_at_a_time() -> None:
    ways = [FREE, Noised("distributed", 1.0), Noised("organisation", 1.0)]
    run, again = _Run(SMALL, ways, 4, 0), _Run(SMALL, ways, 4, 0)
    models = np.random.default_rng(2).normal(size=(3, len(LEARNING_RATES), SMALL.members, 5))
    updates = run._updates(models)
    chosen = again._rng.random((SMALL.members, SMALL.records)) < SMALL.sampling_rate
    for place in np.ndindex(updates.shape[:3]):
        way, _, member = place
        total, model = np.zeros(5), models[place]
        for record in range(SMALL.records):
            features = again._inputs[member, record]
            gradient = (sigmoid(features @ model) - again._labels[member, record]) * features
            if ways[way].kind == "organisation":
                total += gradient / SMALL.records
            elif chosen[member, record]:
                limit = CLIP_NORM if ways[way].noise_multiplier else math.inf
                total += gradient * min(1.0, limit / np.linalg.norm(gradient)) / SMALL.batch
        if ways[way].kind == "organisation":
            total *= min(1.0, CLIP_NORM / float(np.linalg.norm(total)))
        assert updates[place] == pytest.approx(total)


@pytest.mark.parametrize("kind", ["distributed", "local", "organisation"])
def test_noise_is_what_the_members_add_together(kind: Kind) -> None:
    """In units of the clip norm, over the expected batch of a member."""
    terms = replace(SMALL, kind=kind)
    way, group = Noised(kind, 6.0), thresholds(5, 1)
    unit = 1.0 if kind == "organisation" else terms.batch
    share = 6.0 / unit * (1.0 if kind == "local" else 1 / math.sqrt(group.minimum_survivors - 1))
    assert noise_of_mean(terms, way, 5) == pytest.approx(math.sqrt(5 * share**2) / 5)
    run = _Run(terms, [way], 30_000, 0)
    models = np.zeros((1, len(LEARNING_RATES), 5, 30_001))
    moved = run._averaged(models, np.zeros_like(models)) / run._rates
    assert float(moved.std()) == pytest.approx(noise_of_mean(terms, way, 5), rel=0.02)


def test_more_noise_costs_more() -> None:
    terms = Terms("distributed", 1.0, 1e-5, 200, 40, 0.2, 8, GroupSpec())
    ways = [FREE, Noised("distributed", 15.0), Noised("local", 15.0), Noised("local", 60.0)]
    outcomes = measure(terms, ways, 10, 3)
    reached = [outcome.accuracy for outcome in outcomes]
    assert reached == sorted(reached, reverse=True)
    assert best_possible() - 0.01 < reached[0] < best_possible()
    assert reached[0] - reached[3] > 0.05
    ratios = [outcome.signal_to_noise for outcome in outcomes]
    assert ratios[0] == math.inf
    assert ratios[1] > ratios[2] > ratios[3]
    assert measure(terms, ways, 10, 3) == outcomes


def test_what_would_take_minutes_is_known_before() -> None:
    terms = Terms("distributed", 1.0, 1e-5, 500, 100, 0.1, 8, GroupSpec())
    assert affordable(terms, [FREE], 20, 4)
    assert not affordable(replace(terms, rounds=1_000_000), [FREE], 20, 1)
    assert not affordable(replace(terms, records=10**7), [FREE], 20, 1)
    assert not affordable(replace(terms, rounds=20_000), [Noised("organisation", 1.0)], 20, 4)
