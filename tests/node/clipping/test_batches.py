"""Batches of any length, in blocks that fit the memory, and the vector that is the module."""

import math
from collections.abc import Callable

import pytest
import torch
from clipping.compositions import composition, images_of_two
from clipping.oracle import Apply, agree, build, indices, oracle, spread, values
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from p2pfl.node.training.clipping import ClippedGradient


@composition
@pytest.mark.parametrize("memory", [0, 4000, 20000])
def test_large_batches_go_in_blocks(make: Callable[[], nn.Module], inputs: Tensor, memory: int) -> None:
    agree(build(make), inputs, 0.7, memory)


def test_blocks_are_of_the_records_that_fit() -> None:
    seen: list[int] = []

    def look(values: Tensor) -> Tensor:
        seen.append(len(values))
        return values

    module = nn.Sequential(Apply(look), nn.Linear(1000, 1))
    clipped = ClippedGradient(module, spread, memory=1 << 15)
    clipped(torch.ones(100, 1000), torch.ones(100), 1.0)
    assert sum(seen[1:]) == 100
    assert seen[0] == 2
    assert 2 <= max(seen) <= 8


@composition
def test_no_records_give_zero(make: Callable[[], nn.Module], inputs: Tensor) -> None:
    clipped = ClippedGradient(build(make), spread)
    for clip_norm in (0.7, math.inf):
        assert not clipped(inputs[:0], torch.empty(0), clip_norm).any()
    agree(clipped._module, inputs, 0.7)


@composition
def test_batches_may_vary(quick: None, make: Callable[[], nn.Module], inputs: Tensor) -> None:
    module, out = build(make), torch.empty(0)
    clipped = ClippedGradient(module, spread)
    out = torch.full_like(clipped.vector, math.nan)
    for count in (1, 9, 0, 4, 1):
        targets = torch.ones(count)
        found = clipped(inputs[:count], targets, 0.7, out=out)
        assert found is out
        torch.testing.assert_close(found, oracle(module, inputs[:count], targets, 0.7), rtol=0, atol=1e-11)


def test_the_vector_is_the_module() -> None:
    module = build(images_of_two)
    clipped = ClippedGradient(module, spread)
    kept = clipped.read()
    parts = [parameter.detach().flatten() for parameter in module.parameters()]
    assert torch.equal(kept, torch.cat(parts))
    clipped.write(torch.zeros(clipped.dimension, dtype=torch.float64))
    assert not any(parameter.any() for parameter in module.parameters())
    assert kept.any()
    for slot, parameter in zip(clipped.layout, module.parameters(), strict=True):
        assert slot.shape == parameter.shape
        assert slot.stop - slot.start == parameter.numel()
    clipped.vector[clipped.layout[0].start] = 3.0
    assert next(module.parameters()).flatten()[0] == 3.0


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, 1e-20])
def test_clip_norms_that_cannot_be(clip_norm: float) -> None:
    clipped = ClippedGradient(nn.Linear(2, 1), spread)
    with pytest.raises(ValueError, match="clip norm"):
        clipped(torch.ones(1, 2), torch.ones(1), clip_norm)


def test_losses_are_one_per_record() -> None:
    clipped = ClippedGradient(nn.Linear(2, 1), lambda outputs, targets: (outputs[:, 0] - targets).mean())
    with pytest.raises(ValueError, match="one per record"):
        clipped(torch.ones(3, 2), torch.ones(3), 1.0)


def test_parameters_of_two_kinds_are_no_vector() -> None:
    with pytest.raises(ValueError, match="float32 or float64"):
        ClippedGradient(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), spread)
    with pytest.raises(ValueError, match="float32 or float64"):
        ClippedGradient(nn.Linear(2, 2).requires_grad_(False), spread)


def test_the_module_is_as_before() -> None:
    """No hooks stay, and no gradients; parameters are what they were."""
    module = build(images_of_two)
    before = [parameter.clone() for parameter in module.parameters()]
    inputs = values(4, 2, 5, 5)
    ClippedGradient(module, lambda o, t: cross_entropy(o, t, reduction="none"))(inputs, indices(3, 4), 1.0)
    for parameter, kept in zip(module.parameters(), before, strict=True):
        assert torch.equal(parameter, kept)
        assert parameter.grad is None
    assert not any(layer._forward_hooks for layer in module.modules())
