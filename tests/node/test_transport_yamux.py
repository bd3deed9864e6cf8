"""The multiplexer over a wire made of memory: windows, cancellation, ends, and what a peer can do to it."""

import contextlib
import random
import struct
from contextlib import nullcontext, suppress

import pytest
import trio
import trio.lowlevel
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamReset,
)
from muxed import (
    LIMITS,
    PEER,
    Wire,
    frame,
    muxers,
    opened,
    read_all,
    read_until_reset,
    run,
    run_in_virtual_time,
    wires,
    write_until_reset,
)

from p2pfl.node.hardened.yamux import Yamux
from p2pfl.node.hardened.yamux_stream import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    INITIAL_WINDOW,
    PIECE,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    YamuxStream,
)

# -- the ordinary


@pytest.mark.parametrize("size", [0, 1, INITIAL_WINDOW, INITIAL_WINDOW + 1, 5 * INITIAL_WINDOW + 7])
def test_bytes_arrive_in_order_and_close_is_a_clean_end(size: int) -> None:
    async def test(nursery: trio.Nursery) -> None:
        left, right = muxers(nursery)
        ours, theirs = await opened(left, right)
        data = random.Random(size).randbytes(size)

        async def send() -> None:
            await ours.write(data)
            await ours.close()

        nursery.start_soon(send)
        assert await read_all(theirs) == data
        await theirs.write(b"and back")
        await theirs.close()
        assert await read_all(ours) == b"and back"

    run(test)


def test_the_window_follows_a_reader_that_keeps_up() -> None:
    async def test(nursery: trio.Nursery) -> None:
        left, right = muxers(nursery)
        ours, theirs = await opened(left, right)
        assert theirs.widened == 0
        nursery.start_soon(write_until_reset, ours)
        for _ in range(1000):
            await theirs.read()
            if theirs.widened == LIMITS.spare_window:
                break
        assert theirs.widened == LIMITS.spare_window  # all there is to lend, and no more
        await theirs.reset()
        again, accepted = await opened(left, right)
        nursery.start_soon(write_until_reset, again)
        for _ in range(1000):
            await accepted.read()
            if accepted.widened:
                break
        assert accepted.widened > 0  # what the first stream had was returned

    run(test)


def test_a_slow_reader_does_not_stall_other_streams() -> None:
    async def test(nursery: trio.Nursery) -> None:
        left, right = muxers(nursery)
        stuck, never_read = await opened(left, right)
        nursery.start_soon(stuck.write, bytes(4 * INITIAL_WINDOW))
        for _ in range(5):
            ours, theirs = await opened(left, right)
            nursery.start_soon(ours.write, bytes(INITIAL_WINDOW))
            got = 0
            while got < INITIAL_WINDOW:
                got += len(await theirs.read())
        assert never_read._granted == 0  # it did fill its window meanwhile

    run(test)


def test_both_sides_push_while_streams_open_and_close() -> None:
    """The library dead-locks here: its reader waits for the writer's lock to acknowledge a stream."""

    async def test(nursery: trio.Nursery) -> None:
        pair = muxers(nursery)
        size = 2 << 20

        async def push(muxer: Yamux) -> None:
            stream = await muxer.open_stream()
            await stream.write(bytes(size))
            await stream.close()

        async def small(muxer: Yamux) -> None:
            for _ in range(50):
                stream = await muxer.open_stream()
                await stream.write(b"x")
                await stream.reset()

        async def serve(muxer: Yamux, done: trio.Event) -> None:
            async with trio.open_nursery() as inner:

                async def take(stream: YamuxStream) -> None:
                    try:
                        if len(await read_all(stream)) == size:
                            done.set()
                    except MuxedStreamReset:
                        pass

                while True:
                    inner.start_soon(take, await muxer.accept_stream())

        events = [trio.Event(), trio.Event()]
        for muxer, event in zip(pair, events, strict=True):
            nursery.start_soon(serve, muxer, event)
            nursery.start_soon(push, muxer)
            nursery.start_soon(small, muxer)
        for event in events:
            await event.wait()

    run(test)


# -- ends


def test_cancelled_write_leaves_no_half_frame() -> None:
    async def test(nursery: trio.Nursery) -> None:
        left, right = muxers(nursery)
        stuck, unread = await opened(left, right)
        with trio.move_on_after(0.05) as scope:
            await stuck.write(bytes(4 * INITIAL_WINDOW))  # blocks: nobody reads
        assert scope.cancelled_caught
        await stuck.reset()
        await read_until_reset(unread)
        ours, theirs = await opened(left, right)
        await ours.write(b"still in step")
        assert await theirs.read() == b"still in step"

    run(test)


def test_what_arrived_before_the_connection_broke_is_readable_and_then_it_is_no_clean_end() -> None:
    async def test(nursery: trio.Nursery) -> None:
        left, right = muxers(nursery)
        ours, theirs = await opened(left, right)
        await ours.write(b"last words")
        while not theirs._received:
            await trio.lowlevel.checkpoint()
        await left.secured.close()
        await right.ended.wait()
        assert await theirs.read() == b"last words"
        with pytest.raises(MuxedStreamReset, match="the connection ended"):
            await theirs.read()
        with pytest.raises(MuxedStreamReset):
            await theirs.write(b"x")
        with pytest.raises(MuxedConnUnavailable):
            await right.open_stream()
        with pytest.raises(MuxedConnUnavailable):
            await right.accept_stream()

    run(test)


def test_close_wakes_a_blocked_writer_and_reader_on_both_sides() -> None:
    async def test(nursery: trio.Nursery) -> None:
        left, right = muxers(nursery)
        ours, theirs = await opened(left, right)
        ended = []

        async def write() -> None:
            with pytest.raises(MuxedStreamReset):
                await ours.write(bytes(4 * INITIAL_WINDOW))
            ended.append("writer")

        async def read() -> None:
            with pytest.raises(MuxedStreamReset):
                await ours.read()
            ended.append("reader")

        async with trio.open_nursery() as inner:
            inner.start_soon(write)
            inner.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await right.close()
        assert sorted(ended) == ["reader", "writer"]
        assert "the peer closed the connection" in left.reason
        assert theirs.muxer is right

    run(test)


def test_writing_after_close_is_an_error() -> None:
    async def test(nursery: trio.Nursery) -> None:
        left, right = muxers(nursery)
        ours, _ = await opened(left, right)
        await ours.close()
        with pytest.raises(MuxedStreamClosed):
            await ours.write(b"x")

    run(test)


def test_close_before_start_and_twice() -> None:
    async def test(nursery: trio.Nursery) -> None:
        muxer = Yamux(wires()[0], PEER, LIMITS)  # type: ignore[arg-type]
        await muxer.close()
        await muxer.close()
        assert muxer.is_closed
        nursery.start_soon(muxer.start)
        await muxer.event_started.wait()

    run(test)


def test_a_silent_peer_is_pinged_and_given_up() -> None:
    async def test(nursery: trio.Nursery) -> None:
        here, there = wires()
        muxer = Yamux(here, PEER, LIMITS)  # type: ignore[arg-type]
        nursery.start_soon(muxer.start)
        start = trio.current_time()
        assert (await there.read())[:4] == frame(PING, SYN, 0, 0)[:4]
        with trio.move_on_after(100):
            while True:
                if not await there.read():
                    break
        await muxer.ended.wait()
        assert muxer.reason == "no sign of life for 20 s"
        assert 20 <= trio.current_time() - start <= 26

    run_in_virtual_time(test)


def test_an_answering_peer_is_kept_for_ever() -> None:
    async def test(nursery: trio.Nursery) -> None:
        left, right = muxers(nursery)
        await trio.sleep(10_000)
        assert not left.is_closed
        assert not right.is_closed

    run_in_virtual_time(test)


def test_a_stream_that_we_closed_and_the_peer_never_does_is_dropped() -> None:
    async def test(nursery: trio.Nursery) -> None:
        ours, theirs = await opened(*muxers(nursery))
        await ours.close()
        await trio.sleep(100)
        await read_until_reset(theirs)

    run_in_virtual_time(test)


# -- a peer that takes too little


def test_a_stream_that_the_peer_does_not_read_is_dropped_and_the_connection_stays() -> None:
    async def test(nursery: trio.Nursery) -> None:
        left, right = muxers(nursery)
        stuck, unread = await opened(left, right)
        start = trio.current_time()
        with pytest.raises(MuxedStreamReset, match="took too little of it for 20 s"):
            await stuck.write(bytes(2 * INITIAL_WINDOW))
        assert 20 <= trio.current_time() - start <= 26
        await read_until_reset(unread)
        ours, theirs = await opened(left, right)
        await ours.write(b"unharmed")
        assert await theirs.read() == b"unharmed"

    run_in_virtual_time(test)


@pytest.mark.parametrize(("seconds", "kept"), [(8, True), (80, False)])
def test_a_slow_reader_keeps_its_stream_if_it_is_not_too_slow(seconds: float, kept: bool) -> None:
    """A piece every eight seconds will do, for as long as it takes; one every eighty will not."""

    async def test(nursery: trio.Nursery) -> None:
        ours, theirs = await opened(*muxers(nursery))
        size, got = 8 * INITIAL_WINDOW, 0

        async def read() -> None:
            nonlocal got
            with suppress(MuxedStreamReset):
                while got < size:
                    await trio.sleep(seconds / 16)
                    got += len(await theirs.read(PIECE // 16))

        nursery.start_soon(read)
        with nullcontext() if kept else pytest.raises(MuxedStreamReset):
            await ours.write(bytes(size))
        assert (got >= size - INITIAL_WINDOW) == kept

    run_in_virtual_time(test)


def test_a_connection_that_takes_nothing_is_given_up_however_lively_it_sounds() -> None:
    async def test(nursery: trio.Nursery) -> None:
        here, there = wires()
        muxer = Yamux(here, PEER, LIMITS)  # type: ignore[arg-type]
        nursery.start_soon(muxer.start)
        nursery.start_soon(_send_every_second, there, frame(PING, ACK, 0, 0))
        start = trio.current_time()
        await muxer.open_stream()  # which says so, to a peer that does not read it
        await muxer.ended.wait()
        assert trio.current_time() - start == 20
        assert muxer.reason == "it took too little for 20 s"

    run_in_virtual_time(test)


async def _send_every_second(wire: Wire, data: bytes) -> None:
    while True:
        await _send_ignoring_the_end(wire, data)
        await trio.sleep(1)


def test_closing_does_not_wait_for_a_peer_that_takes_nothing() -> None:
    async def test(nursery: trio.Nursery) -> None:
        muxer = Yamux(wires()[0], PEER, LIMITS)  # type: ignore[arg-type]
        nursery.start_soon(muxer.start)
        await muxer.open_stream()
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        await muxer.close()
        await muxer.ended.wait()
        assert trio.current_time() - start == 1

    run_in_virtual_time(test)


def test_closing_under_a_blocked_write_keeps_the_connection_in_order() -> None:
    async def test(nursery: trio.Nursery) -> None:
        left, right = muxers(nursery)
        ours, theirs = await opened(left, right)

        async def write() -> None:
            with pytest.raises(MuxedStreamClosed):
                await ours.write(bytes(4 * INITIAL_WINDOW))

        async with trio.open_nursery() as inner:
            inner.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            await ours.close()
        assert len(await read_all(theirs)) == INITIAL_WINDOW  # and nothing after the end
        assert not right.is_closed
        assert not left.is_closed

    run(test)


def test_no_data_follows_the_end_of_a_stream_that_was_waiting_its_turn() -> None:
    async def test(nursery: trio.Nursery) -> None:
        muxer = Yamux(wires()[0], PEER, LIMITS)  # type: ignore[arg-type]
        stream = await muxer.open_stream()

        async def write() -> None:
            with pytest.raises(MuxedStreamClosed):
                await stream.write(b"too late")

        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        await stream.close()
        opening, end = frame(WINDOW_UPDATE, SYN, 1, 0), frame(DATA, FIN, 1, 0)
        assert muxer._batch() == opening + end  # before the task that writes has noticed
        await trio.testing.wait_all_tasks_blocked()

    run(test)


# -- a peer that breaks the rules loses its connection, and only that

VIOLATIONS = {
    "another version": struct.pack(">BBHII", 1, DATA, SYN, 1, 0),
    "an unknown type": frame(9, 0, 1, 0),
    "stream zero": frame(DATA, SYN, 0, 0),
    "our parity": frame(DATA, SYN, 2, 0),
    "a stream opened twice": frame(DATA, SYN, 1, 0) * 2,
    "more than the window": frame(DATA, SYN, 1, INITIAL_WINDOW + 1),
    "more than the window in parts": frame(DATA, SYN, 1, INITIAL_WINDOW, bytes(INITIAL_WINDOW))
    + frame(DATA, 0, 1, 1),
    "data after the end": frame(DATA, SYN | FIN, 1, 0) + frame(DATA, 0, 1, 1, b"x"),
    "a window beyond reason": frame(WINDOW_UPDATE, SYN, 1, 1 << 31),
    "a huge frame for no stream": frame(DATA, 0, 77, 1 << 31),
    "a flood that must be answered": frame(PING, SYN, 0, 7) * 10_000,
}


@pytest.mark.parametrize("what", VIOLATIONS)
def test_violations_end_the_connection(what: str) -> None:
    async def test(nursery: trio.Nursery) -> None:
        here, there = wires()
        muxer = Yamux(here, PEER, LIMITS)  # type: ignore[arg-type]
        muxer.secured.is_initiator = False
        muxer._next_id = 2
        nursery.start_soon(muxer.start)
        nursery.start_soon(_send_ignoring_the_end, there, VIOLATIONS[what])
        await muxer.ended.wait()
        assert muxer.reason not in ("", "the connection ended")

    run(test)


async def _send_ignoring_the_end(wire: Wire, data: bytes) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await wire.write(data)


def test_harmless_oddities_are_tolerated() -> None:
    """Frames for streams that are gone, GO_AWAY, windows and resets of strangers: all may be on their way."""

    async def test(nursery: trio.Nursery) -> None:
        here, there = wires()
        muxer = Yamux(here, PEER, LIMITS)  # type: ignore[arg-type]
        nursery.start_soon(muxer.start)
        await there.write(
            frame(DATA, 0, 99, 5, b"stray")
            + frame(WINDOW_UPDATE, RST, 99, 3)
            + frame(PING, ACK, 0, 0)
            + frame(DATA, SYN | FIN, 2, 3, b"abc")
            + frame(GO_AWAY, 0, 0, 0)
        )
        stream = await muxer.accept_stream()
        assert await read_all(stream) == b"abc"
        with pytest.raises(MuxedConnUnavailable):
            await muxer.open_stream()

    run(test)


def test_streams_beyond_the_limit_are_reset() -> None:
    async def test(nursery: trio.Nursery) -> None:
        left, right = muxers(nursery)
        streams = [await left.open_stream() for _ in range(LIMITS.max_streams + 1)]
        with pytest.raises(MuxedStreamReset, match="reset by the peer"):
            await streams[-1].read()
        accepted = [await right.accept_stream() for _ in range(LIMITS.max_streams)]
        with pytest.raises(MuxedStreamReset, match="reset by the peer"):
            await (await left.open_stream()).read()
        await accepted[0].reset()
        ours, theirs = await opened(left, right)
        await ours.write(b"room again")
        assert await theirs.read() == b"room again"

    run(test)


def test_an_allowance_bounds_what_a_guest_may_send() -> None:
    async def test(nursery: trio.Nursery) -> None:
        left, right = muxers(nursery)
        right.limit_received(10_000)
        ours, theirs = await opened(left, right)
        await ours.write(bytes(9_000))
        await theirs.read()
        right.lift_limit()
        await ours.write(bytes(20_000))
        right.limit_received(10_000)
        await write_until_reset(ours)
        await right.ended.wait()
        assert right.reason == "more bytes than a guest may send"

    run(test)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(1, 40), max_size=20))
def test_any_bytes_in_any_split_end_well_or_with_a_reason(garbage: bytes, cuts: list[int]) -> None:
    """Whatever comes, the connection ends, with a reason, and :meth:`Yamux.start` raises nothing."""

    async def test(nursery: trio.Nursery) -> None:
        here, there = wires()
        muxer = Yamux(here, PEER, LIMITS)  # type: ignore[arg-type]
        nursery.start_soon(muxer.start)
        data = frame(DATA, SYN, 2, 3, b"abc") + garbage
        for cut in cuts:
            await _send_ignoring_the_end(there, data[:cut])
            data = data[cut:]
        await _send_ignoring_the_end(there, data)
        await there.close()
        await muxer.ended.wait()
        assert muxer.reason

    run(test)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=30))
def test_the_split_of_the_input_makes_no_difference(cuts: list[int]) -> None:
    async def test(nursery: trio.Nursery) -> None:
        muxer = Yamux(wires()[0], PEER, LIMITS)  # type: ignore[arg-type]
        data = (
            frame(DATA, SYN, 2, 5, b"hello")
            + frame(WINDOW_UPDATE, SYN, 4, 0)
            + frame(DATA, 0, 4, 3, b"abc")
            + frame(DATA, FIN, 2, 6, b" world")
        )
        while data:
            cut = cuts.pop(0) if cuts else len(data)
            muxer._parse(memoryview(data[:cut]))
            data = data[cut:]
        first, second = await muxer.accept_stream(), await muxer.accept_stream()
        assert await read_all(first) == b"hello world"
        assert await second.read() == b"abc"

    run(test)
