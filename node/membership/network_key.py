"""The file of a network key (:mod:`p2pfl.node.hardened.keyed`): go-libp2p's ``swarm.key``."""

import os
from pathlib import Path
from typing import Final

from p2pfl.crypto.randomness import system_random
from p2pfl.node.errors import ConfigError, reason_of
from p2pfl.node.storage.regular_file import regular_only

KEY_BYTES: Final = 32
FILE_HEAD: Final = "/key/swarm/psk/1.0.0/\n/base16/\n"
_MAX_FILE: Final = 1024


def new_key_file() -> bytes:
    """The content of a new network key's file; it is go-libp2p's swarm.key."""
    return f"{FILE_HEAD}{system_random(KEY_BYTES).hex()}\n".encode()


def read_key(path: Path) -> bytes:
    """The key in the file ``path``. Raises ConfigError."""
    name = "network.key_file"
    try:
        with open(path, "rb", opener=regular_only) as file:
            text = file.read(_MAX_FILE).decode("ascii", errors="replace")
            open_to_others = os.fstat(file.fileno()).st_mode & 0o077
    except OSError as error:
        hint = "`p2pfl init --network-key` makes one, once for all members"
        raise ConfigError(name, f"{path}: cannot be read: {reason_of(error)}", hint) from None
    digits = text.removeprefix(FILE_HEAD).strip()
    if not text.startswith(FILE_HEAD) or len(digits) != 2 * KEY_BYTES or not _is_hex(digits):
        hint = "copy the file of another member, whole: three lines, /key/swarm/psk/1.0.0/ first"
        raise ConfigError(name, f"{path}: not a network key", hint)
    if open_to_others:
        raise ConfigError(name, f"{path}: open to others", f"chmod 600 {path}")
    return bytes.fromhex(digits)


def _is_hex(text: str) -> bool:
    return all(digit in "0123456789abcdefABCDEF" for digit in text)
