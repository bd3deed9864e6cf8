"""How each kind of layer turns its input and the gradient at its output into gradients of its parameters.

The first dimension is the record's everywhere. Layers whose parameters act on every position alike (Linear on
sequences, convolutions, embeddings) give sums over positions, left to :mod:`.terms`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import group_norm, layer_norm, pad

from p2pfl.node.training.clipping.terms import Explicit, Outer, Product, Scattered, Term, Turned, compact

_WINDOWS: Final = 1 << 17
"""Entries of windows made at a time, so that they are used while the cache has them."""

Uses = Iterator[tuple[Tensor, Term]]


def linear(layer: nn.Linear, inputs: Tensor, gradients: Tensor) -> Uses:
    """Inputs (B, …, R), gradients (B, …, L)."""
    plain = inputs.dim() == 2
    if layer.weight.requires_grad:
        if plain:
            yield layer.weight, Product(gradients, inputs)
        else:
            yield layer.weight, Outer(_sequence(gradients)[:, None], _sequence(inputs)[:, None])
    if layer.bias is not None and layer.bias.requires_grad:
        yield layer.bias, Explicit(gradients if plain else _sequence(gradients).sum(1))


def convolution(layer: nn.Conv1d | nn.Conv2d, inputs: Tensor, gradients: Tensor) -> Uses:
    """Inputs (B, C, *size), gradients (B, O, *positions)."""
    if layer.weight.requires_grad:
        outs, channels, *kernel = layer.weight.shape
        left = gradients.reshape(len(inputs), layer.groups, outs // layer.groups, -1).mT
        windows = Windows(layer, tuple(gradients.shape[2:]))
        term: Term = _convolved(windows, left, inputs)
        yield layer.weight, Turned(term, (outs, channels, math.prod(kernel)))
    if layer.bias is not None and layer.bias.requires_grad:
        yield layer.bias, Explicit(gradients.flatten(2).sum(2))


def _convolved(windows: "Windows", left: Tensor, inputs: Tensor) -> Term:
    """Gradients with channels last. ``left``: (B, groups, P, O / groups)."""
    records, groups, places, outs = left.shape
    if compact(groups, places, outs, windows.entries):
        return Outer(left, windows.of(inputs))
    rows = left.new_empty(records, groups, outs, windows.entries)
    step = max(1, _WINDOWS // (groups * places * windows.entries))
    for start in range(0, records, step):
        part = slice(start, start + step)
        seen = windows.of(inputs[part])
        torch.bmm(left[part].mT.flatten(0, 1), seen.flatten(0, 1), out=rows[part].flatten(0, 1))
    return Explicit(rows.flatten(1))


def embedding(layer: nn.Embedding, inputs: Tensor, gradients: Tensor) -> Uses:
    """Indices (B, …), gradients (B, …, D)."""
    indices, values = inputs.reshape(len(inputs), -1), _sequence(gradients)
    if layer.padding_idx is not None:
        values = values.masked_fill((indices == layer.padding_idx)[..., None], 0)
    yield layer.weight, Scattered(indices, values, layer.num_embeddings)


def layer_normalisation(layer: nn.LayerNorm, inputs: Tensor, gradients: Tensor) -> Uses:
    """Both (B, …, *normalized_shape)."""
    shape = layer.normalized_shape
    normal = layer_norm(inputs, shape, eps=layer.eps)
    entries = (len(inputs), math.prod(inputs.shape[1 : inputs.dim() - len(shape)]), math.prod(shape))
    for parameter, values in ((layer.weight, normal.mul_(gradients)), (layer.bias, gradients)):
        if parameter is not None and parameter.requires_grad:
            yield parameter, Explicit(values.reshape(entries).sum(1))


def group_normalisation(layer: nn.GroupNorm, inputs: Tensor, gradients: Tensor) -> Uses:
    """Both (B, C, …)."""
    normal = group_norm(inputs, layer.num_groups, eps=layer.eps)
    entries = (len(inputs), layer.num_channels, math.prod(inputs.shape[2:]))
    for parameter, values in ((layer.weight, normal.mul_(gradients)), (layer.bias, gradients)):
        if parameter is not None and parameter.requires_grad:
            yield parameter, Explicit(values.reshape(entries).sum(2))


def _sequence(values: Tensor) -> Tensor:
    """``values`` of shape (B, …, n) as (B, P, n)."""
    return values[:, None] if values.dim() == 2 else values.flatten(1, -2)


@dataclass(frozen=True, slots=True)
class Windows:
    """What the kernel of ``layer`` sees at each of ``positions``."""

    layer: nn.Conv1d | nn.Conv2d
    positions: tuple[int, ...]

    @property
    def entries(self) -> int:
        """Inputs that one output of a group depends on."""
        return self.layer.weight[0].numel()

    def of(self, inputs: Tensor) -> Tensor:
        """Shape (B, groups, P, entries), channels last: what lies together is then copied together."""
        layer, mode = self.layer, self.layer.padding_mode
        sides = layer._reversed_padding_repeated_twice
        padded = pad(inputs, sides, mode="constant" if mode == "zeros" else mode).movedim(1, -1).contiguous()
        (record, *along, channel), part = padded.stride(), padded.shape[-1] // layer.groups
        moves = (step * stride for step, stride in zip(along, layer.stride, strict=True))
        taps = (step * dilation for step, dilation in zip(along, layer.dilation, strict=True))
        shape = (len(padded), layer.groups, *self.positions, *layer.kernel_size, part)
        seen = padded.as_strided(shape, (record, part, *moves, *taps, channel))
        return seen.reshape(len(padded), layer.groups, math.prod(self.positions), self.entries)


RULES: Final[dict[type[nn.Module], Callable[[Any, Tensor, Tensor], Uses]]] = {
    nn.Linear: linear,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.Embedding: embedding,
    nn.LayerNorm: layer_normalisation,
    nn.GroupNorm: group_normalisation,
}
"""Exactly these types: a subclass may compute something else."""
