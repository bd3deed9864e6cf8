"""Sums of clipped gradients of whole networks against the oracle."""

import math
from collections.abc import Callable

import pytest
import torch
from clipping.compositions import composition
from clipping.oracle import CLIP_NORMS, Apply, agree, build, spread, values
from torch import Tensor, nn

from p2pfl.node.training.clipping import ClippedGradient


@composition
@pytest.mark.parametrize("clip_norm", CLIP_NORMS)
def test_compositions(quick: None, make: Callable[[], nn.Module], inputs: Tensor, clip_norm: float) -> None:
    agree(build(make), inputs, clip_norm)


@composition
def test_single_precision(quick: None, make: Callable[[], nn.Module], inputs: Tensor) -> None:
    agree(build(make, torch.float32), inputs if inputs.dtype == torch.int64 else inputs.float(), 0.7)


@composition
def test_frozen_parameters_are_no_part_of_it(
    quick: None, make: Callable[[], nn.Module], inputs: Tensor
) -> None:
    module = build(make)
    names = [name for name, _ in module.named_parameters()]
    for frozen in names:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name != frozen)
        clipped = agree(module, inputs, 0.7)
        assert [slot.name for slot in clipped.layout] == [name for name in names if name != frozen]


@pytest.mark.parametrize("channels", [1, 2])
def test_images_lie_with_channels_last(quick: None, channels: int) -> None:
    """In the usual order torch takes several times as long to pool them."""

    def look(values: Tensor) -> Tensor:
        seen.append(values.is_contiguous(memory_format=torch.channels_last))
        return values

    seen: list[bool] = []
    layers = nn.Conv2d(channels, 4, 3), Apply(look), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    module, inputs = build(lambda: nn.Sequential(*layers)), values(9, channels, 6, 6)
    agree(module, inputs, 0.7)
    seen.clear()
    clipped = ClippedGradient(module, spread)
    for clip_norm in (0.7, math.inf):
        clipped(inputs, torch.ones(len(inputs)), clip_norm)
    assert seen == [True] * 3  # two records are tried first


def test_a_module_that_counts_on_the_usual_order_gets_it(quick: None) -> None:
    rows = Apply(lambda values: values.view(len(values), -1))
    agree(build(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), rows, nn.Linear(16, 3))), values(9, 2, 4, 4), 0.7)
