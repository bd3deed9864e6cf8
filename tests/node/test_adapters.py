"""Models with a frozen backbone against the plain network that they stand for, a record at a time."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call

from p2pfl.gossip.manifest import ConvolutionalModel, DenseModel, SequenceModel
from p2pfl.node.errors import DataError
from p2pfl.node.training.adapters import Adapted
from p2pfl.node.training.models import Model
from p2pfl.node.training.networks import network
from p2pfl.node.training.objectives import Classes, NextCharacter, Objective

Built = DenseModel | ConvolutionalModel | SequenceModel
Case = tuple[Built, int, Objective]
CASES: list[Case] = [
    (DenseModel("mlp", (5, 4), 3), 70, Classes(3, False)),
    (ConvolutionalModel("cnn", (4, 6), (2, 7, 5), 3, (5,), 3, 2), 70, Classes(3, False)),
    (SequenceModel("gru", 4, (6,), 5), 5, NextCharacter(5)),
    (SequenceModel("transformer", 4, (6,), 5, 1, 2), 5, NextCharacter(5)),
]
PARTS = [
    pytest.param(spec, features, goal, train, rank, id=f"{spec.kind}-{train}")
    for spec, features, goal in CASES
    for train, rank in (("head", 0), ("adapters", 2))
]
frozen = pytest.mark.parametrize(("spec", "features", "goal", "train", "rank"), PARTS)


def tensors(spec: Built, features: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    shapes = {name: shape for layer in spec.every_layer(features) for name, shape in layer.tensors.items()}
    return {name: rng.normal(0.1, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def made(
    spec: Built, features: int, goal: Objective, train: str, rank: int, dtype: torch.dtype = torch.float64
) -> Model:
    part = replace(spec, backbone="0" * 64, train=train, rank=rank)  # type: ignore[arg-type]  # parametrized
    part.check_parts(features)
    return Model(part, features, goal, dtype, tensors(spec, features))


def records(spec: Built, count: int = 9) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    rng = np.random.default_rng(2)
    if isinstance(spec, SequenceModel):
        return rng.integers(0, 5, (count, 6)), rng.integers(0, 5, (count, 6))
    return rng.normal(size=(count, 2, 7, 5)), rng.integers(0, 3, count)


def plain_weights(model: Model, spec: Built, features: int, vector: Tensor) -> dict[str, Tensor]:
    """Of the network without adapters that computes the same: W + up · down, written out."""
    weights = {name: torch.from_numpy(each).double() for name, each in tensors(spec, features).items()}
    given = {slot.name: vector[slot.start : slot.stop].view(slot.shape) for slot in model.layout}
    for name, down in given.items():
        if name.endswith(".down.weight"):
            layer = name.removesuffix(".down.weight")
            product = given[f"{layer}.up.weight"].flatten(1) @ down.flatten(1)
            weights[f"{layer}.weight"] = weights[f"{layer}.weight"] + product.view_as(
                weights[f"{layer}.weight"]
            )
        elif not name.endswith(".up.weight"):
            weights[name] = given[name]
    return weights


@frozen
def test_the_vector_is_as_long_as_the_manifest_counts(
    spec: Built, features: int, goal: Objective, train: str, rank: int
) -> None:
    part = replace(spec, backbone="0" * 64, train=train, rank=rank)  # type: ignore[arg-type]  # parametrized
    model = made(spec, features, goal, train, rank)
    assert model.dimension == part.parameters(features) < spec.parameters(features)
    assert part.allocated(features) == sum(each.numel() for each in network(part, features).parameters())


@frozen
@pytest.mark.parametrize("norm", [0.3, math.inf])
def test_clipped_gradients_against_the_plain_network_a_record_at_a_time(
    spec: Built, features: int, goal: Objective, train: str, rank: int, norm: float
) -> None:
    model, (inputs, targets) = made(spec, features, goal, train, rank), records(spec)
    vector = np.random.default_rng(1).normal(size=model.dimension) * 0.3
    module, total, clipped = network(spec, features).double(), np.zeros(model.dimension), 0
    least = norm / (1 + 2.0**-12)  # room for what rounding adds
    for record, target in zip(torch.from_numpy(inputs), torch.from_numpy(targets), strict=True):
        at = torch.from_numpy(vector).requires_grad_()
        outputs = functional_call(module, plain_weights(model, spec, features, at), (record[None],))
        [found] = torch.autograd.grad(goal.losses(outputs, target[None])[0], at)
        gradient, length = found.numpy(), float(found.norm())
        total += gradient if length <= least else gradient * (least / length)
        clipped += length > least
    assert model.summed_gradient(vector, inputs, targets, norm) == pytest.approx(total, rel=1e-9, abs=1e-9)
    assert clipped > 0 or norm == math.inf


@frozen
def test_it_starts_as_its_backbone_with_a_head_of_zeros(
    spec: Built, features: int, goal: Objective, train: str, rank: int
) -> None:
    model, (inputs, _) = made(spec, features, goal, train, rank), records(spec)
    start, head = model.initial(b"seed"), spec.every_layer(features)[-1]
    assert not model.outputs(start, inputs).any()
    slots = {slot.name: slot for slot in model.layout}
    whole = tensors(spec, features)
    for name in head.tensors:
        start[slots[name].start : slots[name].stop] = whole[name].ravel()
    parameters = {name: torch.from_numpy(each).double() for name, each in whole.items()}
    given = torch.from_numpy(inputs)
    expected = functional_call(network(spec, features).double(), parameters, (given,)).detach().numpy()
    assert model.outputs(start, inputs) == pytest.approx(expected, abs=1e-12)
    moved = model.summed_gradient(start, *records(spec), math.inf)
    ups = [slot for slot in model.layout if slot.name.endswith(".up.weight")]
    assert bool(ups) == (train == "adapters")
    assert all(moved[slot.start : slot.stop].any() for slot in ups)


def test_what_is_frozen_gets_no_gradient_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, features, goal = CASES[1]
    model = made(spec, features, goal, "adapters", 2)
    asked: list[int] = []
    real: Any = torch.autograd.grad

    def noted(outputs: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
        asked.append(len(inputs))
        return real(outputs, inputs, *rest, **named)

    module = model._module
    before = {name: each.clone() for name, each in module.named_parameters() if not each.requires_grad}
    model.summed_gradient(model.initial(b""), *records(spec), 0.5)
    monkeypatch.setattr(torch.autograd, "grad", noted)
    model.summed_gradient(model.initial(b"") + 0.1, *records(spec), 0.5)
    assert asked == [2 * sum(isinstance(each, Adapted) for each in module.modules()) + 1]
    assert before
    assert all(torch.equal(module.get_parameter(name), each) for name, each in before.items())


def test_a_backbone_that_does_not_fit_is_refused() -> None:
    spec, features, goal = CASES[0]
    part = replace(spec, backbone="0" * 64, train="head")
    good = tensors(spec, features)
    Model(
        part, features, goal, backbone=good | {"unknown": good["0.bias"], "2.weight": np.zeros((9, 4), "f4")}
    )
    with pytest.raises(
        DataError, match=r"needs 1\.bias of shape \(4,\), and the backbone has no such tensor"
    ):
        Model(part, features, goal, backbone={name: each for name, each in good.items() if name != "1.bias"})
    with pytest.raises(DataError, match=r"0\.weight of shape \(5, 70\), and the backbone has one of shape"):
        Model(part, features, goal, backbone=good | {"0.weight": good["0.weight"].T})
    with pytest.raises(DataError, match="no such tensor"):
        Model(part, features, goal)
