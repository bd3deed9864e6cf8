"""Masks: a 32-byte seed expanded to a vector over the ring, added to or subtracted from another in place.

Element i of the mask of a seed is the i-th little-endian word, of the ring's width, of its keystream. To
whoever lacks the seed a masked vector cannot be told from a uniform one; whoever has it removes the mask
exactly. A seed is expanded at one width only: masks of two widths are made of the same bytes.
"""

import threading
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import Keystream

# The block stays in the level-2 cache between the cipher that writes it and the addition that reads it.
_BLOCK_BYTES: Final = 1 << 17
_WORDS: Final = frozenset(map(np.dtype, ("<u2", "<u4", "<u8")))


class _Scratch(threading.local):
    """A block of keystream, reused by each thread: page faults of fresh memory cost more than the cipher."""

    def __init__(self) -> None:
        self.bytes = np.empty(_BLOCK_BYTES, dtype=np.uint8)


_SCRATCH = _Scratch()


class Mask:
    """The mask of ``seed`` (32 bytes), for one vector: each call goes on where the last one ended, so that a
    vector can be masked in slices, from the first element to the last.

    Raises :class:`ValueError` for a seed of another length.
    """

    __slots__ = ("_stream",)

    def __init__(self, seed: bytes) -> None:
        self._stream = Keystream(seed)

    def add_to(self, values: NDArray[Any]) -> None:
        """Add to ``values`` in place, modulo 2^16, 2^32 or 2^64 by their dtype (unsigned, shape (d,)).

        Raises :class:`ValueError` for another dtype or shape.
        """
        self._apply(np.add, values)

    def take_from(self, values: NDArray[Any]) -> None:
        """Take away what :meth:`add_to` added."""
        self._apply(np.subtract, values)

    def _apply(self, operation: np.ufunc, values: NDArray[Any]) -> None:
        if values.dtype not in _WORDS or values.ndim != 1:
            raise ValueError(f"masks apply to a vector over a ring, not to {values.dtype}{values.shape}")
        scratch = _SCRATCH.bytes.view(values.dtype)
        for start in range(0, len(values), len(scratch)):
            block = values[start : start + len(scratch)]
            words = scratch[: len(block)]
            self._stream.fill(words)
            operation(block, words, out=block)
