"""``p2pfl init``: a directory for a node."""

import argparse
from pathlib import Path

from p2pfl.terminal import note

CONFIG = "node.toml"
IDENTITY = "identity.key"
NETWORK_KEY = "network.key"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl init``."""
    parser.description = (
        f"Make DIR with {IDENTITY} (this node's secret key, readable by you alone) and {CONFIG} (a config to"
        " start from), and print the new peer id. Nothing that exists is overwritten."
    )
    parser.add_argument(
        "--network-key",
        action="store_true",
        help=f"also make {NETWORK_KEY}, a key for all members to share (network.key_file in the config)",
    )
    parser.add_argument(
        "directory", metavar="DIR", type=Path, help="the node's directory; created if missing"
    )


def run(options: argparse.Namespace) -> int:
    """Create identity and config; print the peer id."""
    from p2pfl.crypto.identity import Identity
    from p2pfl.crypto.randomness import system_random
    from p2pfl.node.config import example_toml
    from p2pfl.node.errors import IdentityError, StorageError, reason_of
    from p2pfl.node.storage.atomic_file import write_atomically, write_output
    from p2pfl.node.storage.identity_file import save_identity

    directory: Path = options.directory
    if (directory / IDENTITY).exists():
        hint = "use the identity there, or choose another directory"
        raise IdentityError(f"{directory / IDENTITY} exists already, and is never overwritten", hint)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot create {directory}: {reason_of(error)}", "choose a directory you may write to"
        ) from None
    if options.network_key:
        from p2pfl.node.membership.network_key import new_key_file

        write_output(directory / NETWORK_KEY, new_key_file(), 0o600)
        note(f"give {directory / NETWORK_KEY} to all members by a safe way: they name it under key_file")
    config = directory / CONFIG
    try:
        write_atomically(config, example_toml().encode(), 0o644, exclusive=True)
    except FileExistsError:
        note(f"keeping {config}, which is there already")
    identity = Identity.generate(system_random)
    save_identity(directory / IDENTITY, identity)
    print(identity.peer_id)
    note("this is your peer id: the organiser lists it in the manifest, or sends you a ticket for it")
    note(f"next: edit {config}, then run: p2pfl node --config {config}")
    return 0
