"""What is read piece by piece from a connection: records, multiplexer frames, and what its streams carry."""

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Final, cast

import trio
from libp2p.abc import INetStream, ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
from libp2p.security.noise.exceptions import NoiseStateError
from libp2p.utils import encode_delim
from mutations import mutated
from target import Target

from p2pfl.node.hardened import guard
from p2pfl.node.hardened.noise import MAX_PLAINTEXT, Cipher, NoiseSession
from p2pfl.node.hardened.tcp import TcpStream
from p2pfl.node.hardened.wire import WireError, read_body, read_frame
from p2pfl.node.hardened.yamux import HEADER, Yamux, YamuxLimits
from p2pfl.node.hardened.yamux_stream import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    HEADER_SIZE,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    YamuxError,
    YamuxStream,
)
from p2pfl.node.transport.exchange import ask, read_introduction, read_verdict
from p2pfl.node.transport.session import Session

_LIMITS: Final = YamuxLimits(max_streams=8, spare_window=1 << 20, idle_seconds=20.0)
_MOST: Final = 1 << 20
_IDLE_SECONDS: Final = 5.0
_STEP: Final = 7
_PROTOCOL: Final = TProtocol("/p2pfl/admission/1")
_FLAGS: Final = (0, SYN, ACK, FIN, RST, SYN | FIN, FIN | RST, 0xFFFF)
_VALUES: Final = (0, 1, 5, 12, 1 << 18, (1 << 18) + 1, 1 << 24, 1 << 30, (1 << 32) - 1)
_LENGTHS: Final = (1, 2, 33, 1 << 16, _MOST, _MOST + 1, (1 << 32) - 1)


class _Nobody:
    """The other end of a connection: it never answers."""

    is_initiator = False

    async def write(self, data: bytes) -> None:
        pass


class _Deaf(YamuxStream):
    """A stream whose writes are taken and lost."""

    async def write(self, *data: bytes | memoryview) -> None:
        pass


def _muxer() -> Yamux:
    return Yamux(cast(ISecureConn, _Nobody()), ID(b"\x00\x01peer"), _LIMITS)


def _stream(data: bytes) -> YamuxStream:
    """On which ``data`` has arrived, and the end."""
    muxer = _muxer()
    stream = _Deaf(muxer, muxer, 1, ours=False)
    stream.feed(memoryview(data))
    stream.finish()
    return stream


def _over_a_stream(read: Callable[[YamuxStream], Awaitable[object]]) -> Callable[[bytes], None]:
    async def decode(data: bytes) -> None:
        await read(_stream(data))

    return lambda data: trio.run(decode, data)


# -- records
_KEY: Final = bytes(range(32))


class _Socket:
    """From which ``data`` comes, ``step`` bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data, self._step, self.socket = data, step, self

    def getpeername(self) -> tuple[str, int]:
        return ("192.0.2.1", 1)

    def setsockopt(self, *_: object) -> None:
        pass

    async def receive_some(self, most: int) -> bytes:
        size = min(most, self._step)
        part, self._data = self._data[:size], self._data[size:]
        return part


def _noise(data: bytes) -> None:
    trio.run(_opened_in_any_parts, data)


async def _opened_in_any_parts(data: bytes) -> None:
    whole = await _opened(data, len(data))
    assert str(whole) == str(await _opened(data, _STEP**3))
    if isinstance(whole, Exception):
        raise whole


async def _opened(data: bytes, step: int) -> object:
    """What a connection whose handshake is done reads from ``data``."""
    session = object.__new__(NoiseSession)
    session.tcp = TcpStream(cast(trio.SocketStream, _Socket(data, step)))
    session._inbound, session._plain, plain = Cipher(_KEY, 0), b"", b""
    try:
        while part := await session.read():
            plain += part
    except (NoiseStateError, ConnectionClosedError) as error:
        return error
    return plain


def _sealed(parts: list[bytes]) -> bytes:
    cipher = Cipher(_KEY, 0)
    return b"".join(bytes(cipher.seal(part)) for part in parts)


def _reshaped_records(data: bytes, random: Random) -> bytes:
    """Records of other sizes, most often sealed as they should be."""
    sizes = random.choices((1, 2, 100, 5000, MAX_PLAINTEXT), k=random.randrange(4))
    records = _sealed([bytes(size) for size in sizes])
    empty = (16).to_bytes(2, "big") + Cipher(_KEY, len(sizes))._aead.encrypt(_nonce(len(sizes)), b"", None)
    whole = records + random.choice((b"", empty, b"\x00", b"\x00\x00", b"\xff\xff", empty[:5]))
    return mutated(whole, (), random) if random.random() < 0.3 else whole


def _nonce(number: int) -> bytes:
    return bytes(4) + number.to_bytes(8, "little")


# -- the multiplexer
def _yamux(data: bytes) -> None:
    trio.run(_fed_in_any_parts, data)


async def _fed_in_any_parts(data: bytes) -> None:
    """Where the input is split makes no difference."""
    whole = await _fed([data])
    assert str(whole) == str(await _fed([data[at : at + _STEP] for at in range(0, len(data), _STEP)]))
    if isinstance(whole, YamuxError):
        raise whole


async def _fed(parts: list[bytes]) -> object:
    """What a connection with one stream of its own made of ``parts``: what it read and what it will write."""
    muxer = _muxer()
    await muxer.open_stream()
    try:
        for part in parts:
            muxer._parse(memoryview(part))
    except YamuxError as error:
        return error
    received = {number: b"".join(stream._received.take(_MOST)) for number, stream in muxer._streams.items()}
    return received, muxer.reason, muxer._batch()


def _frame(kind: int, flags: int, stream: int, value: int, body: bytes = b"") -> bytes:
    return HEADER.pack(0, kind, flags, stream, value) + body


_YAMUX_SEED: Final = b"".join(
    (
        _frame(WINDOW_UPDATE, SYN, 1, 0),
        _frame(DATA, 0, 1, 5, b"hello"),
        _frame(DATA, SYN, 3, 2, b"hi"),
        _frame(WINDOW_UPDATE, ACK, 2, 1024),
        _frame(DATA, FIN, 1, 0),
        _frame(WINDOW_UPDATE, RST, 3, 0),
        _frame(PING, SYN, 0, 99),
        _frame(GO_AWAY, 0, 0, 0),
    )
)


def _reshaped_frames(data: bytes, random: Random) -> bytes:
    """One frame changed, left out, moved or sent many times; lengths of bodies are most often right."""
    frames, at = [], 0
    while at + HEADER_SIZE <= len(data):
        _, kind, _, _, value = HEADER.unpack_from(data, at)
        end = at + HEADER_SIZE + (min(value, len(data)) if kind == DATA else 0)
        frames.append(data[at:end])
        at = end
    frame = random.choice(frames) if frames else _YAMUX_SEED
    others = [other for other in frames if other is not frame]
    kind, flags, stream = (
        random.randrange(4),
        random.choice(_FLAGS),
        random.choice((0, 1, 2, 3, 4, 5, 1 << 31)),
    )
    body = frame[HEADER_SIZE:] if kind == DATA else b""
    value = len(body) if kind == DATA and random.random() < 0.7 else random.choice(_VALUES)
    new = [_frame(kind, flags, stream, value, body)] * random.choice((1, 1, 1, 2, 20, 1000))
    where = random.randint(0, len(others))
    return b"".join((*others[:where], *new, *others[where:]))


# -- what its streams carry
def _framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _reshaped_frame(data: bytes, random: Random) -> bytes:
    """Another content after its right length, or a wrong length."""
    content = mutated(data[4:], (), random)
    return _framed(content) if random.random() < 0.8 else random.choice(_LENGTHS).to_bytes(4, "big") + content


def _body(data: bytes) -> bytes:
    return len(data).to_bytes(8, "big") + data + hashlib.sha256(data).digest()


def _reshaped_body(data: bytes, random: Random) -> bytes:
    content = mutated(data[8:-32], (), random)
    whole = _body(content)
    return whole if random.random() < 0.6 else random.choice(_LENGTHS).to_bytes(8, "big") + whole[8:]


async def _read_body(stream: YamuxStream) -> None:
    await read_body(stream, _MOST, _IDLE_SECONDS, lambda count: None)


async def _answered(stream: YamuxStream) -> None:
    """We asked something, and this is the peer's answer."""
    session = cast(Session, SimpleNamespace(sent=0, count_received=lambda count: None))
    await ask(stream, session, b"", _MOST, _IDLE_SECONDS)


def _reshaped_answer(data: bytes, random: Random) -> bytes:
    verdict = random.choice((0, 0, 0, 1, 1, 2))
    reshaped = _reshaped_frame if verdict == 1 else _reshaped_body
    return bytes((verdict,)) + reshaped(data[1:], random)


async def _asked(stream: YamuxStream) -> None:
    """We asked for a protocol, and this is the peer's answer."""
    await guard._negotiate(stream, _PROTOCOL)


async def _offered(stream: YamuxStream) -> None:
    """We offer a protocol, and this is what the peer asks for."""

    async def handler(_: object) -> None:
        pass

    offered = Multiselect()
    offered.add_handler(_PROTOCOL, handler)
    communicator = MultiselectCommunicator(guard._Budgeted(cast(INetStream, stream)))
    await offered.negotiate(communicator, guard.NEGOTIATION_SECONDS)


def _reshaped_lines(data: bytes, random: Random) -> bytes:
    """Other lines, most often with their right lengths."""
    lines = [line + b"\n" for line in data.split(b"\n")[:-1]] or [b"\x01\n"]
    at = random.randrange(len(lines))
    name = random.choice(
        (
            mutated(lines[at][1:-1], (), random),
            b"ls",
            b"na",
            b"",
            bytes(random.choice((126, 127, 1023, 1024))),
        )
    )
    return b"".join((*lines[:at], encode_delim(name), *lines[at + random.choice((0, 1)) :]))


_LINES: Final = encode_delim(b"/multistream/1.0.0") + encode_delim(_PROTOCOL.encode())

STREAM_TARGETS: Final = (
    Target(
        "noise",
        _noise,
        (NoiseStateError, ConnectionClosedError),
        (_sealed([b"hello", b"", b"x" * 100]),),
        _reshaped_records,
    ),
    Target("yamux", _yamux, (YamuxError,), (_YAMUX_SEED,), _reshaped_frames),
    Target(
        "frame",
        _over_a_stream(partial(read_frame, limit=_MOST, seconds=_IDLE_SECONDS)),
        (WireError,),
        (_framed(b"x" * 40),),
        _reshaped_frame,
    ),
    Target("body", _over_a_stream(_read_body), (WireError,), (_body(b"x" * 40),), _reshaped_body),
    Target(
        "answer",
        _over_a_stream(_answered),
        (WireError,),
        (b"\x00" + _body(b"x" * 40),),
        _reshaped_answer,
    ),
    Target(
        "introduction",
        _over_a_stream(partial(read_introduction, seconds=_IDLE_SECONDS)),
        (WireError,),
        (_framed(bytes(16)), _framed(bytes(16) + b"a greeting")),
        _reshaped_frame,
    ),
    Target(
        "verdict",
        _over_a_stream(partial(read_verdict, seconds=_IDLE_SECONDS)),
        (WireError,),
        (_framed(b"\x00"), _framed(b"\x01not you")),
        _reshaped_frame,
    ),
    Target(
        "negotiation-asked",
        _over_a_stream(_asked),
        (WireError, guard.ProtocolRefusedError),
        (_LINES,),
        _reshaped_lines,
    ),
    Target(
        "negotiation-offered",
        _over_a_stream(_offered),
        guard._PEERS_DOING,
        (_LINES,),
        _reshaped_lines,
        printable=False,
    ),
)
