"""What goes over one stream: frames of a known length, and bodies of a known length with their SHA-256.

A peer that is killed looks, to most readers, like one that finished. So nothing here ends by the end of the
stream: lengths come first, and a body is not there until its digest is.

Whatever is read here must come at :data:`~.yamux_stream.PIECE` in ``seconds`` or faster. What is written must
be taken as fast: that is the multiplexer's part.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable, Sequence
from typing import Final

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.utils import encode_uvarint

from p2pfl.node.hardened.yamux_stream import PIECE, Arrived, YamuxStream

_FRAME: Final = struct.Struct(">I")
_BODY: Final = struct.Struct(">Q")
_DIGEST_BYTES: Final = 32
_CHUNK: Final = 1 << 20


class WireError(Exception):
    """The peer sent something else than it should have, or stopped in the middle; the message says what."""


async def read_exactly(
    stream: YamuxStream, size: int, seconds: float, seen: Callable[[memoryview], object] = len
) -> bytes:
    """``size`` bytes; ``seen`` is shown every part as it comes.

    What is held grows with what arrives, not with what was announced. No checkpoint if all of it is there.
    Raises WireError if fewer come, or more slowly than the module says.
    """
    arrived, due = Arrived(), PIECE
    try:
        with trio.fail_after(seconds) as scope:
            while len(arrived) < size:
                for part in await stream.read_parts(size - len(arrived)):
                    seen(part)
                    arrived.add(part)
                if len(arrived) >= due:
                    due = len(arrived) + PIECE
                    scope.deadline = trio.current_time() + seconds
    except MuxedStreamError as error:
        raise WireError(f"the stream ended early: {error}") from error
    except trio.TooSlowError:
        raise WireError(f"the peer sent too little for {seconds:g} s") from None
    return b"".join(arrived.take(size))


async def _write(stream: YamuxStream, *data: bytes | memoryview) -> None:
    try:
        await stream.write(*data)
    except MuxedStreamError as error:
        raise WireError(str(error)) from error


async def write_frame(stream: YamuxStream, data: bytes) -> None:
    """Four bytes of length, then ``data``. Raises WireError if the stream broke."""
    await write_frames(stream, (data,))


async def write_frames(stream: YamuxStream, frames: Sequence[bytes]) -> None:
    """One after the other, in one go."""
    await _write(stream, *(part for data in frames for part in (_FRAME.pack(len(data)), data)))


async def read_frame(stream: YamuxStream, limit: int, seconds: float) -> bytes:
    """The next frame. Raises WireError if it is longer than ``limit``, too slow, or the stream ends."""
    (size,) = _FRAME.unpack(await read_exactly(stream, _FRAME.size, seconds))
    if size > limit:
        raise WireError(f"a frame of {size} bytes where {limit} are allowed")
    return await read_exactly(stream, size, seconds)


async def write_body(stream: YamuxStream, data: bytes) -> None:
    """Eight bytes of length, ``data``, its SHA-256. Raises WireError if the stream broke."""
    digest = hashlib.sha256()
    view = memoryview(data)
    await _write(stream, _BODY.pack(len(data)))
    for start in range(0, len(data), _CHUNK):
        chunk = view[start : start + _CHUNK]
        digest.update(chunk)
        await _write(stream, chunk)
    await _write(stream, digest.digest())


async def read_body(stream: YamuxStream, limit: int, seconds: float, count: Callable[[int], None]) -> bytes:
    """The body that :func:`write_body` sent; ``count`` is told of every part.

    Raises WireError unless it is whole and true, and fast enough.
    """
    (size,) = _BODY.unpack(await read_exactly(stream, _BODY.size, seconds))
    if size > limit:
        raise WireError(f"a body of {size} bytes where {limit} are allowed")
    digest = hashlib.sha256()

    def seen(part: memoryview) -> None:
        digest.update(part)
        count(len(part))

    body = await read_exactly(stream, size, seconds, seen)
    if not hmac.compare_digest(await read_exactly(stream, _DIGEST_BYTES, seconds), digest.digest()):
        raise WireError("the body does not have the digest sent with it")
    return body


async def write_delimited(stream: YamuxStream, data: bytes) -> None:
    """``data`` as libp2p's own protocols frame it: its length as a varint, then it. Raises WireError."""
    await _write(stream, encode_uvarint(len(data)), data)


async def read_delimited(stream: YamuxStream, limit: int, seconds: float) -> bytes:
    """What :func:`write_delimited` sent, at most ``limit`` bytes, below 2^28.

    Raises WireError if it is longer, too slow, or the stream ends.
    """
    size = 0
    for shift in range(0, 28, 7):
        (byte,) = await read_exactly(stream, 1, seconds)
        size |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    else:
        raise WireError("a length without end")
    if size > limit:
        raise WireError(f"a message of {size} bytes where {limit} are allowed")
    return await read_exactly(stream, size, seconds)
