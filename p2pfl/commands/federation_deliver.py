"""``p2pfl federation deliver``: hand a statement of issuers to a node, for all members."""

import argparse
from pathlib import Path

from p2pfl.terminal import note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl federation deliver``."""
    parser.description = (
        "Check a revocation (p2pfl federation revoke) and leave it for this node, which takes it in within"
        " seconds, or at its next start, and tells all other members. One member is enough."
    )
    parser.add_argument("statement", metavar="FILE", type=Path, help="the revocation")
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the node's TOML")


def run(options: argparse.Namespace) -> int:
    """Leave the statement in the node's state directory."""
    from p2pfl.node.membership.statements import deliver, read_revocation
    from p2pfl.node.storage.lock import is_locked
    from p2pfl.opened import opened_state

    with opened_state(options.config) as state:
        lines = read_revocation(options.statement, state.manifest, state.manifest.digest)
        deliver(state.config.state, lines)
        running = is_locked(state.config.state)
    when = "the node takes it in within seconds" if running else "the node takes it in when it is started"
    note(f"{lines[0].peer} is revoked ({lines[0].reason}): {when}")
    return 0
