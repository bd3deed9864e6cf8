"""The identity file: the one secret that makes a node this node.

One line, ``P2PFL-SECRET-KEY-1`` and 32 bytes of Ed25519 seed with a checksum in unpadded base32, below
comment lines that say whose it is. The prefix lets every other reader recognise a key in the wrong place; the
checksum tells a damaged key from a different one. The file belongs to its owner alone (mode 0600), and is
refused if anyone else could have read it.
"""

import base64
import binascii
import hashlib
import os
import stat
from pathlib import Path

from p2pfl.crypto.identity import KEY_MARK, Identity
from p2pfl.node.errors import IdentityError, reason_of
from p2pfl.node.storage.atomic_file import write_atomically
from p2pfl.node.storage.regular_file import regular_only

PREFIX = f"{KEY_MARK}1"
_MAX_BYTES = 4096
_CHECKSUM_BYTES = 4
_NEW = "`p2pfl init DIR` makes a new identity (a new peer id, which needs a new ticket)"


def save_identity(path: Path, identity: Identity) -> None:
    """Create ``path``, readable by its owner only.

    Raises IdentityError if it exists: a key is never overwritten.
    """
    text = (
        "# p2pfl node identity: keep this file secret, and keep a copy in a safe place\n"
        f"# peer id: {identity.peer_id}\n"
        f"{_encode(identity.seed)}\n"
    )
    try:
        write_atomically(path, text.encode(), 0o600, exclusive=True)
    except FileExistsError:
        raise IdentityError(
            f"{path} exists already, and an identity is never overwritten",
            "choose another directory, or use the one there",
        ) from None


def load_identity(path: Path) -> Identity:
    """Read the identity in ``path``.

    Raises IdentityError if it is missing, damaged, or readable by others.
    """
    try:
        with open(path, "rb", opener=regular_only) as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        hint = f"if there was one, put your copy back; else {_NEW}"
        raise IdentityError(f"{path}: no identity file here", hint) from None
    except OSError as error:
        raise IdentityError(
            f"{path}: cannot be read: {reason_of(error)}",
            "name the identity file itself, and run as the user who owns it",
        ) from None
    # What the file is comes before who may read it: a ticket is everybody's, and chmod would not help.
    _require_key(path, data)
    if mode & 0o077:
        raise IdentityError(
            f"{path}: open to others (mode {stat.S_IMODE(mode):04o})",
            f"chmod 600 {path}, and if anyone may have read it, make a new identity",
        )
    return Identity.from_seed(_parse(path, data))


def _require_key(path: Path, data: bytes) -> None:
    if PREFIX.encode() in data:
        return
    if b"p2pfl-ticket-" in data:
        raise IdentityError(
            f"{path}: a ticket, not an identity",
            "name the identity.key that `p2pfl init` made; the ticket belongs under `ticket`",
        )
    raise _damaged(path)


def _damaged(path: Path) -> IdentityError:
    hint = f"name the identity.key that belongs here, or restore it from your copy; {_NEW}"
    return IdentityError(f"{path}: not an identity, or damaged", hint)


def _encode(seed: bytes) -> str:
    return PREFIX + base64.b32encode(seed + _checksum(seed)).rstrip(b"=").decode()


def _checksum(seed: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + seed).digest()[:_CHECKSUM_BYTES]


def _parse(path: Path, data: bytes) -> bytes:
    """The 32 bytes of seed. No message may quote ``data``: whatever is wrong with it, it may be a secret."""
    damaged = _damaged(path)
    if len(data) > _MAX_BYTES or not data.isascii():
        raise damaged
    lines = [line.strip() for line in data.decode("ascii").splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if len(keys) != 1 or not keys[0].startswith(PREFIX):
        raise damaged
    encoded = keys[0].removeprefix(PREFIX)
    try:
        decoded = base64.b32decode(encoded + "=" * (-len(encoded) % 8))
    except binascii.Error:
        raise damaged from None
    seed = decoded[:-_CHECKSUM_BYTES]
    if len(seed) != 32 or decoded[-_CHECKSUM_BYTES:] != _checksum(seed):
        raise damaged
    return seed
