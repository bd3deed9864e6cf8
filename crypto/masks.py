"""Masks: a 32-byte seed expanded to a vector over the ring, added to or subtracted from another in place.

Element i of the mask of a seed is the i-th little-endian word of its keystream, of the width of the vector's
elements: 16, 32 or 64 bits. To whoever lacks the seed a masked vector cannot be told from a uniform one;
whoever has it removes the mask exactly. A seed is expanded at one width only: masks of two widths are made of
the same bytes.
"""

import threading
from typing import Final

import numpy as np

from p2pfl.crypto.randomness import Keystream
from p2pfl.crypto.ring import RING_16, RING_32, RING_64, RingVector

# The block stays in the level-2 cache between the cipher that writes it and the addition that reads it.
_BLOCK_BYTES: Final = 1 << 17
_DTYPES: Final = tuple(ring.dtype for ring in (RING_16, RING_32, RING_64))


class _Scratch(threading.local):
    """A block of keystream, reused by each thread: page faults of fresh memory cost more than the cipher."""

    def __init__(self) -> None:
        self.block = np.empty(_BLOCK_BYTES, np.uint8)


_SCRATCH = _Scratch()


def add_mask(values: RingVector, seed: bytes) -> None:
    """Add the mask of ``seed`` (32 bytes) to ``values`` (uint16, uint32 or uint64, shape (d,), any d) in
    place, modulo the ring's size.

    Raises :class:`ValueError` for another dtype or shape, or a seed of another length.
    """
    _apply(np.add, values, seed)


def subtract_mask(values: RingVector, seed: bytes) -> None:
    """Take away what :func:`add_mask` added."""
    _apply(np.subtract, values, seed)


def _apply(operation: np.ufunc, values: RingVector, seed: bytes) -> None:
    if values.dtype not in _DTYPES or values.ndim != 1:
        raise ValueError(
            f"masks apply to a vector over a ring, not to {values.dtype} of shape {values.shape}"
        )
    stream, scratch = Keystream(seed), _SCRATCH.block.view(values.dtype)
    for start in range(0, len(values), len(scratch)):
        block = values[start : start + len(scratch)]
        words = scratch[: len(block)]
        stream.fill(words)
        operation(block, words, out=block)
