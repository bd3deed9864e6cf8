"""Networks that are a chain of linear layers, with the slopes of their loss given."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from clipping.compositions import composition
from clipping.oracle import CLIP_NORMS, agree, build, spread, values
from torch import Tensor, nn

from p2pfl.node.training.clipping import ClippedGradient
from p2pfl.node.training.clipping.chain import Chain


def slopes(outputs: Tensor, targets: Tensor) -> Tensor:
    """∂ spread / ∂ outputs."""
    flat = outputs.reshape(len(outputs), -1)
    slope = torch.cos(flat + torch.arange(flat.shape[1]).to(flat)) * targets[:, None].to(flat)
    return slope.view(outputs.shape)


class Hidden(nn.ModuleList):
    """A chain in words of its own."""

    def __init__(self) -> None:
        super().__init__([nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 1)])

    def forward(self, values: Tensor) -> Any:
        values = values.flatten(1)
        for at, layer in enumerate(self):
            values = layer(values if at == 0 else torch.tanh(values))
        return values.squeeze(-1)


CHAINS = {
    "linear": (lambda: nn.Linear(6, 3), values(9, 6)),
    "on sequences": (
        lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)),
        values(9, 2, 6),
    ),
    "of modules": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)),
        values(9, 2, 3),
    ),
    "in words": (Hidden, values(9, 3, 2)),
}
chain = pytest.mark.parametrize(("make", "inputs"), CHAINS.values(), ids=list(CHAINS))


@chain
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("clip_norm", CLIP_NORMS)
def test_chains(
    quick: None, make: Callable[[], nn.Module], inputs: Tensor, clip_norm: float, dtype: torch.dtype
) -> None:
    clipped = agree(build(make, dtype), inputs.to(dtype), clip_norm, slopes=slopes)
    assert isinstance(clipped._engine, Chain)


@chain
def test_chains_with_frozen_parameters(make: Callable[[], nn.Module], inputs: Tensor) -> None:
    module = build(make)
    for frozen, _ in module.named_parameters():
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name != frozen)
        agree(module, inputs, 0.7, slopes=slopes)


@composition
def test_what_is_no_chain_does_without_slopes(
    quick: None, make: Callable[[], nn.Module], inputs: Tensor
) -> None:
    agree(build(make), inputs, 0.7, slopes=slopes)


def test_wrong_slopes_are_refused() -> None:
    clipped = ClippedGradient(build(lambda: nn.Linear(6, 3)), spread, lambda outputs, targets: outputs)
    with pytest.raises(ValueError, match="slopes"):
        clipped(values(4, 6), torch.ones(4), 1.0)
