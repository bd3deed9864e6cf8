"""A safetensors file that a manifest names by its SHA-256: the file itself comes from the operator.

The digest decides what is in it, so every member that has it computes with the same numbers.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from p2pfl.gossip.manifest import MAX_PARAMETERS
from p2pfl.gossip.model_layers import Parts
from p2pfl.node.errors import DataError, reason_of
from p2pfl.node.storage.own_file import is_own
from p2pfl.node.storage.regular_file import regular_only

MOST_BYTES = 8 * MAX_PARAMETERS + (1 << 20)
"""Of such a file: the largest model in float64, and a header."""
Tensors = Mapping[str, NDArray[np.float32]]
_KINDS = (np.float16, np.float32, np.float64)


def read_declared_tensors(
    path: Path, sha256_hex: str, most_bytes: int = MOST_BYTES
) -> dict[str, NDArray[np.float32]]:
    """The tensors in ``path`` by name, in float32, if its SHA-256 is ``sha256_hex``.

    Raises DataError, in one line, if the file is missing, has more than ``most_bytes``, is another one or no
    safetensors file, is marked as one node's own, or holds anything but finite floats.
    """
    try:
        with open(path, "rb", opener=regular_only) as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        hint = "check the path and its permissions; the manifest names the file by its SHA-256"
        raise DataError(f"{path}: cannot be read: {reason_of(error)}", hint) from None
    if len(data) > most_bytes:
        hint = "take the file that the manifest means"
        raise DataError(f"{path}: has more than {most_bytes} bytes, and no model here is as large", hint)
    found = hashlib.sha256(data).hexdigest()
    if found != sha256_hex:
        hint = "ask whoever made the federation for the file, and copy it as binary"
        raise DataError(f"{path}: its SHA-256 is {found}, but the manifest names {sha256_hex}", hint)
    if is_own(path):
        hint = "take a file that `p2pfl export` wrote without --private: every member is given this one"
        raise DataError(f"{path}: holds what a node learnt from its own records without noise", hint)
    return {name: _finite(path, name, tensor) for name, tensor in _tensors(path, data).items()}


def read_backbone(path: Path, model: Parts, features: int) -> Tensors:
    """The tensors in ``path``, the backbone that ``model`` over ``features`` inputs names.

    Raises DataError as :func:`read_declared_tensors` and :func:`require_layers` do.
    """
    found = read_declared_tensors(path, model.backbone)
    require_layers(model, features, found)
    return found


def require_layers(model: Parts, features: int, backbone: Tensors) -> None:
    """Raises DataError unless ``backbone`` has all layers of ``model`` but the head, in their shapes."""
    for layer in model.every_layer(features)[:-1]:
        for name, shape in layer.tensors.items():
            found = backbone.get(name)
            if found is None or found.shape != shape:
                has = "has no such tensor" if found is None else f"has one of shape {found.shape}"
                what = f"the model needs {name} of shape {shape}, and the backbone {has}"
                raise DataError(what, "the sizes in [model] must be those that the backbone was trained with")


def read_initial(path: Path, model: Parts, features: int) -> Tensors:
    """The tensors in ``path``, the initial values that ``model`` over ``features`` inputs names.

    Raises DataError as :func:`read_declared_tensors` does, and unless it has every layer that is averaged, in
    its shape.
    """
    found = read_declared_tensors(path, model.initial)
    alone = {layer.name for layer in model.private_layers(features)}
    for layer in model.every_layer(features)[-1 if model.backbone else 0 :]:
        for name, shape in layer.tensors.items() if layer.name not in alone else ():
            require_shape(found, name, shape)
    return found


def require_shape(tensors: Tensors, name: str, shape: tuple[int, ...]) -> None:
    """Raises DataError unless ``tensors``, of initial values, has ``name`` in this shape."""
    found = tensors.get(name)
    if found is None or found.shape != shape:
        has = "have no such tensor" if found is None else f"have one of shape {found.shape}"
        what = f"the model needs {name} of shape {shape}, and the initial values {has}"
        raise DataError(what, "the task and the sizes in [model] must be those of the model they are from")


def digest_of_file(path: Path) -> str:
    """SHA-256 of ``path`` in hexadecimal, as a manifest names it. Raises DataError if it cannot be read."""
    try:
        with open(path, "rb", opener=regular_only) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        what = f"{path}: cannot be read: {reason_of(error)}"
        raise DataError(what, "check the path and its permissions") from None


def _tensors(path: Path, data: bytes) -> dict[str, NDArray[np.generic]]:
    try:
        return dict(load(data))
    except (SafetensorError, KeyError, TypeError) as error:  # KeyError, TypeError: of a kind NumPy lacks
        what = f"{path}: not a safetensors file of float16, float32 or float64 ({str(error).lower()})"
        raise DataError(what, "convert it before its digest goes into a manifest") from None


def _finite(path: Path, name: str, tensor: NDArray[np.generic]) -> NDArray[np.float32]:
    shown = ascii(name)[:60]
    if tensor.dtype not in _KINDS:
        what = f"{path}: {shown}: {tensor.dtype}, not float16, float32 or float64"
        raise DataError(what, "convert it, or leave it out, before its digest goes into a manifest")
    with np.errstate(over="ignore"):
        values = tensor.astype(np.float32)
    if not np.isfinite(values).all():
        what = f"{path}: {shown}: holds values that are not finite in float32"
        raise DataError(what, "take another file; nothing can be learnt from this one")
    return values
