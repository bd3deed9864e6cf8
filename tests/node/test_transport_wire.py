"""Frames and bodies over one stream: whole, true and in time, or an error."""

import hashlib
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from random import Random

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.stream_muxer.exceptions import MuxedStreamReset
from muxed import muxers, opened, run, run_in_virtual_time

from p2pfl.node.hardened.wire import WireError, read_body, read_exactly, read_frame, write_body, write_frame
from p2pfl.node.hardened.yamux_stream import INITIAL_WINDOW, PIECE, Arrived, YamuxStream


def body(data: bytes, *, length: int | None = None, digest: bytes | None = None) -> bytes:
    size = len(data) if length is None else length
    return size.to_bytes(8, "big") + data + (hashlib.sha256(data).digest() if digest is None else digest)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (body(b"model", digest=bytes(32)), "does not have the digest"),
        (body(b"model", length=6), "ended early"),
        (body(b"model")[:-1], "ended early"),
        (body(b"model", length=1001), "a body of 1001 bytes where 1000 are allowed"),
        (body(b"model", length=(1 << 64) - 1), "where 1000 are allowed"),
        (b"", "ended early"),
    ],
)
def test_a_body_is_whole_and_true_or_an_error(sent: bytes, reason: str) -> None:
    async def test(nursery: trio.Nursery) -> None:
        ours, theirs = await opened(*muxers(nursery))
        await ours.write(sent)
        await ours.close()
        with pytest.raises(WireError, match=reason):
            await read_body(theirs, 1000, 5, lambda size: None)

    run(test)


READERS: dict[str, Callable[[YamuxStream], Awaitable[bytes]]] = {
    "frame": lambda stream: read_frame(stream, 1 << 20, 7),
    "body": lambda stream: read_body(stream, 1 << 20, 7, lambda size: None),
    "bytes": lambda stream: read_exactly(stream, 1 << 20, 7),
}
LENGTHS = {"frame": (1 << 20).to_bytes(4, "big"), "body": (1 << 20).to_bytes(8, "big"), "bytes": b""}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("begun", [0, 3, 500, PIECE + 500])
def test_what_stalls_is_given_up(what: str, begun: int) -> None:
    """Before its length is there, within its length, within its content."""

    async def test(nursery: trio.Nursery) -> None:
        ours, theirs = await opened(*muxers(nursery))
        await ours.write((LENGTHS[what] + bytes(PIECE + 1000))[:begun])
        start = trio.current_time()
        with pytest.raises(WireError, match="sent too little for 7 s"):
            await READERS[what](theirs)
        assert trio.current_time() - start == 7

    run_in_virtual_time(test)


def test_a_body_without_its_digest_is_given_up() -> None:
    async def test(nursery: trio.Nursery) -> None:
        ours, theirs = await opened(*muxers(nursery))
        await ours.write(body(b"model")[:-1])
        with pytest.raises(WireError, match="sent too little for 7 s"):
            await read_body(theirs, 1000, 7, lambda size: None)

    run_in_virtual_time(test)


async def trickle(stream: YamuxStream, data: bytes, size: int, seconds: float) -> None:
    with suppress(MuxedStreamReset):
        for at in range(0, len(data), size):
            await stream.write(data[at : at + size])
            await trio.sleep(seconds)


def test_a_byte_a_second_is_too_little() -> None:
    async def test(nursery: trio.Nursery) -> None:
        ours, theirs = await opened(*muxers(nursery))
        nursery.start_soon(trickle, ours, LENGTHS["frame"] + bytes(1 << 20), 1, 1)
        with pytest.raises(WireError, match="sent too little for 7 s"):
            await READERS["frame"](theirs)
        assert trio.current_time() - ours._moved_at < 30

    run_in_virtual_time(test)


def test_slow_is_not_too_slow() -> None:
    async def test(nursery: trio.Nursery) -> None:
        ours, theirs = await opened(*muxers(nursery))
        nursery.start_soon(trickle, ours, LENGTHS["frame"] + bytes(1 << 20), PIECE // 4, 1)
        start = trio.current_time()
        assert await READERS["frame"](theirs) == bytes(1 << 20)
        assert trio.current_time() - start > 60

    run_in_virtual_time(test)


@settings(max_examples=30)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 9000)), max_size=40), st.randoms(use_true_random=False)
)
def test_what_arrived_is_taken_in_order(steps: list[tuple[bool, int]], random: Random) -> None:
    arrived, model = Arrived(), b""
    for adds, size in steps:
        if adds:
            data, unrelated = random.randbytes(size), bytes(random.choice((0, size - 1, size + 2)))
            arrived.add(memoryview(data + unrelated)[:size])
            model += data
        else:
            assert b"".join(arrived.take(size)) == model[:size]
            model = model[size:]
        assert len(arrived) == len(model)
    assert b"".join(arrived.take(1 << 20)) == model


CUTS = {
    "one byte of a record": lambda: memoryview(bytes(1)),
    "one byte of a large record": lambda: memoryview(bytes(1 << 16))[:1],
    "a small part of a large record": lambda: memoryview(bytes(1 << 16))[:5000],
    "whole records": lambda: memoryview(bytes(1 << 16)),
}


@pytest.mark.parametrize("cut", CUTS)
def test_what_is_held_is_not_much_more_than_what_arrived(cut: str) -> None:
    arrived = Arrived()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        while len(arrived) < INITIAL_WINDOW:
            arrived.add(CUTS[cut]())
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held < 2.2 * INITIAL_WINDOW


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=300) | st.integers(60_000, 200_000).map(bytes), max_size=8))
def test_frames_and_bodies_come_back_as_they_were(pieces: list[bytes]) -> None:
    async def test(nursery: trio.Nursery) -> None:
        ours, theirs = await opened(*muxers(nursery))

        async def send() -> None:
            for piece in pieces:
                await write_frame(ours, piece)
                await write_body(ours, piece)

        nursery.start_soon(send)
        counted: list[int] = []
        for piece in pieces:
            assert await read_frame(theirs, 200_000, 5) == piece
            assert await read_body(theirs, 200_000, 5, counted.append) == piece
        assert sum(counted) == sum(map(len, pieces))

    run(test)
