"""``p2pfl rendezvous``: a place where members leave their addresses for each other."""

import argparse
from pathlib import Path

from p2pfl.terminal import note

_LISTEN = "/ip4/0.0.0.0/tcp/4002"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl rendezvous``."""
    parser.description = (
        "Run a small Kademlia node of libp2p at which members of any federation leave their addresses and"
        " look for each other's: what network.rendezvous names. It keeps addresses for a day, in memory,"
        " learns no federation's id and no data, and needs neither ticket nor manifest. Stop it with Ctrl-C"
        " or SIGTERM."
    )
    parser.add_argument(
        "--identity",
        metavar="FILE",
        type=Path,
        required=True,
        help="its secret key, as `p2pfl init` makes one; others name it by the peer id",
    )
    parser.add_argument(
        "--listen",
        metavar="MULTIADDR",
        action="append",
        help=f"where to listen (default {_LISTEN}); may be repeated",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop."""
    from p2pfl.logs import start_logging
    from p2pfl.node.stop_signals import end_at_once_on_stop
    from p2pfl.node.storage.identity_file import load_identity

    end_at_once_on_stop()
    start_logging("info", as_json=False)
    identity = load_identity(options.identity)
    listen = tuple(options.listen or (_LISTEN,))

    from p2pfl.node.transport.rendezvous import run_rendezvous

    forgotten = run_rendezvous(identity, listen, lambda address: print(f"listening on {address}", flush=True))
    note(f"stopped: {forgotten} records are forgotten")
    return 0
