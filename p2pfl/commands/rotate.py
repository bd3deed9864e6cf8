"""``p2pfl rotate``: a new key for a node that keeps its place."""

import argparse
import os
from pathlib import Path

from p2pfl.terminal import note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl rotate``."""
    parser.description = (
        "Give this organisation's node a new key, and a new peer id, in its old place: it stays a member, and"
        " its journal and what its records have paid go on. The old key signs that, and is deleted; members"
        " learn of it when they meet the node again, and let the old key in no more. The node must be"
        " stopped. If this is interrupted, run it again. Give a copy of the old key first to whatever other"
        " config names the same file. If the old key is lost, or somebody else may have it, ask the issuers"
        " to revoke it, and for a ticket for a new identity."
    )
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the node's TOML")


def run(options: argparse.Namespace) -> int:
    """Change the key; print the new peer id."""
    from p2pfl.crypto.randomness import system_random
    from p2pfl.node.config import load_config
    from p2pfl.node.membership.rotation import issuer_key, rotate

    config = load_config(options.config, os.environ, {})
    succession = rotate(config, system_random)
    print(succession.successor)
    note(f"this is your new peer id; {succession.author} is not let in any more")
    note("tell the members that call you: the end of your address under network.bootstrap has changed")
    if issuer_key(config.identity).exists():
        note(f"the old key still issues tickets, and is kept as {issuer_key(config.identity)}")
    note(f"next: p2pfl node --config {options.config}")
    return 0
