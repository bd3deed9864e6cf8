"""The models of all nodes at once: row i of one matrix is node i's flat vector, as a node lays it out.

A step moves every row by its own batch. Dense models are batched matrix products, whose gradients exist for
one layer at a time; every other network goes through ``torch.func.vmap``. What is clipped is clipped per
record: for dense layers the norm of a record's gradient follows from its inputs and output slopes alone
(ghost norms: Goodfellow, "Efficient per-example gradient computations", 2015).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from p2pfl.gossip.manifest import DenseModel, ModelSpec
from p2pfl.node.training.networks import network
from p2pfl.node.training.objectives import Classes, Objective

_MOST_GRADIENTS = 1 << 26
"""Numbers of per-record gradients that exist at once where they have to be written out."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A batch of every node: ``inputs`` (n, b, …), ``targets`` (n, b, …), ``present`` (n, b) of 0 and 1.

    Batches differ in length; what is not present counts for nothing.
    """

    inputs: Tensor
    targets: Tensor
    present: Tensor


class Stack(Protocol):
    """``parameters``: float32 (n, dimension), one row a node."""

    dimension: int

    def step(self, parameters: Tensor, batch: Batch, rate: float, clip_norm: float | None) -> None:
        """Subtract from every row ``rate`` times the sum of its batch's gradients, in place.

        Each is cut to the L2 norm ``clip_norm`` first, unless that is None.
        """

    def outputs(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """What every node's model gives for the same ``inputs`` (m, …): (n, m) or (n, m, outputs)."""


def stack(spec: ModelSpec, features: int, objective: Objective) -> Stack:
    """The fastest form of ``spec`` over ``features`` inputs."""
    if isinstance(spec, DenseModel):
        return DenseStack((features, *spec.hidden, spec.outputs), objective)
    return ModuleStack(network(spec, features), objective)


class DenseStack:
    """Linear layers of ``widths`` with tanh between them.

    Values and slopes are (n, width, b) in here: the products are faster that way, and the softmax much.
    """

    def __init__(self, widths: Sequence[int], objective: Objective) -> None:
        self._shapes = [(after, before) for before, after in pairwise(widths)]
        self._objective = objective
        self.dimension = sum((before + 1) * after for after, before in self._shapes)

    def step(self, parameters: Tensor, batch: Batch, rate: float, clip_norm: float | None) -> None:
        """See :class:`Stack`."""
        layers = self._layers(parameters)
        inputs, outputs = self._forward(layers, batch.inputs.flatten(2).mT)
        slopes = self._slopes(layers, inputs, self._last_slopes(outputs, batch))
        if clip_norm is not None:
            factors = _clip_factors(inputs, slopes, clip_norm)
            for slope in slopes:
                slope.mul_(factors)
        for (weights, biases), values, slope in zip(layers, inputs, slopes, strict=True):
            weights.sub_(torch.bmm(slope, values.mT), alpha=rate)
            biases.sub_(slope.sum(2), alpha=rate)

    def outputs(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """See :class:`Stack`."""
        values = inputs.flatten(1).expand(len(parameters), -1, -1)
        return self._forward(self._layers(parameters), values.mT)[1].mT.squeeze(-1)

    def _layers(self, parameters: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Views of each layer's weights (n, after, before) and biases (n, after)."""
        layers, start = [], 0
        for after, before in self._shapes:
            middle, stop = start + after * before, start + after * (before + 1)
            layers.append((parameters[:, start:middle].view(-1, after, before), parameters[:, middle:stop]))
            start = stop
        return layers

    def _forward(self, layers: list[tuple[Tensor, Tensor]], values: Tensor) -> tuple[list[Tensor], Tensor]:
        """What goes into each layer, and what comes out of the last."""
        inputs: list[Tensor] = []
        for weights, biases in layers:
            values = _tanh_(values) if inputs else values
            inputs.append(values)
            values = torch.baddbmm(biases.unsqueeze(2), weights, values)
        return inputs, values

    def _last_slopes(self, outputs: Tensor, batch: Batch) -> Tensor:
        if isinstance(self._objective, Classes) and not self._objective.hinge:
            slopes = _class_slopes(self._objective, outputs, batch.targets)
        else:
            found = self._objective.slopes(outputs.mT.squeeze(-1), batch.targets)
            slopes = found.reshape(outputs.mT.shape).mT
        return slopes * batch.present.unsqueeze(1)

    def _slopes(
        self, layers: list[tuple[Tensor, Tensor]], inputs: list[Tensor], last: Tensor
    ) -> list[Tensor]:
        """The slopes of the losses by what each layer gives."""
        slopes = [last]
        for (weights, _), values in zip(layers[:0:-1], inputs[:0:-1], strict=True):
            slopes.append(torch.bmm(weights.mT, slopes[-1]).mul_(1 - values * values))
        return slopes[::-1]


def _tanh_(values: Tensor) -> Tensor:
    """In place, by the logistic function, which torch has three times as fast as its own tanh."""
    return values.mul_(2).sigmoid_().mul_(2).sub_(1)


def _class_slopes(objective: Classes, outputs: Tensor, targets: Tensor) -> Tensor:
    """The objective's own, of outputs (n, classes, b): torch's softmax over few numbers that lie side by side
    costs twenty times that over few that do not.
    """
    right = targets.long().unsqueeze(1)
    slopes = torch.softmax(outputs, 1).scatter_add_(1, right, outputs.new_tensor(-1.0).expand_as(right))
    if objective.weights:
        slopes.mul_(outputs.new_tensor(objective.weights)[right])
    return slopes


def _clip_factors(inputs: list[Tensor], slopes: list[Tensor], clip_norm: float) -> Tensor:
    """min(1, C / |gradient|) of every record, (n, 1, b); a layer with inputs a and slopes g adds
    |g|² (|a|² + 1) to the square of the norm.
    """
    squares = sum(
        slope.square().sum(1) * (values.square().sum(1) + 1)
        for slope, values in zip(slopes, inputs, strict=True)
    )
    assert isinstance(squares, Tensor)
    return (
        (clip_norm * squares.clamp_min_(torch.finfo(squares.dtype).tiny).rsqrt_())
        .clamp_max_(1.0)
        .unsqueeze(1)
    )


class ModuleStack:
    """Any network of the manifest's, by ``torch.func``: slower than :class:`DenseStack`, never different."""

    def __init__(self, module: nn.Module, objective: Objective) -> None:
        self._module = module.requires_grad_(False)
        self._objective = objective
        self._names = [(name, each.shape, each.numel()) for name, each in module.named_parameters()]
        self.dimension = sum(count for _, _, count in self._names)

    def step(self, parameters: Tensor, batch: Batch, rate: float, clip_norm: float | None) -> None:
        """See :class:`Stack`."""
        summed = self._summed if clip_norm is None else partial(self._clipped, clip_norm)
        together = (
            len(parameters)
            if clip_norm is None
            else _MOST_GRADIENTS // (batch.present.shape[1] * self.dimension)
        )
        size = max(1, together)
        for start in range(0, len(parameters), size):
            rows = parameters[start : start + size]
            parts = (each[start : start + size] for each in (batch.inputs, batch.targets, batch.present))
            with sdpa_kernel(SDPBackend.MATH):  # the one attention that vmap knows
                rows.sub_(vmap(summed)(rows, *parts), alpha=rate)

    def outputs(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        """See :class:`Stack`."""
        with sdpa_kernel(SDPBackend.MATH):
            found: Tensor = vmap(self._outputs, in_dims=(0, None))(parameters, inputs)
        return found

    def _outputs(self, row: Tensor, inputs: Tensor) -> Tensor:
        parts = torch.split(row, [count for _, _, count in self._names])
        named = {name: part.view(shape) for part, (name, shape, _) in zip(parts, self._names, strict=True)}
        found: Tensor = functional_call(self._module, named, (inputs,))
        return found

    def _summed(self, row: Tensor, inputs: Tensor, targets: Tensor, present: Tensor) -> Tensor:
        def loss(at: Tensor) -> Tensor:
            return (self._objective.losses(self._outputs(at, inputs), targets) * present).sum()

        gradient: Tensor = grad(loss)(row)
        return gradient

    def _clipped(
        self, clip_norm: float, row: Tensor, inputs: Tensor, targets: Tensor, present: Tensor
    ) -> Tensor:
        def loss(at: Tensor, one: Tensor, target: Tensor) -> Tensor:
            return self._objective.losses(self._outputs(at, one.unsqueeze(0)), target.unsqueeze(0)).sum()

        gradients: Tensor = vmap(grad(loss), in_dims=(None, 0, 0))(row, inputs, targets)
        norms = gradients.norm(dim=1).clamp_min(torch.finfo(gradients.dtype).tiny)
        factors: Tensor = (clip_norm / norms).clamp_max(1.0) * present
        return factors @ gradients
