"""The files of a node's model in its state directory: one safetensors checkpoint for each of the latest
releases. Which of them counts, and with what digest, stands in the database.
"""

import hashlib
from pathlib import Path
from typing import Final, TypeGuard

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from p2pfl.node.errors import StorageError
from p2pfl.node.released import Place, Released
from p2pfl.node.storage.atomic_file import write_atomically
from p2pfl.node.storage.database import explained

_KEPT: Final = 2


def path_of(directory: Path, round: int) -> Path:
    """Where the model after ``round`` is."""
    return directory / f"model-{round:08d}.safetensors"


def write(directory: Path, released: Released) -> bytes:
    """Put ``released`` into its file, whole or not at all; the SHA-256 of the file."""
    content = to_bytes(released)
    write_atomically(path_of(directory, released.round), content)
    return hashlib.sha256(content).digest()


def read(directory: Path, place: Place, digest: bytes) -> Released:
    """The model at ``place``. Raises StorageError if its file is missing, or not the one of this digest."""
    path = path_of(directory, place.round)
    copied = f"or copy {path.name} from a member of the same group (it is the same file) or from a backup"
    if not path.is_file():
        remedy = f"start the node, which takes over its neighbours' model; {copied}"
        raise StorageError(f"{path}, this node's model, is missing", remedy)
    remedy = f"remove it and start the node, which takes over its neighbours' model; {copied}"
    with explained(path):
        content = path.read_bytes()
        if hashlib.sha256(content).digest() != digest:
            raise StorageError(f"{path} does not match the digest in the database", remedy)
        tensors = load(content)
    parameters, statistics = tensors.get("parameters"), tensors.get("statistics")
    if not _is_vector(parameters) or not _is_vector(statistics):
        raise StorageError(f"{path} holds no model", remedy)
    return Released(place.round, place.training_start, statistics, parameters, place.vote_rounds, place.votes)


def remove_older(directory: Path, current: int) -> None:
    """Keep the latest ones, that of round ``current`` among them."""
    for old in sorted(directory.glob("model-*.safetensors"))[:-_KEPT]:
        if old != path_of(directory, current):
            old.unlink(missing_ok=True)


def to_bytes(released: Released) -> bytes:
    """The file of a model: the same bytes at every node that has it. (safetensors writes metadata of several
    keys in an order drawn at random.)
    """
    tensors = {"parameters": released.parameters, "statistics": released.statistics}
    return save(tensors, metadata={"round": str(released.round)})


def _is_vector(tensor: NDArray[np.float64] | None) -> TypeGuard[NDArray[np.float64]]:
    return tensor is not None and tensor.dtype == np.float64 and tensor.ndim == 1
