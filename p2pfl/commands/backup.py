"""``p2pfl backup``: a copy of a node's directory to start from again."""

import argparse
import os
from pathlib import Path

from p2pfl.terminal import note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl backup``."""
    parser.description = (
        "Write what a node needs to go on after the loss of its disk into one tar file: ledger and journal,"
        " the model, config and ticket. The node may be running meanwhile, and the copy is checked before the"
        " file is there. Copying p2pfl.sqlite alone, or all files one by one, while the node runs is no"
        " backup. Of a backup older than the last round the node forgets what was spent since, so make one"
        " often; members tell a node that goes on with an old one, and it stops."
    )
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the node's TOML")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="the new tar file")
    parser.add_argument(
        "--with-key",
        action="store_true",
        help="the secret key, too: whoever can read the file is this node then (default: keep the key apart)",
    )


def run(options: argparse.Namespace) -> int:
    """Write the file; say how far it goes."""
    from p2pfl.node.config import load_config
    from p2pfl.node.storage.backup import back_up

    config = load_config(options.config, os.environ, {})
    last = back_up(options.config, config, options.out, with_key=options.with_key)
    print(options.out)
    note(f"the ledger in it goes to round {last}" if last >= 0 else "nothing was charged so far")
    if not options.with_key:
        note(f"the key is not in it: keep a copy of {config.identity} in another safe place, once")
    return 0
