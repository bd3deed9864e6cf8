"""A network key: who does not have it learns nothing from this port, not even what answers there.

It is the private network layer of libp2p (pnet 1.0.0, github.com/libp2p/specs/tree/master/pnet): below
everything else each direction is a nonce of 24 bytes and then XSalsa20 under the one key that all members
share. go-libp2p and js-libp2p with the same key file can talk to us. py-libp2p's own is another cipher, and
is not used. This hides the handshake; what is behind it is protected by noise, key or not.

The spec begins at both ends at once. Here the end that was dialled says nothing before the dialler has shown,
by the first words of libp2p under the key, that it has it: so a scan of ports finds a silent one.
"""

import struct
from collections.abc import Awaitable, Callable
from typing import Final, TypedDict

import trio
from Crypto.Cipher import Salsa20
from libp2p.io.exceptions import ConnectionClosedError

from p2pfl.crypto.randomness import system_random
from p2pfl.node.hardened.tcp import TcpStream

NONCE_BYTES: Final = 24
_FIRST_WORDS: Final = b"\x13/multistream/1.0.0\n"
_NO_KEY: Final = "it has no network key, and this node has one: give it network.key_file"
_OTHER_KEY: Final = "it has another network key: compare the files that network.key_file names"
_SIGMA: Final = struct.unpack("<4I", b"expand 32-byte k")


class KeyedStream(TcpStream):
    """A connection under ``key``, 32 bytes. Reading and writing raise ConnectionClosedError, with a reason
    that names the key, if the peer has another or none.
    """

    def __init__(self, stream: trio.SocketStream, key: bytes) -> None:
        super().__init__(stream)
        self._key = key
        self._outward: _XSalsa20 | None = None
        self._inward: _XSalsa20 | None = None
        self._opening = b""
        self._awaited = _FIRST_WORDS

    async def prove(self) -> None:
        """Wait until the peer has shown that it has the key. Raises ConnectionClosedError if it has not."""
        heard = b""
        while self._awaited:
            piece = await self._receive()
            if not piece:
                raise ConnectionClosedError("it hung up before it had shown a network key", transport="tcp")
            heard += piece
        self._buffer = memoryview(heard)

    async def _receive(self) -> bytes:
        while self._inward is None:
            piece = await super()._receive()
            if not piece:
                return b""
            self._opening += piece
            if self._opening.startswith(_FIRST_WORDS):  # in the clear
                raise ConnectionClosedError(_NO_KEY, transport="tcp")
            if len(self._opening) >= NONCE_BYTES:
                self._inward = _XSalsa20(self._key, self._opening[:NONCE_BYTES])
                if rest := self._opening[NONCE_BYTES:]:
                    return self._opened(self._inward, rest)
        return self._opened(self._inward, await super()._receive())

    def _opened(self, cipher: "_XSalsa20", data: bytes) -> bytes:
        clear = cipher.apply(data)
        if self._awaited:
            beginning, self._awaited = self._awaited[: len(clear)], self._awaited[len(clear) :]
            if not clear.startswith(beginning):
                raise ConnectionClosedError(_OTHER_KEY, transport="tcp")
        return clear

    async def write(self, data: bytes | memoryview) -> None:
        nonce = b""
        if self._outward is None:
            nonce = system_random(NONCE_BYTES)
            self._outward = _XSalsa20(self._key, nonce)
        await super().write(nonce + self._outward.apply(data))


class Keyed(TypedDict):
    """What :class:`~p2pfl.node.hardened.tcp.Tcp` needs for a network key."""

    wrap: Callable[[trio.SocketStream], TcpStream]
    welcome: Callable[[TcpStream], Awaitable[None]]


def keyed(key: bytes) -> Keyed:
    """Every connection under ``key``."""

    async def welcome(stream: TcpStream) -> None:
        assert isinstance(stream, KeyedStream)
        await stream.prove()

    return {"wrap": lambda socket: KeyedStream(socket, key), "welcome": welcome}


class _XSalsa20:
    """One direction; applying it encrypts, and decrypts."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        subkey = _hsalsa20(key, nonce[:16])
        self._cipher = Salsa20.new(key=subkey, nonce=nonce[16:])

    def apply(self, data: bytes | memoryview) -> bytes:
        return self._cipher.encrypt(data)


def _hsalsa20(key: bytes, nonce: bytes) -> bytes:
    """The subkey that XSalsa20 derives from ``key`` (32 bytes) and the first 16 of its nonce (Bernstein,
    "Extending the Salsa20 nonce").
    """
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", nonce)
    state = [_SIGMA[0], *k[:4], _SIGMA[1], *n, _SIGMA[2], *k[4:], _SIGMA[3]]
    columns = ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11))
    rows = ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14))
    for _ in range(10):
        for line in (*columns, *rows):
            _quarter(state, *line)
    return struct.pack("<8I", *(state[place] for place in (0, 5, 10, 15, 6, 7, 8, 9)))


def _quarter(state: list[int], a: int, b: int, c: int, d: int) -> None:
    for target, one, other, turn in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
        added = (state[one] + state[other]) & 0xFFFFFFFF
        state[target] ^= ((added << turn) | (added >> (32 - turn))) & 0xFFFFFFFF
