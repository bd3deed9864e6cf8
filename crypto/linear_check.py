"""Whether chunks were added up rightly, from a few words of every contributor.

For every owner o of chunks a random map R_o, over the ring, takes what is in all of its chunks to
:data:`CHECKS` words. It is linear, so if the owner's sums are right, the words of the contributions add up to
the words of the sums. If they are wrong, the words differ but with a probability of 3 * 2^-40.

R_o is three random 0/1 matrices in a row: each chunk is laid out as rows of :data:`WIDTH` elements, of which
the first makes 40 x 256, the second, from the right, 40 x 40, and the third takes these 1,600 words to 40.
A matrix that is not zero, times a random 0/1 vector, is zero with probability at most 1/2 in any ring Z_2^b
(fix all coins but one that meets a column that is not zero); 40 such vectors lose it with probability at most
2^-40. So does each step. The coins must be drawn after contributions and sums are fixed: the seed is a digest
of all of them.

All products are of integers whose sums stay below 2^53 in float64, and therefore exact, in whatever order
they are added: bit for bit the same everywhere. The first is nearly all the cost, 40 multiplications an
element; it goes block by block, through memory that is used again, because fresh pages would cost more. And
it goes a few rows of coins at a time: OpenBLAS shares larger products among threads of its own, which spin
while they wait for each other, and on a busy machine that cost four times as much as a whole round.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.crypto.randomness import Keystream

Words = dict[int, NDArray[Any]]
"""By owner, what its chunks are taken to."""
CHECKS: Final = 40
"""Words per owner."""
WIDTH: Final = 256
"""Elements in a row."""
BLOCK_ROWS: Final = 256
"""Rows in a block: 2^8 * 2^32 is far below 2^53."""
_ONE_THREAD: Final = 1 << 18
"""So many multiplications of a product OpenBLAS still keeps on one thread."""


class _Scratch(threading.local):
    """Of each thread, for one block and for the last step."""

    def __init__(self) -> None:
        self.rows = np.empty((BLOCK_ROWS, WIDTH))
        self.coins = np.empty((CHECKS, BLOCK_ROWS))
        self.product = np.empty((CHECKS, WIDTH))
        self.last = np.empty((CHECKS, CHECKS * CHECKS))


_SCRATCH: Final = _Scratch()


def check_values(seed: bytes, chunks: Mapping[int, NDArray[Any]], owners: Sequence[int]) -> Words:
    """By owner, the :data:`CHECKS` words of its chunks under the map of ``seed`` (32 bytes).

    ``chunks``: chunks of one vector by number, unsigned integers of 16, 32 or 64 bits; chunk c belongs to
    ``owners[c]``. Only owners of some of them appear. The words have the chunks' dtype.
    """
    dtype = next(iter(chunks.values())).dtype
    rows: dict[int, NDArray[np.uint64]] = {}
    for number, chunk in chunks.items():
        total = rows.setdefault(owners[number], np.zeros((CHECKS, WIDTH), np.uint64))
        _add_rows(total, Keystream(_seed(seed, f"chunk {number}")), chunk)
    narrow = _coins(Keystream(_seed(seed, "right")), np.empty((CHECKS, WIDTH)))
    last = _coins(Keystream(_seed(seed, "last")), _SCRATCH.last)
    words = {}
    for owner, product in rows.items():
        square = _times(narrow, product.astype(dtype).T)
        words[owner] = _times(last, square.astype(dtype).reshape(-1, 1))[:, 0].astype(dtype)
    return words


def _add_rows(total: NDArray[np.uint64], stream: Keystream, chunk: NDArray[Any]) -> None:
    """Add to ``total`` (CHECKS, WIDTH) a fresh 0/1 matrix times the chunk, laid out as rows, modulo 2^64.

    A last row that is not full ends in zeros. A last block that is not draws as many coins as the others.
    """
    size = BLOCK_ROWS * WIDTH
    for start in range(0, len(chunk), size):
        block = chunk[start : start + size]
        coins = _coins(stream, _SCRATCH.coins)
        for limb in range(max(1, block.itemsize // 4)):
            words = block if block.itemsize < 8 else block.view(np.uint32)[limb::2]
            used = -(-len(words) // WIDTH)
            rows, product = _SCRATCH.rows[:used].reshape(-1), _SCRATCH.product
            np.copyto(rows[: len(words)], words)
            rows[len(words) :] = 0
            _multiply(coins[:, :used], _SCRATCH.rows[:used], product)
            total += product.astype(np.uint64) << np.uint64(32 * limb)


def _seed(seed: bytes, purpose: str) -> bytes:
    return hashlib.sha256(labels.CHECK_SEED + b"\0" + seed + purpose.encode()).digest()


def _coins(stream: Keystream, out: NDArray[np.float64]) -> NDArray[np.float64]:
    """``out`` filled with zeros and ones: row by row, the bits of the stream, of each byte the highest
    first.
    """
    octets = np.empty(out.size // 8, np.uint8)
    stream.fill(octets)
    np.copyto(out, np.unpackbits(octets).reshape(out.shape))
    return out


def _times(coins: NDArray[np.float64], words: NDArray[Any]) -> NDArray[np.uint64]:
    """``coins @ words`` modulo 2^64."""
    product = np.empty((len(coins), words.shape[1]))
    total = np.zeros(product.shape, np.uint64)
    for limb in range(max(1, words.itemsize // 4)):
        part = words if words.itemsize < 8 else (words >> np.uint64(32 * limb)) & np.uint64(0xFFFFFFFF)
        _multiply(coins, part.astype(np.float64), product)
        total += product.astype(np.uint64) << np.uint64(32 * limb)
    return total


def _multiply(coins: NDArray[np.float64], words: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    """``coins @ words``, on this thread alone."""
    if words.shape[1] == 1:
        np.einsum("ij,jk->ik", coins, words, out=out)  # BLAS would share even this
        return
    few = max(1, _ONE_THREAD // words.size)
    for first in range(0, len(coins), few):
        np.matmul(coins[first : first + few], words, out=out[first : first + few])
