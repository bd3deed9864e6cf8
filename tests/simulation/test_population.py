"""Many nodes at once, against one node and against arithmetic."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfl.gossip.manifest import DenseModel
from p2pfl.node.training.objectives import TwoClasses
from p2pfl.simulation.averaging import Averaging, Groups, Mixing
from p2pfl.simulation.batches import Records
from p2pfl.simulation.population import Population, Terms
from p2pfl.simulation.stacks import stack
from p2pfl.topologies.sparse import Weights

torch.set_num_threads(1)
CPU = torch.device("cpu")
GOAL = TwoClasses(hinge=False)
TERMS = Terms(steps=1, rate=0.1, kept=1.0, sampling_rate=1.0)


def records(*counts: int) -> Records:
    rng = np.random.default_rng(3)
    return Records.of(
        [(rng.normal(size=(count, 3)), rng.integers(0, 2, count).astype(np.float64)) for count in counts], CPU
    )


def population(*counts: int, seed: int = 0) -> Population:
    model = stack(DenseModel("logistic"), 3, GOAL)
    start = torch.linspace(-1, 1, model.dimension)
    return Population(model, records(*counts), start, torch.Generator().manual_seed(seed))


@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    rate=st.sampled_from([0.0, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_poisson_batch_holds_records_of_its_node_once_each(
    counts: list[int], rate: float, seed: int
) -> None:
    held = records(*counts)
    batch = held.poisson(rate, torch.Generator().manual_seed(seed))
    start = 0
    for node, count in enumerate(counts):
        own = {tuple(row.tolist()) for row in held.inputs[start : start + count]}
        chosen = [tuple(row.tolist()) for row in batch.inputs[node][batch.present[node].bool()]]
        assert len(set(chosen)) == len(chosen)
        assert set(chosen) <= own
        assert rate < 1 or len(chosen) == count
        assert rate > 0 or not chosen
        start += count


def test_poisson_batches_have_the_lengths_of_independent_coins() -> None:
    held, generator = records(*[40] * 50), torch.Generator().manual_seed(1)
    lengths = torch.cat([held.poisson(0.25, generator).present.sum(1) for _ in range(100)])
    assert float(lengths.mean()) == pytest.approx(10, abs=4 * math.sqrt(7.5 / 5000))
    assert float(lengths.var()) == pytest.approx(7.5, rel=0.1)


def test_who_is_not_active_has_no_records_and_no_noise() -> None:
    nodes, active = population(4, 5, 6), torch.tensor([True, False, True])
    before = nodes.parameters.clone()
    for terms in (TERMS, replace(TERMS, batch=3), replace(TERMS, kept=0.9, step_noise=0.1, record_clip=1.0)):
        nodes.train(terms, active)
    assert torch.equal(nodes.parameters[1], before[1])
    assert not torch.isclose(nodes.parameters[[0, 2]], before[[0, 2]]).any()


def test_weight_decay_shrinks_what_the_gradient_was_taken_at() -> None:
    plain, decayed = population(5), population(5)
    start = plain.parameters.clone()
    plain.train(TERMS)
    decayed.train(replace(TERMS, kept=0.75))
    torch.testing.assert_close(decayed.parameters, plain.parameters - 0.25 * start)


def test_step_noise_has_the_deviation_asked_for() -> None:
    quiet, noised = population(*[2] * 4000), population(*[2] * 4000)
    quiet.train(replace(TERMS, steps=2))
    noised.train(replace(TERMS, steps=2, step_noise=1e-3))
    assert float((noised.parameters - quiet.parameters).std()) == pytest.approx(math.sqrt(2) * 1e-3, rel=0.02)


def test_shared_noise_is_each_node_s_own() -> None:
    nodes = population(*[1] * 3)
    before = nodes.parameters.clone()
    nodes.parameters = nodes.parameters.repeat(1000, 1)
    nodes._spare = torch.empty_like(nodes.parameters)
    nodes.add_noise(torch.tensor([0.0, 1.0, 2.0] * 1000))
    noise = (nodes.parameters - before.repeat(1000, 1)).view(1000, 3, -1)
    assert noise.std(dim=(0, 2)).tolist() == pytest.approx([0.0, 1.0, 2.0], rel=0.05)


def test_an_update_is_cut_as_a_whole() -> None:
    nodes = population(9, 1, 9)
    before = nodes.parameters.clone()
    nodes.train(replace(TERMS, steps=5, update_clip=0.05))
    moved = (nodes.parameters - before).norm(dim=1)
    assert moved.tolist() == pytest.approx([0.05, 0.05, 0.05], rel=1e-4)


def test_a_short_update_is_not_cut() -> None:
    free, bounded = population(9, 1, 9), population(9, 1, 9)
    free.train(TERMS)
    bounded.train(replace(TERMS, update_clip=1e6))
    torch.testing.assert_close(free.parameters, bounded.parameters)


GROUPS = [[3, 0], [1, 4, 5]]


def dense_groups() -> np.ndarray:
    matrix = np.eye(7)
    for group in GROUPS:
        matrix[np.ix_(group, group)] = 1 / len(group)
    return matrix


@pytest.mark.parametrize(
    "averaging",
    [Groups.of(GROUPS, 7, CPU), Mixing.of(Weights.of_matrix(dense_groups()), CPU)],
    ids=["groups", "mixing"],
)
def test_averages_are_those_of_the_dense_matrix(averaging: Averaging) -> None:
    nodes = population(*[1] * 7)
    nodes.parameters = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 4))).float()
    wanted = dense_groups() @ nodes.parameters.numpy()
    nodes.average(averaging)
    np.testing.assert_allclose(nodes.parameters.numpy(), wanted, rtol=1e-6, atol=1e-6)
    assert nodes.consensus_distance() == pytest.approx(((wanted - wanted.mean(0)) ** 2).sum() / 7, rel=1e-5)


def test_the_same_seed_gives_the_same_run() -> None:
    terms = Terms(2, 0.1, 1.0, 0.5, record_clip=1.0, step_noise=0.1)
    runs = [population(4, 5, seed=seed) for seed in (1, 1, 2)]
    for nodes in runs:
        nodes.train(terms)
    assert torch.equal(runs[0].parameters, runs[1].parameters)
    assert not torch.equal(runs[0].parameters, runs[2].parameters)
