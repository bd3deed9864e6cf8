"""Parameters that own records are in and that no noise covers: for this node alone, and marked so.

``private.safetensors`` in the state directory holds the private layers of a model that has any;
``personal.safetensors`` the model that `p2pfl personalise` fitted to the node's own records. What `p2pfl
export --private` writes of such layers is marked the same.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from p2pfl.node.errors import StorageError, reason_of
from p2pfl.node.storage.atomic_file import write_atomically
from p2pfl.node.storage.regular_file import regular_only

PRIVATE = "private.safetensors"
PERSONAL = "personal.safetensors"
MARK = ("contains", "own records, not noised: never to be released")
"""In the metadata of the file."""
_MOST_HEADER = 1 << 20

Vectors = Mapping[str, NDArray[np.float64]]


def write_own(path: Path, vectors: Vectors, told: Mapping[str, str] | None = None) -> None:
    """Keep float64 ``vectors`` in ``path``, readable by its owner only; ``told``: what else its metadata
    is to say. Raises StorageError.
    """
    write_atomically(path, save(dict(vectors), metadata={**(told or {}), **dict([MARK])}))


def read_own(path: Path, sizes: Mapping[str, int]) -> Vectors | None:
    """What :func:`write_own` put there; None if there is no such file.

    Raises StorageError unless it holds finite float64 vectors of these ``sizes``.
    """
    remedy = "remove it: the node then begins this part of its model anew"
    try:
        with open(path, "rb", opener=regular_only) as file:
            found = load(file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {reason_of(error)}", "check its permissions") from None
    except SafetensorError as error:
        raise StorageError(f"{path}: not a safetensors file ({str(error).lower()})", remedy) from None
    for name, size in sizes.items():
        vector = found.get(name)
        fits = vector is not None and vector.dtype == np.float64 and vector.shape == (size,)
        if vector is None or not fits or not np.isfinite(vector).all():
            exported = "take a file of the state directory: what is exported is for use without p2pfl"
            what = f"{path}: {name} is not {size} finite numbers"
            raise StorageError(what, remedy if path.name in (PRIVATE, PERSONAL) else exported)
    return {name: found[name] for name in sizes}


def is_own(path: Path) -> bool:
    """Whether ``path`` says of itself that own records are in it; False if it is no safetensors file."""
    return metadata_of(path).get(MARK[0]) == MARK[1]


def metadata_of(path: Path) -> Mapping[str, object]:
    """What the safetensors file ``path`` says of itself; nothing, if it is none. Raises OSError."""
    with open(path, "rb", opener=regular_only) as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= _MOST_HEADER else b""
    try:
        metadata = json.loads(header).get("__metadata__", {})
    except (ValueError, AttributeError):
        return {}
    return metadata if isinstance(metadata, dict) else {}
