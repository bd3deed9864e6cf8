"""Per-record gradients of a whole batch from one forward and one backward pass.

Each layer's input and the gradient at its output determine its parameters' gradients record by record
(Goodfellow 2015; "book-keeping": Bu et al. 2022). Hooks note the inputs; the backward pass is asked for the
gradients at the outputs only, so autograd forms no gradient of a weight. A layer that is used again, a
recurrent cell's step for one, simply has more positions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from p2pfl.node.training.clipping.layers import RULES
from p2pfl.node.training.clipping.parameters import Parameters, Slot
from p2pfl.node.training.clipping.terms import Term, merged

Losses = Callable[[Tensor, Tensor], Tensor]


class Unsupported(Exception):  # noqa: N818 - a reason to go another way, not a failure
    """This module's gradients cannot be told apart record by record from its layers' inputs and outputs."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One use of ``layer``, on ``inputs``; ``edge`` is where the gradient at its output comes by."""

    layer: nn.Module
    inputs: Tensor
    version: int
    edge: GradientEdge


class BookKeeping:
    """Terms of the gradients of ``losses(module(inputs), targets)``, one loss per record."""

    def __init__(self, module: nn.Module, losses: Losses, parameters: Parameters) -> None:
        """Raises Unsupported for a layer without a rule."""
        self._module, self._losses, self._parameters = module, losses, parameters
        self._slots = parameters.slots
        self._layers: list[nn.Module] = []
        for name, layer in module.named_modules():
            if any(parameter in self._slots for parameter in layer.parameters(recurse=False)):
                _require_rule(name, layer)
                self._layers.append(layer)

    def terms(self, inputs: Tensor, targets: Tensor) -> list[tuple[Slot, Term]]:
        """The gradients at ``inputs`` and ``targets``, of every parameter that has any. Raises Unsupported.

        Like :meth:`check`, to be called without autograd.
        """
        losses, calls = self._forward(inputs, targets)
        gradients = _backward(losses, [call.edge for call in calls], torch.ones_like(losses))
        return self._terms(calls, gradients)

    def check(self, inputs: Tensor, targets: Tensor) -> int:
        """Bytes that the calls and terms of a record take, tried on these.

        Raises Unsupported if a parameter acts outside the layers' own calls, or a record has a part in
        another's loss. That is tried away from the present parameters, where gradients may vanish (a last
        layer that starts at zero passes none on).
        """
        if inputs.is_floating_point():
            inputs = inputs.detach().requires_grad_()
        kept = self._parameters.vector.clone()
        generator = torch.Generator(kept.device).manual_seed(0)
        self._parameters.vector.add_(torch.empty_like(kept).normal_(std=0.1, generator=generator))
        try:
            losses, calls = self._forward(inputs, targets)
            self._require_covered(losses, calls)
            first = torch.eye(len(losses)).to(losses)[0]
            gradients = _backward(losses, [call.edge for call in calls], first, retain_graph=True)
            at_inputs = _backward(losses, [inputs] if inputs.requires_grad else [], first)
        finally:
            self._parameters.vector.copy_(kept)
        present = [gradient for gradient in gradients if gradient is not None]
        if any(each is not None and each[1:].count_nonzero() for each in (*gradients, *at_inputs)):
            raise Unsupported("one record has a part in another's loss")
        # The layers' inputs, and their outputs twice: with their gradients.
        held = sum(call.inputs.nbytes for call in calls) + 2 * sum(each.nbytes for each in present)
        held += sum(term.nbytes for _, term in self._terms(calls, gradients))
        return held // len(inputs)

    def _forward(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, list[_Call]]:
        with self._noting() as calls, torch.enable_grad():
            losses = self._losses(self._module(inputs), targets)
        if losses.shape != (len(inputs),):
            raise ValueError(f"losses are one per record, shape ({len(inputs)},), not {tuple(losses.shape)}")
        for call in calls:
            if len(call.inputs) != len(inputs):
                raise Unsupported(f"a {type(call.layer).__name__} gets inputs that are not one per record")
            if call.inputs._version != call.version:
                raise RuntimeError(f"the input of a {type(call.layer).__name__} was changed after its use")
        return losses, calls

    @contextmanager
    def _noting(self) -> Iterator[list[_Call]]:
        """Hooks are in place only here, so that the module stays as it is for everybody else."""
        calls: list[_Call] = []

        def note(layer: nn.Module, arguments: tuple[Any, ...], outputs: Tensor) -> None:
            if not arguments or not outputs.requires_grad or outputs.dim() < 2:
                raise Unsupported(f"a {type(layer).__name__} is called in a way of its own")
            calls.append(_Call(layer, arguments[0], arguments[0]._version, get_gradient_edge(outputs)))

        hooks = [layer.register_forward_hook(note) for layer in self._layers]
        try:
            yield calls
        finally:
            for hook in hooks:
                hook.remove()

    def _terms(self, calls: list[_Call], gradients: Sequence[Tensor | None]) -> list[tuple[Slot, Term]]:
        uses: list[tuple[Tensor, Term]] = []
        for call, gradient in zip(calls, gradients, strict=True):
            if gradient is not None:
                uses += RULES[type(call.layer)](call.layer, call.inputs, gradient)
        return collected(uses, self._slots)

    def _require_covered(self, losses: Tensor, calls: list[_Call]) -> None:
        """Walks back from the losses, and from every layer's input, up to the layers' outputs: no trained
        parameter may lie on the way.
        """
        seen = {call.edge.node for call in calls}
        starts = (losses, *(call.inputs for call in calls))
        ahead: list[Node | None] = [
            get_gradient_edge(values).node for values in starts if values.requires_grad
        ]
        while ahead:
            node = ahead.pop()
            if node is None or node in seen:
                continue
            leaf = getattr(node, "variable", None)
            if leaf in self._slots:
                raise Unsupported(f"{self._slots[leaf].name} is used outside its layer")
            seen.add(node)
            ahead += [further for further, _ in node.next_functions]


def collected(uses: Sequence[tuple[Tensor, Term]], slots: dict[Tensor, Slot]) -> list[tuple[Slot, Term]]:
    """The terms of every parameter, whatever it was used for."""
    terms: dict[Tensor, list[Term]] = {}
    for parameter, term in uses:
        terms.setdefault(parameter, []).append(term)
    return [(slots[parameter], merged(each)) for parameter, each in terms.items()]


def _backward(
    losses: Tensor,
    wanted: Sequence[GradientEdge] | Sequence[Tensor],
    weights: Tensor,
    *,
    retain_graph: bool = False,
) -> tuple[Tensor | None, ...]:
    """The weighted losses' gradient there; None where they do not depend on it."""
    if not wanted or not losses.requires_grad:
        return (None,) * len(wanted)
    with torch.enable_grad():
        # Of a number: to compare shapes of weights handed over, torch would import sympy, a second and 35 MB.
        total = (losses * weights).sum()
    return torch.autograd.grad(total, wanted, retain_graph=retain_graph, allow_unused=True)


def _require_rule(name: str, layer: nn.Module) -> None:
    kind = type(layer).__name__
    if type(layer) not in RULES:
        raise Unsupported(f"{name or 'the module'} is a {kind}")
    if layer._forward_hooks or {name for name, _ in layer.named_parameters(recurse=False)} - {
        "weight",
        "bias",
    }:
        raise Unsupported(f"{name} is a {kind} with changes")
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.scale_grad_by_freq):
        raise Unsupported(f"{name} is an Embedding with max_norm or scale_grad_by_freq")
