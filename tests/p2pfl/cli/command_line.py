"""Whom the commands are about, the federation's TOML, and what a refusal looks like."""

import re
from collections.abc import Callable

from p2pfl.crypto.identity import Identity
from p2pfl.node.errors import ExitCode

ISSUER, MEMBER, GUEST = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
TOML = f"""
name = "hearts"
issuers = ["{ISSUER.peer_id}"]
members = ["{MEMBER.peer_id}"]
[task]
label = "num"
positive = ["1", "2"]
[[task.columns]]
name = "age"
kind = "numeric"
low = 20
high = 90
[model]
kind = "logistic"
[training]
rounds = 20
learning_rate = 0.5
sampling_rate = 0.25
expected_batch = 40
[privacy]
mode = "distributed"
epsilon = 2
delta = 1e-4
noise_multiplier = 3.5
statistics_noise_multiplier = 9
evaluation_noise_multiplier = 9
"""

Run = Callable[..., tuple[int, str, str]]


def refused(run: Run, status: ExitCode, words: str, *arguments: str) -> str:
    """One line of error and one of hint, on standard error, nothing on standard output; returns both."""
    found, out, err = run(*arguments)
    assert found == status, err
    assert out == ""
    errors_, hints = (
        re.findall(r"^p2pfl: error: (.*)$", err, re.M),
        re.findall(r"^p2pfl: hint: (.*)$", err, re.M),
    )
    assert len(errors_) == len(hints) == 1
    assert words in errors_[0]
    for message in errors_ + hints:
        assert message.isprintable()
        assert not message.endswith(".")
        assert "\x1b" not in message
    return err


def invite(*more: str, peer: str = GUEST.peer_id, identity: str = "issuer.key") -> tuple[str, ...]:
    return ("federation", "invite", peer, "--federation", "hearts.manifest", "--identity", identity, *more)


CSV = "age,num\n50,0\n60,2\n"
