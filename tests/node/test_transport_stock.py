"""Each fault for which :mod:`p2pfl.node.hardened` exists: the library has it, the hardened parts have not.

When a new version of the library passes one of these, the part behind it can go. The scenarios are in
stock_faults.py and run in processes of their own: some of what the library ends in cannot be cancelled.
"""

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = {
    "two_way_bulk": ("dead-locked", "finished"),
    "handler_exception": ("died", "answers"),
    "garbled_protocol_name": ("died", "answers"),
    "many_connections": ("refused after 8", "accepted 12"),
    "big_request": ("failed: RequestTransportError", str(8 << 20)),
    "ignored_window": ("buffered 64 MiB", "disconnected: 65524 bytes where the window has 19 left"),
    "muxer_option": ("ignored", "used"),
    "shared_port": ("both listen", "refused: Address already in use"),
}


def outcome(scenario: str, stack: str, seconds: float) -> str:
    script = Path(__file__).with_name("stock_faults.py")
    done = subprocess.run(
        [sys.executable, str(script), scenario, stack],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("scenario", FAULTS)
def test_the_library_fails(scenario: str) -> None:
    assert outcome(scenario, "stock", 60) == FAULTS[scenario][0]


@pytest.mark.parametrize("scenario", FAULTS)
def test_the_hardened_parts_do_not(scenario: str) -> None:
    assert outcome(scenario, "ours", 60) == FAULTS[scenario][1]


@pytest.mark.parametrize("dialler", ["stock", "ours"])
def test_the_two_understand_each_other(dialler: str) -> None:
    assert outcome("interoperation", dialler, 60) == "the same bytes"


@pytest.mark.slow
@pytest.mark.parametrize(("stack", "expected"), [("stock", "refused after 250"), ("ours", "accepted 260")])
def test_the_250th_connection_by_default(stack: str, expected: str) -> None:
    assert outcome("many_connections_by_default", stack, 300) == expected
