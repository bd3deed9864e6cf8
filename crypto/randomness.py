"""Random bytes: where they come from, and how a 32-byte seed becomes a long stream of them.

Nothing in the protocol reads the operating system's generator by itself: whoever needs randomness is handed a
:data:`RandomBytes`. In production that is :data:`system_random`; a test or a simulation hands in
:func:`seeded_random` and gets the same run every time.

:class:`Keystream` is the one pseudo-random generator of the project: masks, stochastic rounding and noise
all expand a 32-byte seed with it. Whoever holds the seed has the stream; to anyone else it cannot be told
from random bytes.
"""

import hashlib
from collections.abc import Callable
from typing import Any, Final

import nacl.utils
import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

RandomBytes = Callable[[int], bytes]
"""Returns the asked number of unpredictable bytes, fresh on every call."""

SEED_BYTES: Final = 32

system_random: RandomBytes = nacl.utils.random
"""The operating system's generator, through libsodium."""

_ZEROS: Final = memoryview(bytes(1 << 18))


class Keystream:
    """The AES-256-CTR keystream of a 32-byte seed, counter from zero; each call continues the stream.

    A seed may be expanded for one purpose only. Raises :class:`ValueError` for a seed of another length.
    """

    __slots__ = ("_encryptor",)

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
        self._encryptor = Cipher(AES(seed), CTR(bytes(16))).encryptor()

    def fill(self, out: NDArray[Any]) -> None:
        """Overwrite ``out`` (one-dimensional, contiguous, any dtype) with the next bytes of the stream."""
        self._fill(out.view(np.uint8).data)

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes of the stream."""
        out = bytearray(count)
        self._fill(memoryview(out))
        return bytes(out)

    def _fill(self, target: memoryview) -> None:
        for start in range(0, len(target), len(_ZEROS)):
            part = target[start : start + len(_ZEROS)]
            self._encryptor.update_into(_ZEROS[: len(part)], part)


def seeded_random(seed: bytes) -> RandomBytes:
    """A reproducible :data:`RandomBytes` for tests and simulations; ``seed`` may have any length."""
    return Keystream(hashlib.sha256(seed).digest()).read
