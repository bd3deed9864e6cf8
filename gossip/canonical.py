"""One byte string per value: the only encoding that is signed, hashed or sent.

A subset of msgpack: ``None``, ``bool``, integers of 64 bits, ``bytes``, ``str``, sequences, and maps whose
keys are sorted strings. Floats are refused, because no two platforms need agree on how to print one.
Decoding encodes again and compares, so a second spelling of a value is an error, not a second digest.
"""

from collections.abc import Sequence
from typing import Final, cast

import msgpack  # type: ignore[import-untyped]  # ships no type information

MAX_DEPTH = 16
"""Deepest nesting of sequences and maps; the manifest, the deepest object there is, needs six."""

_PLAIN: Final = frozenset((type(None), bool, int, bytes, str))
_NUMBERS_AND_TEXTS: Final = (int, bytes, str)
_SEQUENCES: Final = (list, tuple, Sequence)  # the last takes long to find out

# By the first byte of a value: how wide the length or number after it is, then the bytes and the items that
# follow for each unit of a length. Left out: values of that byte alone, and short texts, lists and maps.
_WIDTHS: Final = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), (0, 0, 0)),  # null, false, true
    **{0xC4 + power: (1 << power, 1, 0) for power in range(3)},  # byte strings
    **{0xCC + power: (1 << power, 0, 0) for power in range(4)},  # integers from 0
    **{0xD0 + power: (1 << power, 0, 0) for power in range(4)},  # and below
    **{0xD9 + power: (1 << power, 1, 0) for power in range(3)},  # texts
    **{0xDC + power: (2 << power, 0, 1) for power in range(2)},  # lists
    **{0xDE + power: (2 << power, 0, 2) for power in range(2)},  # maps
}


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
    _require_shallow(data)
    try:
        value = cast(object, msgpack.unpackb(data))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("not valid msgpack") from error
    if pack(value) != data:
        raise ValueError("not canonically encoded")
    return value


def _require_shallow(data: bytes) -> None:
    """Refuse what nests too deep before any of it is built.

    msgpack makes room for a list's items when it is announced, up to 80 kB, and takes a thousand
    announcements inside one another: 80 MB for ten kilobytes. What else is wrong with ``data`` is left to it.
    """
    at, left = 0, [1]  # items still to come at each depth
    while left and at < len(data):
        left[-1] -= 1
        items, at = _announced(data, at)
        if items:
            left.append(items)
            if len(left) > MAX_DEPTH + 1:
                raise ValueError(f"nested deeper than {MAX_DEPTH}")
        while left and not left[-1]:
            left.pop()


def _announced(data: bytes, at: int) -> tuple[int, int]:
    """How many items, keys included, the value at ``at`` has inside, and where those or the next value begin.

    Raises ValueError for floats and extensions: their content must not be taken for values.
    """
    head = data[at]
    if head < 0x80 or head >= 0xE0:  # small integers
        return 0, at + 1
    if head < 0xA0:
        return (head & 15) * (2 if head < 0x90 else 1), at + 1
    if head < 0xC0:
        return 0, at + 1 + (head & 31)
    if head not in _WIDTHS:
        raise ValueError(f"type {head:#x} has no canonical encoding")
    width, bytes_each, items_each = _WIDTHS[head]
    start = at + 1 + width
    length = int.from_bytes(data[at + 1 : start], "big")
    return length * items_each, start + length * bytes_each


def _ordered(value: object, depth: int) -> object:
    if type(value) in _PLAIN or isinstance(value, _NUMBERS_AND_TEXTS):
        return value
    if depth == 0:
        raise ValueError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a map key is not a string")
        return {key: _ordered(value[key], depth - 1) for key in sorted(value)}
    if isinstance(value, _SEQUENCES):
        # Most items are plain, and this is where much of the time of a round among many goes.
        return [item if type(item) in _PLAIN else _ordered(item, depth - 1) for item in value]
    raise ValueError(f"{type(value).__name__} has no canonical encoding")
