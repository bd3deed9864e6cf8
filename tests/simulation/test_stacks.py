"""A stack against the model that a node trains, one node at a time."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from p2pfl.gossip.manifest import ConvolutionalModel, DenseModel, ModelSpec, SequenceModel
from p2pfl.node.training.models import Model
from p2pfl.node.training.objectives import Classes, NextCharacter, Number, Objective, TwoClasses
from p2pfl.node.training.text import PADDING
from p2pfl.simulation import stacks
from p2pfl.simulation.stacks import Batch, DenseStack, stack

torch.set_num_threads(1)
NODES, RECORDS, FEATURES, WINDOW, RATE = 4, 6, 5, 7, 0.3
CASES: dict[str, tuple[ModelSpec, Objective]] = {
    "logistic": (DenseModel("logistic"), TwoClasses(hinge=False, weights=(1.0, 3.0))),
    "svm": (DenseModel("svm", outputs=3), Classes(3, hinge=True)),
    "linear": (DenseModel("linear"), Number(0.0, 1.0)),
    "mlp": (DenseModel("mlp", (6, 5), 3), Classes(3, hinge=False, weights=(1.0, 2.0, 0.5))),
    "cnn": (ConvolutionalModel("cnn", (4,), (1, 6, 6), 3, norm_groups=2), Classes(3, hinge=False)),
    "gru": (SequenceModel("gru", 4, (WINDOW,), FEATURES), NextCharacter(FEATURES)),
    "transformer": (SequenceModel("transformer", 4, (WINDOW,), FEATURES, 1, 2), NextCharacter(FEATURES)),
}
every_case = pytest.mark.parametrize("kind", CASES)


def drawn(spec: ModelSpec, goal: Objective) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Inputs and targets of NODES times RECORDS records."""
    rng = np.random.default_rng(5)
    shape = (NODES, RECORDS)
    if isinstance(spec, SequenceModel):
        targets = rng.integers(0, FEATURES, (*shape, WINDOW))
        targets[:, ::2, 4:] = PADDING
        return rng.integers(0, FEATURES, (*shape, WINDOW)), targets
    sizes = spec.inputs if isinstance(spec, ConvolutionalModel) else (FEATURES,)
    inputs = rng.normal(size=(*shape, *sizes)).astype(np.float32)
    if isinstance(goal, Number):
        return inputs, rng.uniform(-1, 1, shape).astype(np.float32)
    classes = goal.count if isinstance(goal, Classes) else 2
    labels = rng.integers(0, classes, shape)
    return inputs, labels if isinstance(goal, Classes) else labels.astype(np.float32)


def start(dimension: int) -> NDArray[np.float64]:
    rows: NDArray[np.float32] = (
        np.random.default_rng(1).normal(size=(NODES, dimension)).astype(np.float32) * 0.4
    )
    return rows.astype(np.float64)


@every_case
@pytest.mark.parametrize("clip_norm", [None, 0.2], ids=["plain", "clipped"])
def test_a_step_is_that_of_every_node(kind: str, clip_norm: float | None) -> None:
    spec, goal = CASES[kind]
    model, together = Model(spec, FEATURES, goal), stack(spec, FEATURES, goal)
    inputs, targets = drawn(spec, goal)
    present = np.arange(RECORDS) < np.array([RECORDS, 3, 1, 0])[:, None]
    before = start(together.dimension)
    rows = torch.from_numpy(before).float()
    batch = Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.from_numpy(present).float())
    with torch.no_grad():
        together.step(rows, batch, RATE, clip_norm)
    for node in range(NODES):
        chosen = present[node]
        bound = float("inf") if clip_norm is None else clip_norm
        gradient = model.summed_gradient(before[node], inputs[node][chosen], targets[node][chosen], bound)
        np.testing.assert_allclose(rows[node].numpy(), before[node] - RATE * gradient, rtol=2e-4, atol=2e-5)
    assert np.array_equal(rows[3].numpy(), before[3])


@every_case
def test_outputs_are_those_of_every_node(kind: str) -> None:
    spec, goal = CASES[kind]
    model, together = Model(spec, FEATURES, goal), stack(spec, FEATURES, goal)
    inputs = drawn(spec, goal)[0][0]
    rows = start(together.dimension)
    with torch.no_grad():
        found = together.outputs(torch.from_numpy(rows).float(), torch.from_numpy(inputs))
    for node in range(NODES):
        np.testing.assert_allclose(
            found[node].numpy(), model.outputs(rows[node], inputs), rtol=1e-3, atol=1e-5
        )


def test_per_record_gradients_are_written_out_for_few_nodes_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec, goal = CASES["cnn"]
    inputs, targets = drawn(spec, goal)
    batch = Batch(torch.from_numpy(inputs), torch.from_numpy(targets), torch.ones(NODES, RECORDS))
    found = []
    for most in (1, 1 << 26):
        monkeypatch.setattr(stacks, "_MOST_GRADIENTS", most)
        together = stack(spec, FEATURES, goal)
        rows = torch.from_numpy(start(together.dimension)).float()
        together.step(rows, batch, RATE, 0.2)
        found.append(rows)
    torch.testing.assert_close(*found)


def test_dense_models_take_the_fast_way() -> None:
    assert isinstance(stack(*CASES["mlp"][:1], FEATURES, CASES["mlp"][1]), DenseStack)
