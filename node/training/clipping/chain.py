"""Book-keeping without autograd, for straight chains of linear layers and activations.

Models such as logistic regression are so small that autograd's own work would be most of a step. Where the
loss's slope is known in closed form, a chain's backward pass takes a line for each link; torch.fx shows
whether a module is one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.fx import Node, symbolic_trace
from torch.nn import functional

from p2pfl.node.training.clipping.bookkeeping import Losses, Unsupported, collected
from p2pfl.node.training.clipping.layers import linear
from p2pfl.node.training.clipping.parameters import Parameters, Slot
from p2pfl.node.training.clipping.terms import Term

Backward = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From the gradient at a link's output, its input and its output to the gradient at its input."""


def _reshaped(gradient: Tensor, before: Tensor, after: Tensor) -> Tensor:
    return gradient.reshape(before.shape)


def _through_tanh(gradient: Tensor, before: Tensor, after: Tensor) -> Tensor:
    return torch.addcmul(gradient, gradient * after, after, value=-1)


def _through_relu(gradient: Tensor, before: Tensor, after: Tensor) -> Tensor:
    return gradient * (after > 0)


BACKWARD: Final[dict[object, Backward]] = {
    **dict.fromkeys((nn.Flatten, torch.flatten, "flatten", torch.squeeze, "squeeze"), _reshaped),
    **dict.fromkeys((nn.Tanh, torch.tanh, functional.tanh, "tanh"), _through_tanh),
    **dict.fromkeys((nn.ReLU, torch.relu, functional.relu, "relu"), _through_relu),
}
"""By type of module, function, or name of a tensor's method."""


@dataclass(frozen=True, slots=True)
class _Link:
    forward: Callable[[Tensor], Tensor]
    backward: Backward
    layer: nn.Linear | None = None


class Chain:
    """Terms of the gradients of losses whose slopes, ∂ loss / ∂ outputs, are ``slopes(outputs, targets)``."""

    def __init__(self, module: nn.Module, slopes: Losses, parameters: Parameters) -> None:
        """Raises Unsupported if ``module`` is no such chain."""
        self._slopes = slopes
        self._slots = parameters.slots
        self._links = list(_links(module))
        trained = [
            at for at, link in enumerate(self._links) if link.layer is not None and self._trained(link.layer)
        ]
        self._first = trained[0] if trained else len(self._links)

    def terms(self, inputs: Tensor, targets: Tensor) -> list[tuple[Slot, Term]]:
        """The gradients at ``inputs`` and ``targets``; to be called without autograd."""
        values = [inputs]
        for link in self._links:
            values.append(link.forward(values[-1]))
        gradient = self._slopes(values[-1], targets)
        uses: list[tuple[Tensor, Term]] = []
        for at in range(len(self._links) - 1, self._first - 1, -1):
            link = self._links[at]
            if link.layer is not None:
                uses += linear(link.layer, values[at], gradient)
            if at > self._first:
                gradient = link.backward(gradient, values[at], values[at + 1])
        return collected(uses, self._slots)

    def _trained(self, layer: nn.Linear) -> bool:
        return any(parameter in self._slots for parameter in layer.parameters())


def _links(module: nn.Module) -> Iterator[_Link]:
    if type(module) is nn.Linear:  # which torch.fx would look into
        yield _linear(module)
        return
    try:
        traced = symbolic_trace(module)
    except Exception as error:
        raise Unsupported("the module cannot be traced") from error
    given, *steps, output = traced.graph.nodes
    before = given
    for node in steps:
        if node.args[:1] != (before,) or before in (*node.args[1:], *node.kwargs.values()):
            raise Unsupported("the module is no chain")
        yield _link(node, traced)
        before = node
    if output.args != (before,):
        raise Unsupported("the module is no chain")


def _link(node: Node, module: nn.Module) -> _Link:
    kind, forward = _operation(node, module)
    if kind is nn.Linear:
        return _linear(forward)
    if kind not in BACKWARD:
        raise Unsupported(f"there is no link for {kind}")
    rest, named = node.args[1:], node.kwargs
    return _Link(partial(_applied, forward, rest, named) if rest or named else forward, BACKWARD[kind])


def _operation(node: Node, module: nn.Module) -> tuple[object, Any]:
    """What ``node`` does, as in BACKWARD; and a function that does it."""
    target: Any = node.target
    match node.op:
        case "call_module":
            layer = module.get_submodule(target)
            return type(layer), layer
        case "call_method":
            return target, getattr(Tensor, target)
        case _:
            return target, target


def _applied(
    function: Callable[..., Tensor], rest: tuple[Any, ...], named: dict[str, Any], values: Tensor
) -> Tensor:
    return function(values, *rest, **named)


def _linear(layer: nn.Linear) -> _Link:
    return _Link(layer, lambda gradient, before, after: gradient @ layer.weight, layer)
