"""``p2pfl demo``: a real federation on one machine."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl demo``."""
    parser.description = (
        "Run four hospitals as four nodes on this machine, each with its own identity, directory and data"
        " file, until their model is trained, and print what it is worth and what it cost. Needs no network."
    )
    parser.epilog = (
        "A node that is killed meanwhile is started again. Ctrl-C, SIGTERM and SIGHUP stop the demo and its"
        " nodes; the exit status is then 130, 143 or 129. It is 0 only if every node finished."
    )
    parser.add_argument(
        "--directory",
        metavar="D",
        type=Path,
        default=Path("demo-run"),
        help="where the hospitals' directories, the logs and the model go (default: %(default)s)",
    )
    parser.add_argument(
        "--rounds", metavar="N", type=int, help="training rounds (default: as in the manifest)"
    )
    parser.add_argument(
        "--mode",
        choices=("distributed", "local", "organisation", "none"),
        help="privacy mode (default: as in the manifest); organisation hides a whole hospital, for which four"
        " are too few: it learns nothing",
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo."""
    from p2pfl.node.errors import UsageError

    if options.rounds is not None and options.rounds < 1:
        raise UsageError(
            f"--rounds must be at least 1, not {options.rounds}", "leave it out for the usual number"
        )
    from p2pfl.demo import run_demo

    return run_demo(options.directory, rounds=options.rounds, mode=options.mode)
