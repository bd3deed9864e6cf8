"""Every network that a manifest can name: its size, its start, its clipped gradient."""

import hashlib
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.func import functional_call

from p2pfl.gossip.manifest import ConvolutionalModel, DenseModel, ModelSpec, SequenceModel
from p2pfl.gossip.model_layers import Parts
from p2pfl.node.training import models
from p2pfl.node.training.drawn import drawn_layers
from p2pfl.node.training.models import Model, precision_for
from p2pfl.node.training.networks import network
from p2pfl.node.training.objectives import Classes, NextCharacter, Number, Objective

torch.set_num_threads(1)
Case = tuple[ModelSpec, int, Objective]
PICTURES: list[Case] = [
    (DenseModel("logistic", outputs=3), 70, Classes(3, False)),
    (DenseModel("svm", outputs=3), 70, Classes(3, True)),
    (DenseModel("mlp", (5,), 3), 70, Classes(3, False)),
    (ConvolutionalModel("cnn", (4,), (2, 7, 5), 3), 70, Classes(3, False)),
    (ConvolutionalModel("cnn", (4, 6), (2, 7, 5), 3, (5,), 3, 2), 70, Classes(3, False)),
]
TEXTS: list[Case] = [
    (SequenceModel("gru", 4, (6,), 5), 5, NextCharacter(5)),
    (SequenceModel("gru", 4, (6,), 5, 2), 5, NextCharacter(5)),
    (SequenceModel("transformer", 4, (6,), 5), 5, NextCharacter(5)),
    (SequenceModel("transformer", 4, (6,), 5, 2, 2), 5, NextCharacter(5)),
]
TABLES: list[Case] = [(DenseModel("mlp", (4, 3)), 70, Number(0, 1))]


def name(case: object) -> str | None:
    return f"{case[0].kind}{case[0].parameters(case[1])}" if isinstance(case, tuple) else None


CASES = pytest.mark.parametrize("case", [*PICTURES, *TEXTS, *TABLES], ids=name)


def records(case: Case, count: int = 9) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    rng = np.random.default_rng(2)
    if case in TEXTS:
        targets = rng.integers(0, 5, (count, 6)).astype(np.int16)
        targets[::2, 4:] = -1
        return rng.integers(0, 5, (count, 6)).astype(np.int16), targets
    pictures = rng.normal(size=(count, 2, 7, 5))
    return pictures, rng.normal(size=count) if case in TABLES else rng.integers(0, 3, count)


def anywhere(case: Case) -> NDArray[np.float64]:
    return np.random.default_rng(1).normal(size=case[0].parameters(case[1])) * 0.3


@CASES
def test_a_network_starts_as_the_layers_of_the_manifest_do(case: Case) -> None:
    spec, features, goal = case
    assert isinstance(spec, Parts)
    start = drawn_layers(spec.every_layer(features), b"seed")
    assert start.tolist() == Model(spec, features, goal).initial(b"seed").tolist()


@CASES
def test_a_network_has_as_many_parameters_as_the_manifest_counts(case: Case) -> None:
    spec, features, goal = case
    model = Model(spec, features, goal)
    assert model.dimension == spec.parameters(features)
    edges = [0, *(slot.stop for slot in model.layout)]
    assert [slot.start for slot in model.layout] == edges[:-1]


@CASES
@pytest.mark.parametrize(
    ("dtype", "off", "norm"),
    [(torch.float64, 1e-9, 0.3), (torch.float64, 1e-9, math.inf), (torch.float32, 2e-3, 0.3)],
)
def test_clipped_gradients_against_one_record_at_a_time(
    case: Case, dtype: torch.dtype, off: float, norm: float
) -> None:
    spec, features, goal = case
    inputs, targets = records(case)
    model = Model(spec, features, goal, dtype)
    found = model.summed_gradient(anywhere(case), inputs, targets, norm)
    assert found.dtype == np.float64
    room = {torch.float64: 2.0**-12, torch.float32: 2.0**-9}[dtype]  # left for what rounding adds
    assert found == pytest.approx(slow_sum(case, inputs, targets, norm / (1 + room)), rel=off, abs=off)
    assert not model.summed_gradient(anywhere(case), inputs[:0], targets[:0], norm).any()


def slow_sum(
    case: Case, inputs: NDArray[np.generic], targets: NDArray[np.generic], norm: float
) -> NDArray[np.float64]:
    spec, features, goal = case
    module = network(spec, features).double()
    layout = Model(spec, features, goal).layout
    vector = torch.from_numpy(anywhere(case))

    total = torch.zeros_like(vector)
    for record, target in zip(torch.from_numpy(inputs), torch.from_numpy(targets), strict=True):
        at = vector.clone().requires_grad_()
        parameters = {slot.name: at[slot.start : slot.stop].view(slot.shape) for slot in layout}
        given = record if record.is_floating_point() else record.long()
        loss = goal.losses(functional_call(module, parameters, (given[None],)), target[None])[0]
        [gradient] = torch.autograd.grad(loss, at)
        length = float(gradient.norm())
        total += gradient if length <= norm else gradient * (norm / length)
    found: NDArray[np.float64] = total.numpy()
    return found


@CASES
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_record_has_more_than_the_clip_norm(case: Case, dtype: torch.dtype) -> None:
    spec, features, goal = case
    model, (inputs, targets) = Model(spec, features, goal, dtype), records(case, 8)
    norms = [
        np.linalg.norm(model.summed_gradient(anywhere(case), inputs[at : at + 1], targets[at : at + 1], 1e-3))
        for at in range(8)
    ]
    room = 2.0**-11 if dtype == torch.float32 else 2.0**-41  # what rounding is left
    assert max(norms) <= 1e-3 * (1 - room)
    assert max(norms) > 0.99e-3


@CASES
def test_it_starts_at_the_same_place_everywhere(case: Case) -> None:
    spec, features, goal = case
    torch.manual_seed(5)
    first = Model(spec, features, goal).initial(b"seed")
    torch.manual_seed(6)
    assert first.tolist() == Model(spec, features, goal, torch.float32).initial(b"seed").tolist()
    model, (inputs, _) = Model(spec, features, goal), records(case)
    assert not model.outputs(first, inputs).any()  # the last layer is zero
    for slot in model.layout:
        part = first[slot.start : slot.stop]
        if "norm" in slot.name:
            assert set(part) == ({1.0} if slot.name.endswith("weight") else {0.0})
        elif len(slot.shape) == 1:
            assert not part.any()
        else:
            assert np.abs(part).max(initial=0) <= 1 / math.sqrt(math.prod(slot.shape[1:]))


def test_the_start_is_pinned() -> None:
    """Another platform or version must not start elsewhere."""
    found = {
        case[0].kind: hashlib.sha256(Model(*case).initial(b"seed").tobytes()).hexdigest()[:16]
        for case in (*PICTURES[2:], *TEXTS)
    }
    assert found == {
        "mlp": "5dcd606cc75b04eb",
        "cnn": "6108cfb8fd703c3a",
        "gru": "4480c672da1effc0",
        "transformer": "e6144e89db31849e",
    }


@CASES
def test_blocks_do_not_matter(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, features, goal = case
    inputs, _ = records(case)
    whole = Model(spec, features, goal).outputs(anywhere(case), inputs)
    monkeypatch.setattr(models, "_BLOCK_ELEMENTS", 4 * spec.activations(features))
    model = Model(spec, features, goal)
    assert model.block == 4
    assert model.outputs(anywhere(case), inputs) == pytest.approx(whole, abs=1e-12)


def test_a_transformer_does_not_look_ahead() -> None:
    for case in TEXTS:
        model, (inputs, _) = Model(*case), records(case)
        changed = inputs.copy()
        changed[:, 3] = (changed[:, 3] + 1) % 5
        before, after = (model.outputs(anywhere(case), given) for given in (inputs, changed))
        assert before[:, :3].tolist() == after[:, :3].tolist()
        assert (before[:, 3:] != after[:, 3:]).any(axis=(1, 2)).all()


def test_large_models_compute_in_single_precision() -> None:
    assert precision_for(DenseModel("logistic"), 784) == torch.float64
    assert precision_for(DenseModel("mlp", (256,), 10), 784) == torch.float32
    assert precision_for(TEXTS[0][0], 5) == torch.float32
