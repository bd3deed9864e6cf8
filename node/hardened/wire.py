"""What goes over one stream: frames of a known length, and bodies of a known length with their SHA-256.

A peer that is killed looks, to most readers, like one that finished. So nothing here ends by the end of the
stream: lengths come first, and a body is not there until its digest is.
"""

import hashlib
import hmac
import struct
from collections.abc import Callable
from typing import Final

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamError

from p2pfl.node.hardened.yamux_stream import YamuxStream

_FRAME: Final = struct.Struct(">I")
_BODY: Final = struct.Struct(">Q")
_DIGEST_BYTES: Final = 32
_CHUNK: Final = 1 << 20
_SMALL: Final = 1 << 16


class WireError(Exception):
    """The peer sent something else than it should have, or stopped in the middle; the message says what."""


async def read_exactly(stream: YamuxStream, size: int) -> bytes:
    """``size`` bytes.

    The buffer grows with what arrives, not with what was announced. Raises WireError if fewer come.
    """
    first = await _read(stream, size)
    if len(first) == size:
        return first
    buffer = bytearray(first)
    while len(buffer) < size:
        buffer += await _read(stream, min(_CHUNK, size - len(buffer)))
    return bytes(buffer)


async def _read(stream: YamuxStream, size: int) -> bytes:
    try:
        return await stream.read(size) if size else b""
    except MuxedStreamError as error:
        raise WireError(f"the stream ended early: {error}") from error


async def _write(stream: YamuxStream, data: bytes | memoryview) -> None:
    try:
        await stream.write(data)
    except MuxedStreamError as error:
        raise WireError(str(error)) from error


async def write_frame(stream: YamuxStream, data: bytes) -> None:
    """Four bytes of length, then ``data``. Raises WireError if the stream broke."""
    length = _FRAME.pack(len(data))
    if len(data) <= _SMALL:
        await _write(stream, length + data)
    else:
        await _write(stream, length)
        await _write(stream, data)


async def read_frame(stream: YamuxStream, limit: int) -> bytes:
    """The next frame. Raises WireError if it is longer than ``limit`` or the stream ends."""
    (size,) = _FRAME.unpack(await read_exactly(stream, _FRAME.size))
    if size > limit:
        raise WireError(f"a frame of {size} bytes where {limit} are allowed")
    return await read_exactly(stream, size)


async def write_body(stream: YamuxStream, data: bytes, idle_seconds: float) -> None:
    """Eight bytes of length, ``data``, its SHA-256.

    Raises WireError if the stream broke or nothing moved for ``idle_seconds``.
    """
    digest = hashlib.sha256()
    view = memoryview(data)
    await _write(stream, _BODY.pack(len(data)))
    try:
        for start in range(0, len(data), _CHUNK):
            chunk = view[start : start + _CHUNK]
            digest.update(chunk)
            with trio.fail_after(idle_seconds):
                await _write(stream, chunk)
    except trio.TooSlowError:
        raise WireError(f"the peer took nothing for {idle_seconds:g} s") from None
    await _write(stream, digest.digest())


async def read_body(
    stream: YamuxStream, limit: int, idle_seconds: float, count: Callable[[int], None]
) -> bytes:
    """The body that :func:`write_body` sent; ``count`` is told of every part.

    Raises WireError unless it is whole and true.
    """
    (size,) = _BODY.unpack(await read_exactly(stream, _BODY.size))
    if size > limit:
        raise WireError(f"a body of {size} bytes where {limit} are allowed")
    digest = hashlib.sha256()
    buffer = bytearray()
    try:
        while len(buffer) < size:
            with trio.fail_after(idle_seconds):
                part = await _read(stream, min(_CHUNK, size - len(buffer)))
            digest.update(part)
            buffer += part
            count(len(part))
    except trio.TooSlowError:
        raise WireError(f"the peer sent nothing for {idle_seconds:g} s") from None
    if not hmac.compare_digest(await read_exactly(stream, _DIGEST_BYTES), digest.digest()):
        raise WireError("the body does not have the digest sent with it")
    return bytes(buffer)
