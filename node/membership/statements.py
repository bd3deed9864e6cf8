"""Statements of issuers, delivered to a node: files in one folder of its state directory.

``p2pfl federation deliver`` puts them there; the node looks every second, and at its start. A file stays
until what it says is in the journal. One that says nothing valid is put aside under another name.
"""

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.revocations import (
    MAX_REVOCATION_BYTES,
    RevocationError,
    RevocationLine,
    check_revocation,
    parse_revocation_untrusted,
)
from p2pfl.node.errors import ManifestProblem, StorageError, reason_of
from p2pfl.node.storage.atomic_file import write_atomically
from p2pfl.node.storage.regular_file import regular_only

log = logging.getLogger(__name__)

FOLDER = "statements"
_NAME = "*.statement"
_MOST = 64  # files looked at in one go


def read_revocation(path: Path, manifest: Manifest, federation: bytes) -> tuple[RevocationLine, ...]:
    """What the file ``path`` says, checked against the federation of ``manifest``, whose digest is
    ``federation``. Raises StorageError if it cannot be read, ManifestProblem if it does not hold.
    """
    try:
        with open(path, "rb", opener=regular_only) as file:
            text = file.read(2 * MAX_REVOCATION_BYTES).decode("ascii", errors="replace")
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {reason_of(error)}", "check the path") from None
    try:
        lines = parse_revocation_untrusted(text)
        check_revocation(lines, manifest, federation)
    except RevocationError as error:
        hint = "ask the issuers to run: p2pfl federation revoke"
        raise ManifestProblem(f"{path}: this revocation does not hold: {error}", hint) from None
    return lines


def deliver(state: Path, lines: tuple[RevocationLine, ...]) -> Path:
    """Leave ``lines`` for the node whose state directory this is; returns the file."""
    text = "".join(f"{line}\n" for line in lines).encode()
    path = state / FOLDER / f"{hashlib.sha256(text).hexdigest()[:32]}.statement"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(path, text, 0o600)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {reason_of(error)}", "check the disk") from None
    return path


def delivered(
    state: Path, manifest: Manifest, federation: bytes
) -> Iterator[tuple[Path, tuple[RevocationLine, ...]]]:
    """Every statement that waits in the state directory, and its file; what does not hold is put aside, with
    a line in the log.
    """
    for path in sorted((state / FOLDER).glob(_NAME))[:_MOST]:
        try:
            yield path, read_revocation(path, manifest, federation)
        except (ManifestProblem, StorageError) as error:
            log.error("%s; it is put aside", error.what)
            path.replace(path.with_suffix(".refused"))
