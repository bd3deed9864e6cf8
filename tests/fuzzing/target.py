"""What is fuzzed: a decoder, what it may raise and allocate, and inputs to begin with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from mutations import mutated_packed


@dataclass(frozen=True)
class Target:
    """``decode`` returns, or raises one of ``allowed``; where the encoding is canonical, it also encodes what
    it accepted, and compares.

    ``seeds`` are accepted. ``reshape`` changes an input and repairs what would hide the change from most of
    the decoder: signatures, digests, encodings.
    """

    name: str
    decode: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]
    reshape: Callable[[bytes, Random], bytes] = field(default=mutated_packed)
    printable: bool = True
    """Whether what it raises is; a library's words are made so by the log and the command line."""


def require_same(written: bytes, data: bytes) -> None:
    """What was accepted must be the only spelling of what it stands for."""
    assert written == data, "it was accepted, and its encoding is another"
