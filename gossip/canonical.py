"""One byte string per value: the only encoding that is signed, hashed or sent.

A subset of msgpack: ``None``, ``bool``, integers of 64 bits, ``bytes``, ``str``, sequences, and maps whose
keys are sorted strings. Floats are refused, because no two platforms need agree on how to print one.
Decoding encodes again and compares, so a second spelling of a value is an error, not a second digest.
"""

from collections.abc import Sequence
from typing import cast

import msgpack  # type: ignore[import-untyped]  # ships no type information

MAX_DEPTH = 16
"""Deepest nesting of sequences and maps; the manifest, the deepest object there is, needs six."""


def pack(value: object) -> bytes:
    """Encode ``value``; tuples and lists are the same thing.

    Raises:
        ValueError: a float, an integer beyond 64 bits, a key that is no string, nesting beyond
        :data:`MAX_DEPTH`,
            or any other type.
    """
    try:
        return cast(bytes, msgpack.packb(_ordered(value, MAX_DEPTH)))
    except OverflowError as error:
        raise ValueError("integer does not fit 64 bits") from error


def unpack_untrusted(data: bytes, max_bytes: int) -> object:
    """Decode bytes from anywhere; sequences come back as lists.

    Raises:
        ValueError: longer than ``max_bytes``, not msgpack, or not what :func:`pack` would have written.
    """
    if len(data) > max_bytes:
        raise ValueError(f"{len(data)} bytes where at most {max_bytes} are allowed")
    try:
        value = cast(object, msgpack.unpackb(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("not valid msgpack") from error
    if pack(value) != data:
        raise ValueError("not canonically encoded")
    return value


def _ordered(value: object, depth: int) -> object:
    if value is None or isinstance(value, bool | int | bytes | str):
        return value
    if depth == 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a map key is not a string")
        return {key: _ordered(value[key], depth - 1) for key in sorted(value)}
    if isinstance(value, Sequence):
        return [_ordered(item, depth - 1) for item in value]
    raise ValueError(f"{type(value).__name__} has no canonical encoding")
