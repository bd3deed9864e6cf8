"""Canonical encoding: one spelling per value, and nothing but ValueError from bytes of anybody."""

import tracemalloc

import msgpack  # type: ignore[import-untyped]  # ships no type information
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.gossip.canonical import MAX_DEPTH, pack, unpack_untrusted

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.text(max_size=20)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


@given(values)
def test_round_trip(value: object) -> None:
    data = pack(value)
    assert unpack_untrusted(data, len(data)) == value
    assert pack(unpack_untrusted(data, len(data))) == data


def test_order_of_keys_and_kind_of_sequence_do_not_matter() -> None:
    assert (
        pack({"b": (1, 2), "a": [3]})
        == pack({"a": (3,), "b": [1, 2]})
        == b"\x82\xa1a\x91\x03\xa1b\x92\x01\x02"
    )


@pytest.mark.parametrize(
    "value",
    [
        1.0,
        float("nan"),
        2**64,
        -(2**63) - 1,
        {1: 2},
        {b"a": 2},
        {1, 2},
        object(),
        [1.5],
        {"a": {"b": 0.5}},
        "\ud800",
    ],
)
def test_what_has_no_canonical_form(value: object) -> None:
    with pytest.raises(ValueError):
        pack(value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xcc\x01",  # 1 in two bytes
        b"\xd9\x01a",  # a short string with a long header
        b"\xdc\x00\x01\x01",  # a short list with a long header
        b"\x82\xa1b\x01\xa1a\x01",  # keys out of order
        b"\x82\xa1a\x01\xa1a\x01",  # a key twice
        b"\x81\x01\x01",  # a key that is a number
        b"\x81\xc4\x01a\x01",  # a key of bytes
        b"\xcb" + bytes(8),  # a float
        b"\xca" + bytes(4),
        b"\xc7\x01\x01\x00",  # an extension type
        b"\xd6\xff\x00\x00\x00\x00",  # a timestamp
        b"\xa1\xff",  # not UTF-8
        b"\x01\x01",  # more than one value
        b"\x92\x01",  # less than one
        b"\xdd\xff\xff\xff\xff",  # a list of four billion
        b"\xc6\xff\xff\xff\xff",
        b"\xc1",
    ],
)
def test_other_spellings_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        unpack_untrusted(data, 1000)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_value_error(data: bytes) -> None:
    try:
        value = unpack_untrusted(data, 60)
    except ValueError:
        return
    assert pack(value) == data


@given(values, st.data())
def test_what_others_would_write_is_refused_unless_it_is_the_same(value: object, data: st.DataObject) -> None:
    foreign: bytes = msgpack.packb(value, use_single_float=data.draw(st.booleans()))
    try:
        unpack_untrusted(foreign, len(foreign))
    except ValueError:
        assert foreign != pack(value)
    else:
        assert foreign == pack(value)


def test_length_and_depth_are_bounded() -> None:
    with pytest.raises(ValueError):
        unpack_untrusted(pack(bytes(100)), 101)
    unpack_untrusted(pack(bytes(100)), 102)
    nested: object = 1
    for _ in range(MAX_DEPTH):
        nested = [nested]
    pack(nested)
    with pytest.raises(ValueError):
        pack([nested])
    for depth in (MAX_DEPTH + 1, 600, 100_000):
        with pytest.raises(ValueError):
            unpack_untrusted(b"\x91" * depth + b"\x01", 200_000)


@pytest.mark.parametrize(
    "before", [b"", b"\xcb\xc6\xff\xff\xff\xff\0\0\0", b"\xc7\x05\x01\xc6\xff\xff\xff\xff"]
)
@pytest.mark.parametrize("announced", [b"\xdc\x28\x00", b"\xdd\x00\x00\x28\x00", b"\x9f", b"\x8f\xa1a"])
def test_lists_inside_lists_are_not_announced_at_our_cost(announced: bytes, before: bytes) -> None:
    """No float and no extension hides them, either."""
    data = b"\x92" + before + announced * 4000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            unpack_untrusted(data, len(data))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@given(values)
def test_headers_are_read_as_msgpack_reads_them(value: object) -> None:
    """Were one misread, what comes after it would seem deeper or not as deep as it is."""
    for depth in range(MAX_DEPTH + 2):
        nested = wrapped(value, depth)
        if depth + height(value) <= MAX_DEPTH:
            assert unpack_untrusted(pack(nested), 1 << 20) == nested
        else:
            with pytest.raises(ValueError):
                unpack_untrusted(msgpack.packb(nested), 1 << 20)


def wrapped(value: object, depth: int) -> object:
    return wrapped([value], depth - 1) if depth else value


def height(value: object) -> int:
    """Lists and maps around the innermost value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(height, inner), default=0)
