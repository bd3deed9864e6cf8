"""Per-record gradients of any module: torch.func where it can, else one record after the other."""

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from p2pfl.node.training.clipping.bookkeeping import Losses
from p2pfl.node.training.clipping.parameters import Parameters, Slot
from p2pfl.node.training.clipping.terms import Explicit, Term


class PerRecord:
    """The gradients of ``losses(module(inputs), targets)``, each record's computed as if it were alone."""

    def __init__(self, module: nn.Module, losses: Losses, parameters: Parameters) -> None:
        self._module, self._losses, self._parameters = module, losses, parameters
        self._whole = Slot("", 0, (parameters.vector.numel(),))
        self._vectorises = True
        self._vectorised = vmap(grad(self._loss), in_dims=(None, 0, 0), randomness="different")

    @property
    def bytes_per_record(self) -> int:
        """Memory taken, at a guess: the gradient's, its square's, and as much for all the rest."""
        return 4 * self._parameters.vector.nbytes

    def terms(self, inputs: Tensor, targets: Tensor) -> list[tuple[Slot, Term]]:
        """The gradients at ``inputs`` and ``targets``, all parameters together."""
        if self._vectorises:
            try:
                return [(self._whole, Explicit(self._vectorised(self._parameters.vector, inputs, targets)))]
            except RuntimeError:  # vmap does not take everything; what is wrong in itself fails below as well
                self._vectorises = False
        gradients = [self._alone(*record) for record in zip(inputs, targets, strict=True)]
        return [(self._whole, Explicit(torch.stack(gradients)))]

    def _loss(self, vector: Tensor, inputs: Tensor, target: Tensor) -> Tensor:
        parameters = {slot.name: slot.of(vector) for slot in self._parameters.layout}
        outputs = functional_call(self._module, parameters, (inputs[None],))
        return self._losses(outputs, target[None])[0]

    def _alone(self, inputs: Tensor, target: Tensor) -> Tensor:
        trained = tuple(self._parameters.trainable.values())
        with torch.enable_grad():
            loss = self._losses(self._module(inputs[None]), target[None])[0]
            parts = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])
