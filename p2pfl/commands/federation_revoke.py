"""``p2pfl federation revoke``: an issuer puts a member out."""

import argparse
import time
from pathlib import Path

from p2pfl.terminal import note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl federation revoke``."""
    parser.description = (
        "State that PEER_ID is no member of one federation any more, for good. Only an issuer named in the"
        " manifest can do this; where the manifest asks for several (issuer_quorum), put the lines of so many"
        " of them into one file. The statement is not secret. It takes effect when it is delivered to any"
        " member (p2pfl federation deliver), which tells all others."
    )
    parser.add_argument("peer", metavar="PEER_ID", help="whom to put out")
    parser.add_argument("--federation", metavar="FILE", type=Path, required=True, help="the manifest")
    parser.add_argument(
        "--identity", metavar="KEY", type=Path, required=True, help="the issuer's identity file"
    )
    parser.add_argument(
        "--reason", metavar="TEXT", required=True, help="why, for the members to read: one line of ASCII"
    )
    parser.add_argument(
        "--out", metavar="FILE", type=Path, help="write the statement there instead of to standard output"
    )


def run(options: argparse.Namespace) -> int:
    """Print the statement, or write it to a file."""
    from p2pfl.commands.federation_invite import issuer_of, peer_named
    from p2pfl.gossip.revocations import revoke
    from p2pfl.node.errors import UsageError
    from p2pfl.node.storage.atomic_file import write_output

    peer = peer_named(options.peer)
    manifest, identity = issuer_of(options.federation, options.identity)
    try:
        line = revoke(
            identity, federation=manifest.digest, peer=peer, issued=int(time.time()), reason=options.reason
        )
    except ValueError as error:
        raise UsageError(f"--reason: {error}", "say it in a few plain words") from None
    if options.out is None:
        print(line)
    else:
        write_output(options.out, f"{line}\n".encode(), 0o644)
    if manifest.issuer_quorum > 1:
        note(f"it holds once {manifest.issuer_quorum} issuers have signed: put their lines into one file")
    note(f"next, at any member: p2pfl federation deliver {options.out or 'FILE'} --config node.toml")
    return 0
