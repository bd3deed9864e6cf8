"""What two nodes say to each other on a stream: introductions and verdicts, requests and answers.

Admission, on /p2pfl/admission/1; every line is a frame (four bytes of length, big-endian, then the bytes):

    dialler → other    token (16 bytes) and greeting
    other → dialler    verdict; if it refuses, that is all
    other → dialler    token and greeting
    dialler → other    verdict; if it refuses, that is all
    other → dialler    verdict again: the dialler may now use every protocol

A verdict is the byte 0, or the byte 1 and a reason in UTF-8. The token is a random name that a node gives to
its present session with the other, anew whenever one ends: a token unlike the last says that the peer has
lost the session, or was restarted, whatever the state of older connections.

Request, on <prefix>/request/<name>/1: a body to the peer; back the byte 0 and a body, or the byte 1 and a
frame with the reason. A body is eight bytes of length, the bytes, and their SHA-256.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from p2pfl.crypto.identity import PeerId
from p2pfl.node.hardened.wire import WireError, read_body, read_exactly, read_frame, write_body, write_frame
from p2pfl.node.hardened.yamux_stream import YamuxStream
from p2pfl.node.transport.session import Session
from p2pfl.node.transport.types import MAX_GREETING, MAX_REASON, Limits, RequestRefused

log = logging.getLogger(__name__)

Responder = Callable[[PeerId, bytes], Awaitable[bytes]]

TOKEN_BYTES: Final = 16
_ACCEPTED: Final = b"\x00"
_REFUSED: Final = b"\x01"
_PING_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a node presents of itself: its ``token`` for the other, and its greeting."""

    token: bytes
    greeting: bytes


async def write_introduction(stream: YamuxStream, introduction: Introduction) -> None:
    await write_frame(stream, introduction.token + introduction.greeting)


async def read_introduction(stream: YamuxStream, seconds: float) -> Introduction:
    """Raises WireError."""
    frame = await read_frame(stream, TOKEN_BYTES + MAX_GREETING, seconds)
    if len(frame) < TOKEN_BYTES:
        raise WireError("an introduction without a token")
    return Introduction(frame[:TOKEN_BYTES], frame[TOKEN_BYTES:])


async def write_verdict(stream: YamuxStream, reason: str | None) -> None:
    """Accept, or refuse for ``reason``."""
    await write_frame(stream, _ACCEPTED if reason is None else _REFUSED + _reason_bytes(reason))


async def read_verdict(stream: YamuxStream, seconds: float) -> str | None:
    """The reason for which the peer refuses us, or None. Raises WireError."""
    verdict = await read_frame(stream, 1 + MAX_REASON, seconds)
    return None if verdict == _ACCEPTED else _reason_text(verdict[1:])


async def ask(
    stream: YamuxStream, session: Session, body: bytes, max_response: int, idle_seconds: float
) -> bytes:
    """The peer's answer to ``body``; it may take its time before it begins, which the caller bounds.

    Raises WireError if it refuses, breaks off, or stalls for ``idle_seconds``.
    """
    await write_body(stream, body)
    session.sent += len(body)
    await stream.wait_for_more()
    if await read_exactly(stream, 1, idle_seconds) != _ACCEPTED:
        raise WireError(f"refused: {_reason_text(await read_frame(stream, MAX_REASON, idle_seconds))}")
    return await read_body(stream, max_response, idle_seconds, session.count_received)


async def answer(
    stream: YamuxStream, session: Session, name: str, responder: Responder, limits: Limits
) -> None:
    """Read a request and answer it with what ``responder`` returns.

    Raises WireError if the peer breaks off or stalls.
    """
    body = await read_body(stream, limits.max_request, limits.idle_seconds, session.count_received)
    try:
        response = await responder(session.peer, body)
        if len(response) > limits.max_response:
            raise RequestRefused(f"the answer has {len(response)} bytes, more than may be sent")
    except RequestRefused as refusal:
        await _refuse_request(stream, str(refusal))
    except Exception:  # a bug of ours, and no reason to lose the peer
        log.exception("cannot answer the request %s of %s", name, session.peer)
        await _refuse_request(stream, "it could not be answered")
    else:
        await stream.write(_ACCEPTED)
        await write_body(stream, response)
        session.sent += len(response)


async def _refuse_request(stream: YamuxStream, reason: str) -> None:
    await stream.write(_REFUSED)
    await write_frame(stream, _reason_bytes(reason))


async def answer_pings(stream: YamuxStream, idle_seconds: float) -> None:
    """/ipfs/ping/1.0.0: what comes goes back, 32 bytes at a time, until none has for ``idle_seconds``."""
    try:
        while True:
            await stream.write(await read_exactly(stream, _PING_BYTES, idle_seconds))
    except WireError:
        return


def _reason_bytes(reason: str) -> bytes:
    return reason.encode()[:MAX_REASON]


def _reason_text(reason: bytes) -> str:
    """A peer's words, fit for our log."""
    return "".join(c if c.isprintable() else "?" for c in reason.decode(errors="replace"))
