"""How an input becomes another one: of plain bytes, and of the values that canonical msgpack stands for."""

from collections.abc import Sequence
from random import Random

import msgpack  # type: ignore[import-untyped]  # ships no type information

from p2pfl.gossip.canonical import pack

LONGEST = 1 << 16
"""Bytes of the longest input that is made."""
_NUMBERS = [
    sign * (1 << bits) + by
    for bits in (0, 7, 8, 15, 16, 31, 32, 40, 63)
    for sign in (1, -1)
    for by in (-1, 0, 1)
]
_LEAVES: list[object] = [
    None,
    True,
    0,
    -1,
    1.5,
    b"",
    "",
    [],
    {},
    "\x1b[2J",
    "\u202e",
    "é" * 300,
    bytes(300),
    b"\xff",
]


def mutated(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """``data`` changed in one to four places; ``others`` are what parts may be taken from."""
    for _ in range(random.choice((1, 1, 2, 4))):
        start, end = sorted((random.randint(0, len(data)), random.randint(0, len(data))))
        match random.randrange(8):
            case 0:  # flip a bit
                data = (
                    data[:start]
                    + bytes(b ^ 1 << random.randrange(8) for b in data[start : start + 1])
                    + data[start + 1 :]
                )
            case 1:  # another byte
                data = data[:start] + random.randbytes(1) + data[start + 1 :]
            case 2:  # cut out, most often the end
                data = data[:start] + (data[end:] if random.random() < 0.5 else b"")
            case 3:  # repeat
                data = data[:start] + data[start:end] * random.choice((2, 3, 50, 1500)) + data[end:]
            case 4:  # another length
                size = random.choice((1, 2, 4, 8))
                number = random.choice((0, 1, len(data), 255, (1 << 8 * size) - 1, 1 << 8 * size - 1)) % (
                    1 << 8 * size
                )
                data = data[:start] + number.to_bytes(size, "big") + data[start + size :]
            case 5:  # splice
                other = random.choice(others) if others else data
                data = data[:start] + other[random.randint(0, len(other)) :]
            case 6:  # announce lists inside lists
                announced = random.choice((b"\x91", b"\xdc\x04\x00", b"\xdd\x00\x00\x28\x00", b"\x81\xa1a"))
                data = data[:start] + announced * random.choice((20, 2000)) + data[start:]
            case _:  # insert
                data = data[:start] + random.randbytes(random.choice((1, 2, 8))) + data[start:]
        data = data[:LONGEST]
    return data


def mutated_value(value: object, random: Random) -> object:
    """``value`` changed in one place, at any depth; types, lengths and ranges included."""
    if isinstance(value, list | dict) and value and random.random() < 0.8:
        keys: list[object] = list(value if isinstance(value, dict) else range(len(value)))
        key = random.choice(keys)
        changed = value.copy()
        changed[key] = mutated_value(value[key], random)  # type: ignore[call-overload]
        return changed
    if random.random() < 0.15:
        return random.choice([*_LEAVES, random.choice(_NUMBERS), [value], [value] * 300, {"a": value}])
    return _resized(value, random)


def _resized(value: object, random: Random) -> object:
    """Another value of the type that ``value`` has."""
    match value:
        case bool():
            return not value
        case int():
            return random.choice((*_NUMBERS, value + 1, value - 1, -value))
        case bytes():
            return mutated(value, (), random)
        case str():
            return mutated(value.encode(), (), random).decode(errors="replace")
        case list():
            at = random.randint(0, len(value))
            return random.choice(
                (value[:at], value[at:], value + value[at:], value * random.choice((2, 40)), value[::-1])
            )
        case dict():
            kept = {key: item for key, item in value.items() if random.random() < 0.8}
            return (
                {**kept, random.choice(("a", "", "é", "x" * 400)): random.choice(_LEAVES)}
                if random.random() < 0.5
                else kept
            )
        case _:
            return random.choice(_LEAVES)


def packed(value: object) -> bytes:
    """Canonical where that is possible, else in whatever way msgpack writes it."""
    try:
        return pack(value)
    except ValueError:
        try:
            data: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
        except (ValueError, OverflowError):
            return b"\xc1"
        return data


def unpacked(data: bytes) -> object:
    """The value in ``data``. Raises ValueError if there is none."""
    try:
        value: object = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError("not msgpack") from error
    return value


def mutated_packed(data: bytes, random: Random) -> bytes:
    """Canonical bytes of a value that is another one than ``data`` holds, if it holds one."""
    try:
        return packed(mutated_value(unpacked(data), random))
    except ValueError:
        return mutated(data, (), random)
