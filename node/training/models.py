"""Models as functions of one flat float64 vector. Torch stops at this folder: everybody else sees NumPy
arrays.

A model is a chain of linear layers with tanh between them (bounded activations lose less to gradient
clipping: Papernot et al. 2021) and one logit at the end; logistic regression is the chain of length one.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import grad, vmap
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from p2pfl.crypto.labels import INITIAL_PARAMETERS
from p2pfl.gossip.manifest import ModelSpec

_BLOCK_ELEMENTS = 1 << 22


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one array lies in the parameter vector."""

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)


class Model:
    """The model ``spec`` over ``features`` inputs."""

    def __init__(self, spec: ModelSpec, features: int) -> None:
        self.widths = (features, *spec.hidden, 1)
        self.layout = tuple(_slots(self.widths))
        self.dimension = self.layout[-1].stop
        self._gradients = vmap(grad(self._loss), in_dims=(None, 0, 0))

    def initial(self, seed: bytes) -> NDArray[np.float64]:
        """Parameters to start from, float64 of shape (dimension,): the same on every platform for the same
        ``seed``.

        Biases, and the last layer of all, are zero, so that the first prediction is 1/2 for every record.
        Hidden weights are uniform in ±1/sqrt(inputs), from 53 bits each of SHAKE-256 over the seed.
        """
        parameters = np.zeros(self.dimension)
        for slot in self.layout[:-2:2]:
            count = slot.stop - slot.start
            stream = hashlib.shake_256(INITIAL_PARAMETERS + b"\0" + slot.name.encode() + b"\0" + seed)
            drawn = np.frombuffer(stream.digest(8 * count), "<u8") >> np.uint64(11)
            uniform = drawn.astype(np.float64) * 2.0**-52 - 1.0
            parameters[slot.start : slot.stop] = uniform / math.sqrt(slot.shape[1])
        return parameters

    def logits(self, parameters: NDArray[np.float64], inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64, shape (n,): positive where the model takes the record for positive."""
        with torch.no_grad():
            return _array(self._logits(torch.from_numpy(parameters), torch.from_numpy(inputs)))

    def summed_gradient(
        self,
        parameters: NDArray[np.float64],
        inputs: NDArray[np.float64],
        labels: NDArray[np.float64],
        clip_norm: float,
    ) -> NDArray[np.float64]:
        """Σ over records of clip(∇ loss, C) with clip(g, C) = g min(1, C / |g|): float64, shape (dimension,).

        ``clip_norm`` C may be infinite. At most C per record in L2, whatever the record. Zero without
        records.
        """
        total = torch.zeros(self.dimension, dtype=torch.float64)
        at = torch.from_numpy(parameters)
        block = max(1, _BLOCK_ELEMENTS // self.dimension)
        for start in range(0, len(labels), block):
            part = slice(start, start + block)
            gradients = self._gradients(at, torch.from_numpy(inputs[part]), torch.from_numpy(labels[part]))
            # A zero gradient has C / |g| infinite, and is kept whole.
            factors = torch.clamp(clip_norm / torch.linalg.vector_norm(gradients, dim=1), max=1.0)
            total += factors @ gradients
        return _array(total)

    def _logits(self, parameters: Tensor, inputs: Tensor) -> Tensor:
        values = inputs
        for weight, bias in zip(self.layout[::2], self.layout[1::2], strict=True):
            if weight.start:
                values = torch.tanh(values)
            values = linear(values, _read(parameters, weight), _read(parameters, bias))
        return values.squeeze(-1)

    def _loss(self, parameters: Tensor, inputs: Tensor, label: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(self._logits(parameters, inputs), label)


def _slots(widths: tuple[int, ...]) -> Iterator[Slot]:
    start = 0
    for layer, (inputs, outputs) in enumerate(pairwise(widths)):
        for name, shape in ((f"{layer}.weight", (outputs, inputs)), (f"{layer}.bias", (outputs,))):
            slot = Slot(name, start, shape)
            start = slot.stop
            yield slot


def _read(parameters: Tensor, slot: Slot) -> Tensor:
    return parameters[slot.start : slot.stop].view(slot.shape)


def _array(tensor: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.numpy()
    return array
