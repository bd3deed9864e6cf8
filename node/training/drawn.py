"""What training starts from: values drawn from a seed, the same on every platform, without torch."""

import hashlib
import math
from collections.abc import Iterable, Set

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.labels import INITIAL_PARAMETERS
from p2pfl.gossip.model_layers import Layer

Array = NDArray[np.float64]


def drawn(
    tensors: Iterable[tuple[str, tuple[int, ...]]], ones: Set[str], zeros: Set[str], seed: bytes
) -> Array:
    """``tensors``, by name and shape, one after the other: float64, flat.

    Vectors, and ``zeros``, are zero; ``ones`` are one. All others are uniform in ±1/sqrt(inputs), from 53
    bits each of SHAKE-256 over the seed.
    """
    tensors = list(tensors)
    values, start = np.zeros(sum(math.prod(shape) for _, shape in tensors)), 0
    for name, shape in tensors:
        stop = start + math.prod(shape)
        if name in ones:
            values[start:stop] = 1.0
        elif name not in zeros and len(shape) > 1:
            values[start:stop] = _uniform(name, shape, seed)
        start = stop
    return values


def drawn_layers(layers: Iterable[Layer], seed: bytes) -> Array:
    """A whole model of ``layers``, of which the last is its head and starts as zeros, normalisations as ones:
    what :meth:`.models.Model.initial` gives for it.
    """
    layers = list(layers)
    tensors = [tensor for layer in layers for tensor in layer.tensors.items()]
    ones = {f"{layer.name}.weight" for layer in layers if layer.kind == "norm"}
    return drawn(tensors, ones, {f"{layers[-1].name}.weight"}, seed)


def _uniform(name: str, shape: tuple[int, ...], seed: bytes) -> Array:
    count = math.prod(shape)
    stream = hashlib.shake_256(INITIAL_PARAMETERS + b"\0" + name.encode() + b"\0" + seed)
    bits = np.frombuffer(stream.digest(8 * count), "<u8") >> np.uint64(11)
    uniform: Array = (bits.astype(np.float64) * 2.0**-52 - 1.0) / math.sqrt(math.prod(shape[1:]))
    return uniform
