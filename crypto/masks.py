"""Masks: a 32-byte seed expanded to a vector over Z_2^32, added to or subtracted from another in place.

Element i of the mask of a seed is the i-th little-endian 32-bit word of its keystream. To whoever lacks the
seed a masked vector cannot be told from a uniform one; whoever has it removes the mask exactly.
"""

import threading
from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import Keystream

# The block stays in the level-2 cache between the cipher that writes it and the addition that reads it.
_BLOCK: Final = 1 << 15


class _Scratch(threading.local):
    """A block of keystream, reused by each thread: page faults of fresh memory cost more than the cipher."""

    def __init__(self) -> None:
        self.words = np.empty(_BLOCK, dtype="<u4")


_SCRATCH = _Scratch()


def add_mask(values: NDArray[np.uint32], seed: bytes) -> None:
    """Add the mask of ``seed`` (32 bytes) to ``values`` (uint32, shape (d,), any d) in place, modulo 2^32.

    Raises :class:`ValueError` for another dtype or shape, or a seed of another length.
    """
    _apply(np.add, values, seed)


def subtract_mask(values: NDArray[np.uint32], seed: bytes) -> None:
    """Take away what :func:`add_mask` added."""
    _apply(np.subtract, values, seed)


def _apply(operation: np.ufunc, values: NDArray[np.uint32], seed: bytes) -> None:
    if values.dtype != np.uint32 or values.ndim != 1:
        raise ValueError(f"masks apply to a uint32 vector, not to {values.dtype} of shape {values.shape}")
    stream, scratch = Keystream(seed), _SCRATCH.words
    for start in range(0, len(values), _BLOCK):
        block = values[start : start + _BLOCK]
        words = scratch[: len(block)]
        stream.fill(words)
        operation(block, words, out=block)
