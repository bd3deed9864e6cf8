"""A model on its own: the safetensors checkpoint that a node keeps, read for use elsewhere; and the file that
`p2pfl export` makes of one, for use without p2pfl.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from p2pfl.gossip.manifest import Manifest
from p2pfl.node.errors import DataError, reason_of
from p2pfl.node.privacy import dimension
from p2pfl.node.storage.own_file import MARK
from p2pfl.node.storage.regular_file import regular_only

_HEADER_BYTES = 1 << 20


def read_model(path: Path, manifest: Manifest) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Parameters and preprocessing statistics in ``path``: float64 vectors of the sizes that ``manifest``
    gives them.

    Raises DataError for anything else.
    """
    sizes = {"parameters": dimension(manifest, "training"), "statistics": dimension(manifest, "statistics")}
    try:
        with open(path, "rb", opener=regular_only) as file:
            data = file.read(8 * sum(sizes.values()) + _HEADER_BYTES)
        tensors = load(data)
    except OSError as error:
        hint = "check the path and its permissions"
        raise DataError(f"{path}: cannot be read: {reason_of(error)}", hint) from None
    except SafetensorError as error:
        hint = "give a model-….safetensors file from a node's state directory, copied as binary"
        raise DataError(f"{path}: not a model ({str(error).lower()})", hint) from None
    return _vector(path, tensors, "parameters", sizes), _vector(path, tensors, "statistics", sizes)


def told_of(card: str, own: bool) -> dict[str, str]:
    """What an exported file says of itself: ``card``, JSON, and if what is in it is this node's ``own`` the
    mark that says so.
    """
    return dict([("card", card), *([MARK] if own else [])])


def exported_model(tensors: Mapping[str, NDArray[Any]], told: Mapping[str, str]) -> bytes:
    """A safetensors file of ``tensors`` with what is ``told`` of them in its metadata. Without a mark they
    are the same bytes for the same model. (Of several keys in the metadata safetensors draws the order at
    random.)
    """
    return save(dict(tensors), metadata=dict(told))


def _vector(
    path: Path, tensors: dict[str, NDArray[np.float64]], name: str, sizes: dict[str, int]
) -> NDArray[np.float64]:
    vector = tensors.get(name)
    if vector is None or vector.dtype != np.float64 or vector.shape != (sizes[name],):
        found = "missing" if vector is None else f"{vector.dtype} of shape {vector.shape}"
        what = f"{path}: {name}: {found}, but this federation's model has float64 of shape ({sizes[name]},)"
        raise DataError(what, "the file is another federation's; give one from a node of this one")
    if not np.isfinite(vector).all():
        raise DataError(f"{path}: {name}: not all finite", "the file is damaged; copy it again")
    return vector
