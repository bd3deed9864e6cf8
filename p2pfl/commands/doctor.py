"""``p2pfl doctor``: what is wrong with a node, or soon will be, and what to do about it."""

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.terminal import alarm, one_line

if TYPE_CHECKING:
    from p2pfl.node.doctor import Finding


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl doctor``."""
    parser.description = (
        "Look at everything that has stopped a node before: the machine, the directory, names and ports,"
        " whether members reach this node and it them, their clocks and versions, and a secure sum of nothing"
        " with each. Asks the node if it runs; else calls members in its place, for some seconds, without"
        " taking part in anything. Takes up to 20 seconds. The exit status is 0 unless a check failed, and"
        " then that of the first one."
    )
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the node's TOML")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--running",
        action="store_true",
        help="the node is meant to run (for cron): if it does not, that is a failure, and nobody stands in",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="say nothing of what is fine or was skipped (for cron)"
    )


def run(options: argparse.Namespace) -> int:
    """Print what was found, as it is found."""
    from p2pfl.node.config import load_config
    from p2pfl.node.doctor import examine_node

    findings = examine_node(load_config(options.config, os.environ, {}), must_run=options.running)
    shown = (one for one in findings) if options.json else _print(findings, quiet=options.quiet)
    found = list(shown)
    if options.json:
        kept = [one for one in found if not (options.quiet and one.state in ("ok", "skipped"))]
        print(json.dumps([one.as_dict() for one in kept], indent=1))
    return next((one.exit_code for one in found if one.state == "failure"), 0)


def _print(findings: "Iterable[Finding]", *, quiet: bool) -> "Sequence[Finding]":
    found = []
    for one in findings:
        found.append(one)
        loud = one.state in ("warning", "failure")
        if loud or not quiet:
            line = f"{one.name}: {one.state}: {one_line(one.said)}"
            print(alarm(line) if loud else line, flush=True)
            if one.hint:
                print(f"    {one_line(one.hint)}", flush=True)
    return found
