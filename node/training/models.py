"""Models as functions of one flat float64 vector. Torch stops at this folder: everybody else sees NumPy
arrays.

The vector is what is trained: what a federation agrees on and averages, and private layers. A torch module
computes with it, and with what is frozen, in float64 for tables and in float32 elsewhere, where the vector is
rounded on its way in.
"""

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from p2pfl.gossip.manifest import DenseModel, ModelSpec
from p2pfl.gossip.model_layers import Parts
from p2pfl.node.privacy import Gradient
from p2pfl.node.storage.declared_file import Tensors
from p2pfl.node.training.adapters import Adapted, fill_frozen
from p2pfl.node.training.clipping import ClippedGradient, Slot
from p2pfl.node.training.drawn import drawn
from p2pfl.node.training.networks import network
from p2pfl.node.training.objectives import Objective, TwoClasses

_BLOCK_ELEMENTS = 1 << 24
_ROUNDING = {torch.float32: 2.0**-8, torch.float64: 2.0**-12}
"""By how much, relative to the clip norm, rounding may let what one record changes in a sum exceed it: see
:mod:`.clipping.sums`.
"""


class Model:
    """The model ``spec`` over ``features`` inputs, trained for ``objective`` (default: two classes).

    ``backbone``: what is frozen in it, if anything is. ``module``: the network itself, if it is not one that
    a manifest can name.
    """

    def __init__(
        self,
        spec: ModelSpec,
        features: int,
        objective: Objective | None = None,
        dtype: torch.dtype = torch.float64,
        backbone: Tensors | None = None,
        module: nn.Module | None = None,
    ) -> None:
        """Raises DataError unless ``backbone`` has all that ``spec`` freezes."""
        self._objective = objective or TwoClasses(hinge=spec.kind == "svm")
        self._module = (network(spec, features) if module is None else module).to(dtype)
        if isinstance(spec, Parts) and spec.backbone:
            fill_frozen(self._module, spec, features, backbone or {})
        self._dtype = dtype
        self._gradient = ClippedGradient(self._module, self._objective.losses, self._objective.slopes)
        self.block = max(1, _BLOCK_ELEMENTS // spec.activations(features))
        """Records that are worked on at a time when nothing is learnt."""
        self.layout: tuple[Slot, ...] = self._gradient.layout
        self.dimension = self._gradient.dimension
        alone = {layer.name for layer in spec.private_layers(features)}
        kept = [slot for slot in self.layout if slot.name.rpartition(".")[0] in alone]
        self.private = np.zeros(self.dimension, np.bool_)
        """Which parameters belong to private layers, shape (dimension,)."""
        for slot in kept:
            self.private[slot.start : slot.stop] = True

    def initial(self, seed: bytes) -> NDArray[np.float64]:
        """Parameters to start from, float64 of shape (dimension,): the same on every platform for the same
        ``seed``.

        Drawn, see :func:`.drawn.drawn`. The last linear layer of all is zero, so that the first prediction is
        the same for every record; so is one half of each adapter, which then changes nothing. Scales of
        normalisations are one.
        """
        return drawn([(slot.name, slot.shape) for slot in self.layout], *self._constant_slots(), seed)

    def _constant_slots(self) -> tuple[set[str], set[str]]:
        """Names of the weights that start as ones, and of those that start as zeros."""
        modules = dict(self._module.named_modules())
        norms = {
            f"{name}.weight"
            for name, module in modules.items()
            if isinstance(module, nn.GroupNorm | nn.LayerNorm)
        }
        linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
        ups = {f"{name}.up.weight" for name, module in modules.items() if isinstance(module, Adapted)}
        return norms, {f"{last}.weight" for last in linear[-1:]} | ups

    def network(self, parameters: NDArray[np.float64]) -> nn.Module:
        """The network by itself, a copy, with these parameters."""
        self._write(parameters)
        return copy.deepcopy(self._module).requires_grad_(False)

    def tensors(self, parameters: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """All that the network computes with, by name, frozen layers included, in its own precision."""
        vector = torch.from_numpy(parameters).to(self._dtype).numpy()
        trained = {slot.name: vector[slot.start : slot.stop].reshape(slot.shape) for slot in self.layout}
        others = [*self._module.named_parameters(), *self._module.named_buffers()]
        frozen = {name: tensor.numpy() for name, tensor in others if not tensor.requires_grad}
        return frozen | trained

    def outputs(self, parameters: NDArray[np.float64], inputs: NDArray[np.generic]) -> NDArray[np.float64]:
        """What the network gives for each of n inputs: float64, (n,) for one output, else (n, …, outputs)."""
        self._write(parameters)
        with torch.no_grad():
            blocks = [
                self._module(self._tensor(inputs[start : start + self.block])).double()
                for start in range(0, max(len(inputs), 1), self.block)
            ]
        found: NDArray[np.float64] = torch.cat(blocks).numpy()
        return found

    def summed_gradient(
        self,
        parameters: NDArray[np.float64],
        inputs: NDArray[np.generic],
        targets: NDArray[np.generic],
        clip_norm: float,
    ) -> NDArray[np.float64]:
        """Σ over records of clip(∇ loss, C) with clip(g, C) = g min(1, C / |g|): float64, shape (dimension,).

        ``clip_norm`` C may be infinite. At most C per record in L2, whatever the record and the rounding.
        Zero without records.
        """
        return self.clipped_sum(parameters, inputs, targets, clip_norm).astype(np.float64, copy=False)

    def clipped_sum(
        self,
        parameters: NDArray[np.float64],
        inputs: NDArray[np.generic],
        targets: NDArray[np.generic],
        clip_norm: float,
    ) -> Gradient:
        """:meth:`summed_gradient` in the precision that it was added up in."""
        self._write(parameters)
        least = clip_norm / (1 + _ROUNDING[self._dtype])
        total: Gradient = self._gradient(self._tensor(inputs), self._tensor(targets), least).numpy()
        return total

    @property
    def left_out(self) -> int:
        """How many records of the last summed gradient had one that was not finite, and counted as zero."""
        return self._gradient.left_out

    def _write(self, parameters: NDArray[np.float64]) -> None:
        self._gradient.write(torch.from_numpy(parameters).to(self._dtype))

    def _tensor(self, values: NDArray[np.generic]) -> Tensor:
        """Reals in the network's own precision, whole numbers as they are indexed with."""
        tensor = torch.from_numpy(np.ascontiguousarray(values))
        return tensor.to(self._dtype if tensor.is_floating_point() else torch.int64)


def precision_for(spec: ModelSpec, features: int) -> torch.dtype:
    """What ``spec`` computes in: float64 where that costs nothing that anybody notices."""
    small = isinstance(spec, DenseModel) and spec.allocated(features) <= 1 << 16
    return torch.float64 if small else torch.float32
