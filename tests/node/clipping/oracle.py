"""Sums of clipped gradients the slow obvious way: one record, one backward pass at a time."""

import math
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from p2pfl.node.training.clipping import ClippedGradient

CLIP_NORMS = (1e-9, 0.05, 0.7, 5.0, math.inf)


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Any:
        return self.function(values)


def spread(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that depends on every output in a way of its own; ``targets`` scale a record's gradient."""
    flat = outputs.reshape(len(outputs), -1)
    return (torch.sin(flat + torch.arange(flat.shape[1]).to(flat)) * targets[:, None].to(flat)).sum(1)


def gradients(module: nn.Module, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """Of every record, as vectors in the order of named_parameters()."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    found = []
    for at in range(len(inputs)):
        loss = spread(module(inputs[at : at + 1]), targets[at : at + 1])[0]
        parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        found.append(torch.cat([part.flatten() for part in parts]))
    return found


def oracle(module: nn.Module, inputs: Tensor, targets: Tensor, clip_norm: float) -> Tensor:
    total = torch.zeros(sum(p.numel() for p in module.parameters() if p.requires_grad)).double()
    for gradient in gradients(module, inputs, targets):
        norm = float(gradient.double().norm())
        total += gradient.double() * (1.0 if norm <= clip_norm else clip_norm / norm)
    return total


def agree(
    module: nn.Module,
    inputs: Tensor,
    clip_norm: float,
    memory: int = 1 << 26,
    slopes: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> ClippedGradient:
    """Asserts that the sum is the oracle's, to 1e-11 of the largest it can be in float64, 1e-3 in float32."""
    targets = torch.linspace(-2.0, 2.0, len(inputs))
    clipped = ClippedGradient(module, spread, slopes, memory)
    expected = oracle(module, inputs, targets, clip_norm)
    found = clipped(inputs, targets, clip_norm)
    exact = found.dtype == torch.float64
    norms = [min(clip_norm, float(gradient.norm())) for gradient in gradients(module, inputs, targets)]
    assert found.shape == expected.shape == (clipped.dimension,)
    assert float((found.double() - expected).norm()) <= (1e-11 if exact else 1e-3) * sum(norms)
    assert clipped.left_out == 0
    return clipped


def build(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    return make().to(dtype)


def values(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def indices(most: int, *shape: int) -> Tensor:
    return torch.randint(most, shape, generator=torch.Generator().manual_seed(3))


clip_norms = st.sampled_from(CLIP_NORMS)
dtypes = st.sampled_from([torch.float64, torch.float32])
