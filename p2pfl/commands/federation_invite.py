"""``p2pfl federation invite``: an issuer admits a peer."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.terminal import note

if TYPE_CHECKING:
    from p2pfl.crypto.identity import Identity, PeerId
    from p2pfl.gossip.manifest import Manifest

_DAY = 86_400
_MOST_DAYS = 3650


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl federation invite``."""
    parser.description = (
        "Issue a ticket: it admits PEER_ID, and nobody else, to one federation until it expires. Only an"
        " issuer named in the manifest can do this. A ticket is not secret; it works only together with the"
        " peer's own key."
    )
    parser.add_argument(
        "peer", metavar="PEER_ID", help="the newcomer's peer id, as `p2pfl init` printed it there"
    )
    parser.add_argument("--federation", metavar="FILE", type=Path, required=True, help="the manifest")
    parser.add_argument(
        "--identity", metavar="KEY", type=Path, required=True, help="the issuer's identity file"
    )
    parser.add_argument(
        "--days", metavar="N", type=int, default=30, help="days until it expires (default: %(default)s)"
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="write the ticket there instead of to standard output"
    )


def run(options: argparse.Namespace) -> int:
    """Print the ticket, or write it to a file."""
    from p2pfl.gossip.tickets import issue
    from p2pfl.node.errors import UsageError
    from p2pfl.node.storage.atomic_file import write_output

    if not 1 <= options.days <= _MOST_DAYS:
        raise UsageError(f"--days must be from 1 to {_MOST_DAYS}, not {options.days}", "30 is usual")
    peer = peer_named(options.peer)
    manifest, identity = issuer_of(options.federation, options.identity)
    if peer in manifest.members:
        note(f"{peer} is listed in the manifest and needs no ticket")
    expires = int(time.time()) + options.days * _DAY
    ticket = issue(identity, federation=manifest.digest, peer=peer, expires=expires)
    until = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(expires))
    if options.out is None:
        print(ticket)
    else:
        write_output(options.out, f"{ticket}\n".encode(), 0o644)
    note(f"admits {peer} to federation {manifest.name!r} until {until}")
    if manifest.issuer_quorum > 1:
        note(f"it needs tickets of {manifest.issuer_quorum} issuers, a line each in one file")
    note("send it to them: they save it beside their node.toml and set ticket there; a running node takes a")
    note("new one from the same file by itself")
    return 0


def peer_named(text: str) -> "PeerId":
    """The peer that an option names. Raises UsageError."""
    from p2pfl.crypto.identity import parse_peer_id
    from p2pfl.node.errors import UsageError

    try:
        return parse_peer_id(text)
    except ValueError as error:
        raise UsageError(
            f"PEER_ID: {error}", "copy what `p2pfl init` printed on the newcomer's machine"
        ) from None


def issuer_of(federation: Path, key: Path) -> "tuple[Manifest, Identity]":
    """The manifest in ``federation`` and the identity in ``key``, which must be one of its issuers'. Raises
    TicketProblem, and what reading the files raises.
    """
    from p2pfl.node.errors import TicketProblem
    from p2pfl.node.storage.identity_file import load_identity
    from p2pfl.node.storage.manifest_file import read_manifest

    manifest, identity = read_manifest(federation), load_identity(key)
    if identity.peer_id not in manifest.issuers:
        what = f"{key}: {identity.peer_id} is not an issuer of federation {manifest.name!r}"
        raise TicketProblem(
            what, "use the identity of one of: " + (", ".join(manifest.issuers) or "nobody, it has none")
        )
    return manifest, identity
