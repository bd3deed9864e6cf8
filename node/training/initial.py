"""Training that starts from values in a file: what `p2pfl export` wrote, or any file with layers of the same
names.

The scales of a table's numbers are measured anew in every federation, so that whoever has joined counts, and
what begins must be the function that ended. With x the inputs by the old scales and u by the new ones, every
number being mean + scale · input:

    x = (u · scale_new + mean_new - mean_old) / scale_old

and W x + b is another linear layer of u. (Numbers are cut elsewhere now, and a missing one counts as the new
mean.)
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from p2pfl.node.storage.declared_file import Tensors, require_shape
from p2pfl.node.training.preprocessing import MEAN, SCALE, Scaling

if TYPE_CHECKING:
    from p2pfl.node.training.clipping import Slot

Array = NDArray[np.float64]
_FIRST = "0.weight", "0.bias"


def start_values(layout: "Sequence[Slot]", drawn: Array, tensors: Tensors, scaled: Scaling | None) -> Array:
    """``drawn`` with every part of ``layout`` that ``tensors`` has in its place: float64, shape (dimension,).

    ``scaled``: how inputs are scaled from now on; the first layer is restated for that if ``tensors`` say how
    they were. Raises DataError for a tensor of another shape.
    """
    parts: dict[str, Array] = {}
    for slot in layout:
        if slot.name in tensors:
            require_shape(tensors, slot.name, slot.shape)
            parts[slot.name] = tensors[slot.name].astype(np.float64)
    if scaled is not None and {*_FIRST, MEAN, SCALE} <= {*tensors} and {*_FIRST} <= {*parts}:
        _restate(parts, tensors, scaled)
    started = drawn.copy()
    for slot in layout:
        if slot.name in parts:
            started[slot.start : slot.stop] = parts[slot.name].ravel()
    return started


def _restate(parts: dict[str, Array], tensors: Mapping[str, NDArray[np.float32]], scaled: Scaling) -> None:
    """Put into ``parts`` the first layer of the same function of differently scaled inputs."""
    for name, now in scaled.tensors.items():
        require_shape(tensors, name, now.shape)
    weights, biases = (parts[name] for name in _FIRST)
    before, scale = (tensors[name].astype(np.float64) for name in (MEAN, SCALE))
    parts[_FIRST[1]] = biases + weights @ ((scaled.mean - before) / scale)
    parts[_FIRST[0]] = weights * (scaled.scale / scale)
