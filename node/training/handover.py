"""What passes between a node and its organisation's own training loop, over a Unix-domain socket.

A frame is a byte for the version, the lengths of two parts, and the parts: a map in canonical msgpack, and
raw little-endian numbers. The loop asks, the node answers:

    hello     welcome, which says what there is to train; then, as often as it likes:
    next      train, or measure, with a model; or end, with the last one
    trained   (with a model) or measured (with three sums, or none): taken, late, or refused with a reason

A model is its arrays as float32, one after the other, in the declared order. Nothing here needs torch.
"""

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from p2pfl.gossip.canonical import pack, unpack_untrusted

VERSION: Final = 1
SOCKET: Final = "training.sock"
MAX_HEADER: Final = 1 << 20
_HEAD: Final = struct.Struct(">BIQ")

Header = Mapping[str, object]


class MisspokenError(ConnectionError):
    """The other side sent what is no frame, or more than there can be."""


def send_frame(connection: socket.socket, header: Header, payload: bytes | bytearray = b"") -> None:
    """Send ``header`` with ``payload``. Raises OSError."""
    packed = pack(header)
    connection.sendall(_HEAD.pack(VERSION, len(packed), len(payload)) + packed)
    connection.sendall(payload)


def read_frame(connection: socket.socket, most: int) -> tuple[Header, bytearray]:
    """The next frame, its payload of at most ``most`` bytes: refused before there is room made for it.

    Raises MisspokenError for what is no such frame, ConnectionResetError at the end, any other OSError.
    """
    version, header_size, payload_size = _HEAD.unpack(_read(connection, _HEAD.size))
    if version != VERSION:
        raise MisspokenError(
            f"version {version} of the handover, not {VERSION}: another p2pfl is at the other end"
        )
    if header_size > MAX_HEADER or payload_size > most:
        raise MisspokenError(f"{payload_size} bytes where at most {most} are allowed")
    try:
        header = unpack_untrusted(bytes(_read(connection, header_size)), MAX_HEADER)
    except ValueError as error:
        raise MisspokenError(f"no header: {error}") from None
    if not isinstance(header, dict) or not isinstance(header.get("kind"), str):
        raise MisspokenError("a header without a kind")
    return header, _read(connection, payload_size)


def _read(connection: socket.socket, size: int) -> bytearray:
    found = bytearray(size)
    view, at = memoryview(found), 0
    while at < size:
        count = connection.recv_into(view[at:])
        if count == 0:
            raise ConnectionResetError("the other side has closed the connection")
        at += count
    return found


@contextmanager
def address_in(directory: Path) -> Iterator[str]:
    """The socket's address in ``directory``, however long its path is: the kernel takes only 107 bytes.

    Raises OSError if there is no such directory.
    """
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET}"
    finally:
        os.close(descriptor)
