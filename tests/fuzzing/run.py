"""``make fuzz``: every target for its share of the time, and what was found."""

import argparse
import secrets
import sys
import time
from traceback import print_exception

from fuzzing import TARGETS, Finding, campaign, keep
from target import Target

LARGEST_KEPT = 1024
"""Bytes of the largest input that ``--keep`` puts into the corpus."""


def fuzz(target: Target, seed: str, seconds: float, *, keeping: bool) -> bool:
    """Whether nothing was found."""
    start = time.monotonic()
    try:
        done = campaign(target, seed, lambda _: time.monotonic() - start < seconds)
    except Finding as finding:
        path = keep(target, finding.data, "found")
        print(f"{target.name:24} FOUND: {finding}\n{'':24} {path}", flush=True)
        if finding.__cause__ is not None:
            print_exception(finding.__cause__)
        return False
    speed = done.executions / (time.monotonic() - start)
    print(
        f"{target.name:24} {done.executions:8} inputs {speed:8.0f} /s {len(done.kept):5} new ends", flush=True
    )
    if keeping:
        _keep_all(target, done.kept)
    return True


def _keep_all(target: Target, inputs: list[bytes]) -> None:
    for data in target.seeds:
        keep(target, data, "seed")
    for data in inputs:
        if len(data) <= LARGEST_KEPT and data not in target.seeds:
            keep(target, data, "end")


def main() -> int:
    """Returns 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", default="", help="the same tries the same inputs; random if empty")
    parser.add_argument("--only", default="", help="targets whose name begins like this")
    parser.add_argument(
        "--keep", action="store_true", help="add the seeds, and inputs with a new end, to the corpus"
    )
    options = parser.parse_args()
    targets = [target for target in TARGETS if target.name.startswith(options.only)]
    seed = options.seed or secrets.token_hex(4)
    print(f"seed {seed}: {len(targets)} targets in {options.seconds:g} s", flush=True)
    share = options.seconds / max(1, len(targets))
    clean = [fuzz(target, seed, share, keeping=options.keep) for target in targets]
    return 0 if all(clean) else 1


if __name__ == "__main__":
    sys.exit(main())
