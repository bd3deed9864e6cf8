"""Random draws that come out the same at every node: integers only, from SHA-256 in counter mode.

All members of a federation draw the same groups from the same beacon, so nothing here may depend on the
platform, the version of Python or the order of a set. The stream is public and predictable to whoever knows
its key; it decides who meets whom and protects no secret.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, TypeVar

_T = TypeVar("_T")
_WORD_BYTES: Final = 8
_WORDS: Final = 1 << 8 * _WORD_BYTES


class Draws:
    """A stream of 64-bit words: SHA-256(label || 0x00 || SHA-256(key) || tweak || counter), four words a
    block.

    ``tweak`` and the counter are 64-bit big-endian, and so are the words. ``label`` holds no zero byte;
    ``key`` may have any length.
    """

    __slots__ = ("_block", "_counter", "_prefix")

    def __init__(self, label: bytes, key: bytes, tweak: int = 0) -> None:
        self._prefix = label + b"\x00" + hashlib.sha256(key).digest() + tweak.to_bytes(8, "big")
        self._counter = 0
        self._block = b""

    def word(self) -> int:
        """The next 64 bits."""
        if not self._block:
            self._block = hashlib.sha256(self._prefix + self._counter.to_bytes(8, "big")).digest()
            self._counter += 1
        word, self._block = self._block[:_WORD_BYTES], self._block[_WORD_BYTES:]
        return int.from_bytes(word, "big")

    def below(self, bound: int) -> int:
        """A uniform integer in [0, ``bound``): words beyond the last full multiple are drawn again."""
        limit = _WORDS - _WORDS % bound
        while (word := self.word()) >= limit:
            pass
        return word % bound

    def permutation(self, items: Sequence[_T]) -> list[_T]:
        """``items`` in uniformly random order (Fisher and Yates; Durstenfeld 1964)."""
        drawn = list(items)
        for last in range(len(drawn) - 1, 0, -1):
            other = self.below(last + 1)
            drawn[last], drawn[other] = drawn[other], drawn[last]
        return drawn
