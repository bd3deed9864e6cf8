"""Whether chunks were added up rightly, from a few words of every contributor.

For every owner o of chunks a random map R_o, over the ring, takes what is in all of its chunks to
:data:`CHECKS` words. It is linear, so if the owner's sums are right, the words of the contributions add up to
the words of the sums. If they are wrong, the words differ but with a probability of 2^-62.

R_o is three random 0/1 matrices in a row: each chunk is laid out as rows of :data:`_WIDTH` elements, of which
the first makes 64 x 256, the second, from the right, 64 x 64, and the third takes these 4,096 words to 64.
A matrix or vector that is not zero, times a random 0/1 vector, is zero with probability at most 1/2 in any
ring Z_2^b (fix all coins but that of one entry that is not zero); so each step loses an error with
probability at most 2^-64, and the three at most 3 * 2^-64. The coins must be drawn after contributions and
sums are fixed: the seed is a digest of all of them. An owner may try many wrong sums, one hash each, before
it shows one; with 2^-62 for each that is out of reach within a phase.

All products are of integers below 2^53 in float64, and therefore exact, in whatever order they are added: bit
for bit the same everywhere. The first is nearly all the cost, 64 multiplications an element.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.crypto.randomness import Keystream

Words = dict[int, NDArray[Any]]
"""By owner, what its chunks are taken to."""

CHECKS: Final = 64
"""Words per owner."""
_WIDTH: Final = 256
_EXACT_ROWS: Final = 1 << 20  # times 2^32 is below 2^53


def check_values(seed: bytes, chunks: Mapping[int, NDArray[Any]], owners: Sequence[int]) -> Words:
    """By owner, the :data:`CHECKS` words of its chunks under the map of ``seed`` (32 bytes).

    ``chunks``: chunks of one vector by number, unsigned integers of 16, 32 or 64 bits; chunk c belongs to
    ``owners[c]``. Only owners of some of them appear. The words have the chunks' dtype.
    """
    right, last = Keystream(_seed(seed, "right")), Keystream(_seed(seed, "last"))
    narrow, final = _coins(right, CHECKS, _WIDTH), _coins(last, CHECKS, CHECKS * CHECKS)
    rows: dict[int, NDArray[np.uint64]] = {}
    for number, chunk in chunks.items():
        owner = owners[number]
        product = _by_rows(Keystream(_seed(seed, f"chunk {number}")), chunk)
        rows[owner] = rows[owner] + product if owner in rows else product
    dtype = next(iter(chunks.values())).dtype
    words = {}
    for owner, product in rows.items():
        square = _times(narrow, product.astype(dtype).T)
        words[owner] = _times(final, square.astype(dtype).reshape(-1, 1))[:, 0].astype(dtype)
    return words


def _seed(seed: bytes, purpose: str) -> bytes:
    return hashlib.sha256(labels.CHECK_SEED + b"\0" + seed + purpose.encode()).digest()


def _by_rows(stream: Keystream, chunk: NDArray[Any]) -> NDArray[np.uint64]:
    """A fresh 0/1 matrix times the chunk, laid out as rows: uint64, shape (CHECKS, _WIDTH)."""
    height = -(-len(chunk) // _WIDTH)
    total = np.zeros((CHECKS, _WIDTH), np.uint64)
    for top in range(0, height, _EXACT_ROWS):
        part = chunk[top * _WIDTH : (top + _EXACT_ROWS) * _WIDTH]
        lines = -(-len(part) // _WIDTH)
        laid_out = np.zeros((lines, _WIDTH), chunk.dtype)
        laid_out.reshape(-1)[: len(part)] = part
        total += _times(_coins(stream, CHECKS, lines), laid_out)
    return total


def _coins(stream: Keystream, rows: int, columns: int) -> NDArray[np.float64]:
    octets = np.empty((rows, -(-columns // 8)), np.uint8)
    stream.fill(octets.reshape(-1))
    return np.unpackbits(octets, axis=1, count=columns).astype(np.float64)


def _times(coins: NDArray[np.float64], words: NDArray[Any]) -> NDArray[np.uint64]:
    """``coins @ words`` modulo 2^64."""
    if words.dtype.itemsize < 8:
        return (coins @ words.astype(np.float64)).astype(np.uint64)
    low = coins @ (words & np.uint64(0xFFFFFFFF)).astype(np.float64)
    high = coins @ (words >> np.uint64(32)).astype(np.float64)
    return low.astype(np.uint64) + (high.astype(np.uint64) << np.uint64(32))
