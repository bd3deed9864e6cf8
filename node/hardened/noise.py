"""/noise: the library's XX handshake, then a record layer of our own.

The wire format is the specification's (two-byte length, ChaCha20-Poly1305, 65519 bytes of plain text at
most). What differs from the library: any number of records go out in one system call, encrypted into what is
sent, and a record is decrypted where it lies in the read-ahead buffer of :mod:`.tcp`.
"""

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from libp2p.abc import IRawConnection, ISecureConn, ISecureTransport
from libp2p.connection_types import ConnectionType
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.base_session import BaseSession
from libp2p.security.noise.exceptions import NoiseStateError
from libp2p.security.noise.io import NoiseTransportReadWriter
from libp2p.security.noise.transport import PROTOCOL_ID
from libp2p.security.noise.transport import Transport as StockNoise
from libp2p.security.secure_session import SecureSession
from multiaddr import Multiaddr

from p2pfl.node.hardened.tcp import TcpStream

NOISE_ID: Final = PROTOCOL_ID
_TAG: Final = 16
_LENGTH: Final = 2
MAX_PLAINTEXT: Final = 65535 - _TAG


class Cipher:
    """One direction of a session after its handshake, which left ``key``; ``number`` is the next record's."""

    def __init__(self, key: bytes, number: int) -> None:
        self._aead = ChaCha20Poly1305(key)
        self._number = number

    def _nonce(self) -> bytes:
        nonce = bytes(4) + self._number.to_bytes(8, "little")
        self._number += 1
        return nonce

    def seal(self, data: bytes) -> memoryview:
        """The records, each with its length before it, that carry ``data``."""
        plain, count = memoryview(data), -(-len(data) // MAX_PLAINTEXT)
        at, out = 0, memoryview(bytearray(len(data) + count * (_LENGTH + _TAG)))
        for start in range(0, len(plain), MAX_PLAINTEXT):
            part = plain[start : start + MAX_PLAINTEXT]
            end = at + _LENGTH + len(part) + _TAG
            out[at : at + _LENGTH] = (len(part) + _TAG).to_bytes(_LENGTH, "big")
            self._aead.encrypt_into(self._nonce(), part, None, out[at + _LENGTH : end])
            at = end
        return out

    def open(self, record: bytes | memoryview) -> bytes:
        """What a record, without its length, carries. Raises NoiseStateError if the peer did not seal it."""
        try:
            return self._aead.decrypt(self._nonce(), record, None)
        except InvalidTag:
            raise NoiseStateError("a record is not authentic") from None


class NoiseSession(BaseSession):
    """An authenticated, encrypted connection to ``remote_peer``. One reader and one writer at a time."""

    def __init__(self, handshaken: SecureSession, raw: RawConnection, tcp: TcpStream) -> None:
        super().__init__(
            local_peer=handshaken.local_peer,
            local_private_key=handshaken.local_private_key,
            remote_peer=handshaken.remote_peer,
            remote_permanent_pubkey=handshaken.remote_permanent_pubkey,
            is_initiator=handshaken.is_initiator,
        )
        cipher = handshaken.conn
        assert isinstance(cipher, NoiseTransportReadWriter)
        ciphers = cipher.noise_state.noise_protocol
        outbound, inbound = ciphers.cipher_state_encrypt, ciphers.cipher_state_decrypt
        self._outbound = Cipher(bytes(outbound.k), int(outbound.n))
        self._inbound = Cipher(bytes(inbound.k), int(inbound.n))
        self._raw = raw
        self._plain = b""
        self.tcp = tcp

    async def read(self, n: int | None = None) -> bytes:
        """Plain text that is there: up to ``n`` bytes, or one record if None; b"" at the end."""
        plain = self._plain or await self._read_record()
        if n is None or n >= len(plain):
            self._plain = b""
            return plain
        self._plain = plain[n:]
        return plain[:n]

    async def _read_record(self) -> bytes:
        while True:
            prefix = await self.tcp.read_exactly(_LENGTH)
            if not prefix:
                return b""
            record = await self.tcp.read_exactly(int.from_bytes(prefix, "big"))
            plain = self._inbound.open(record)
            if plain:  # an empty record is legal, and must not look like the end
                return plain

    async def write(self, data: bytes) -> None:
        """Encrypt and send all of ``data``, in as few records as possible and in one system call."""
        await self.tcp.write(self._outbound.seal(data))

    async def close(self) -> None:
        await self.tcp.close()

    def get_remote_address(self) -> tuple[str, int]:
        return self.tcp.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self._raw.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self._raw.get_connection_type()


class Noise(ISecureTransport):
    """Secures connections of :class:`.tcp.Tcp` with the identity ``keys`` and a fresh static noise key."""

    def __init__(self, keys: KeyPair) -> None:
        self._handshake = StockNoise(keys, noise_privkey=new_x25519().private_key)

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return _session(await self._handshake.secure_inbound(conn), conn)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        return _session(await self._handshake.secure_outbound(conn, peer_id), conn)


def _session(handshaken: ISecureConn, conn: IRawConnection) -> NoiseSession:
    assert isinstance(handshaken, SecureSession)
    assert isinstance(conn, RawConnection)
    assert isinstance(conn.stream, TcpStream)
    return NoiseSession(handshaken, conn, conn.stream)
