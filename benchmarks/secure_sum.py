"""What a secure sum costs: local arithmetic, bytes on the wire, and a real round over libp2p.

    python benchmarks/secure_sum.py [--json]

Arithmetic is the best of several runs in this process, beside the same bytes through np.copyto and through
the bare AES-CTR stream. A round is run by real machines over real connections on loopback, all in this one
process, beside plain vectors sent to everybody over the same connections; the bytes are those on the
sockets. The yardstick for bytes is a plain reduce-scatter and all-gather, 2 (k - 1) / k vectors a member.

Flower's SecAgg+ client at d = 10^6, k = 8 took 133 ms of CPU for 8.0 MB (flwr 1.42.0, two virtual cores); it
is not measured afresh here.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.masks import Mask
from p2pfl.crypto.randomness import Keystream, system_random
from p2pfl.crypto.ring import Encoding, encode, largest_fraction_bits
from p2pfl.crypto.shamir import combine, split
from p2pfl.gossip.masking import Masking, Secrets
from p2pfl.gossip.messages import Ready
from p2pfl.gossip.roster import Roster
from p2pfl.gossip.suite import SUITE

COLLUDERS = 1
SEED = bytes(32)
FLOWER_CLIENT_MS = 133.0
Rows = list[dict[str, object]]


def row(
    name: str,
    params: dict[str, int],
    value: float,
    unit: str,
    baseline: str = "",
    ratio: float | None = None,
    target: float | None = None,
    *,
    met: bool | None = None,
) -> dict[str, object]:
    keys = ("name", "params", "value", "unit", "baseline", "ratio", "target", "met")
    return dict(zip(keys, (name, params, value, unit, baseline, ratio, target, met), strict=True))


def best(work: Callable[[], object], times: int = 7, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of the quickest run."""
    seconds = []
    for _ in range(times):
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds)


def aimed(
    name: str,
    params: dict[str, int],
    value: float,
    unit: str,
    baseline: str,
    ratio: float,
    target: float | None,
) -> dict[str, object]:
    """A row whose ratio has a target, if any."""
    met = None if target is None else ratio <= target
    return row(name, params, value, unit, baseline, ratio, target, met=met)


# -- arithmetic


def primitives(dim: int) -> Rows:
    """Per element: copying, the cipher, one neighbour's mask, encoding."""
    values, other = np.ones(dim, np.uint32), np.empty(dim, np.uint32)
    reals = np.random.default_rng(0).uniform(-1, 1, dim)
    encoding = Encoding(largest_fraction_bits(8, 1.0), 1.0)
    per = 1e9 / dim
    copy = best(lambda: np.copyto(other, values)) * per
    cipher = best(lambda: Keystream(SEED).fill(other)) * per
    mask = best(lambda: Mask(SEED).add_to(values)) * per
    rounded = best(lambda: encode(reals, encoding, system_random)) * per
    size = {"d": dim}
    return [
        row("np.copyto", size, copy, "ns/element"),
        row("AES-CTR", size, cipher, "ns/element", "np.copyto", cipher / copy),
        row("mask and add", size, mask, "ns/element", "np.copyto", mask / copy, 1.3, met=mask <= 1.3),
        row("encode", size, rounded, "ns/element", "np.copyto", rounded / copy, 2.7, met=rounded <= 2.7),
    ]


def readied(identity: Identity, dim: int) -> tuple[Secrets, Ready]:
    secrets = Secrets.fresh(SUITE, system_random)
    keys = (secrets.mask_key.public, secrets.bundle_key.public, SUITE.commit(secrets.seed))
    return secrets, Ready(identity.peer_id, SEED, SEED, 0, 0, "training", dim, *keys, SEED)


def client(dim: int, members: int) -> dict[str, object]:
    """All that one member computes until its masked vector is ready to be sent: CPU time."""
    identities = [Identity.from_seed(bytes([number]) * 32) for number in range(members)]
    secrets, readies = zip(*(readied(identity, dim) for identity in identities), strict=True)
    roster = Roster.of(readies, COLLUDERS)
    reals = np.random.default_rng(0).uniform(-1, 1, dim)
    encoding = Encoding(largest_fraction_bits(members, 1.0), 1.0)

    def work() -> None:
        masking = Masking(roster, 0, secrets[0], SUITE)
        masking.deal(system_random)
        masking.mask(encode(reals, encoding, system_random)[0])

    spent = best(work, 5, time.process_time) * 1e3
    params = {"d": dim, "k": members}
    if (dim, members) != (10**6, 8):
        return row("client", params, spent, "ms CPU")
    met = spent <= 14 and FLOWER_CLIENT_MS / spent >= 9
    return row("client", params, spent, "ms CPU", "SecAgg+, 133 ms", spent / FLOWER_CLIENT_MS, 14.0, met=met)


def sharing() -> Rows:
    shares = split(SEED, 9, 6, system_random)
    chosen = dict(enumerate(shares[:6]))
    dealt = best(lambda: split(SEED, 9, 6, system_random), 50) * 1e3
    joined = best(lambda: combine(chosen, 6), 50) * 1e3
    size = {"shares": 9, "threshold": 6}
    return [
        row("Shamir split", size, dealt, "ms", target=0.1, met=dealt <= 0.1),
        row("Shamir combine", size, joined, "ms", target=0.1, met=joined <= 0.1),
    ]


# -- rounds over libp2p


class Group:
    """``members`` processes, connected over loopback (:mod:`secure_sum_member`)."""

    def __init__(self, members: int) -> None:
        script = [sys.executable, str(Path(__file__).with_name("secure_sum_member.py"))]
        self.processes = [
            subprocess.Popen(
                [*script, str(number), str(members)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # as p2pfl has it
            )
            for number in range(members)
        ]
        self.rounds = 0
        self.tell(self.hear())
        self.hear()

    def tell(self, order: object) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()

    def hear(self) -> list[Any]:
        """One answer of everybody."""
        answers = []
        for process in self.processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("a member has died")
            answers.append(json.loads(line))
        return answers

    def play(self, what: str, dim: int) -> "Played":
        self.tell({"play": what, "round": self.rounds, "dim": dim})
        self.rounds += 1
        self.hear()
        start = time.perf_counter()
        self.tell("go")
        took = self.hear()
        wall = time.perf_counter() - start
        if len({each["digest"] for each in took}) != 1:
            raise RuntimeError("the members do not have the same sum")
        self.tell("over")
        counted = self.hear()
        cpu, sent, resident = (
            sum(float(each[key]) for each in answers)
            for key, answers in (("cpu", took), ("sent", counted), ("resident", counted))
        )
        return Played(wall, cpu, sent / len(self.processes), resident)

    def end(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


@dataclass(frozen=True)
class Played:
    """What one exchange took: seconds, seconds of all members together, bytes per member, and the most
    memory that all of them held so far.
    """

    wall: float
    cpu: float
    sent: float
    resident: float


def exchange(dim: int, members: int, times: int) -> Rows:
    """A secure round beside the plain exchange, each the best of ``times``."""
    group = Group(members)
    plain = [group.play("plain", dim) for _ in range(times)]
    secure = [group.play("secure", dim) for _ in range(times)]
    plain += [group.play("plain", dim) for _ in range(times)]  # before and after, as the machine changes
    group.end()
    params = {"d": dim, "k": members}
    bare, wall = min(each.wall for each in plain), min(each.wall for each in secure)
    cpu, sent = min(each.cpu for each in secure), min(each.sent for each in secure)
    least = 2 * (members - 1) / members * 4 * dim
    rows = [
        row("plain exchange", params, bare * 1e3, "ms wall"),
        row("plain exchange", params, min(each.cpu for each in plain) * 1e3, "ms CPU, all"),
        aimed(
            "secure round",
            params,
            wall * 1e3,
            "ms wall",
            "plain exchange",
            wall / bare,
            1.3 if (dim, members) == (10**6, 4) else None,
        ),
        row("secure round", params, cpu * 1e3, "ms CPU, all"),
        aimed(
            "bytes sent",
            params,
            sent / 1e6,
            "MB/member",
            "all-reduce",
            sent / least,
            1.02 if dim == 10**6 else None,
        ),
    ]
    if (dim, members) == (10**7, 4):
        resident = max(each.resident for each in secure) / 1e9
        for name, value, unit, theirs in (
            ("secure round", wall, "s wall", 1.41),
            ("secure round", cpu, "s CPU, all", 2.8),
            ("secure round", resident, "GB, all", 3.2),
        ):
            rows.append(row(name, params, value, unit, f"hivemind, {theirs}", value / theirs))
    return rows


def measure() -> Rows:
    rows = [entry for dim in (10**4, 10**6, 10**7) for entry in primitives(dim)]
    rows += [client(dim, members) for dim in (10**4, 10**6, 10**7) for members in (4, 8, 16)]
    rows += sharing()
    for dim, members, times in ((10**4, 4, 5), (10**4, 8, 5), (10**4, 16, 3), (10**6, 4, 5), (10**6, 8, 3)):
        rows += trio.run(exchange, dim, members, times)
    return rows


def main(*, as_json: bool) -> None:
    rows = measure()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for each in rows:
        params = ", ".join(f"{key} = {value:,}" for key, value in dict(each["params"]).items())  # type: ignore[call-overload]
        ratio = "" if each["ratio"] is None else f"{each['ratio']:7.2f} of {each['baseline']}"
        met = "" if each["met"] is None else ("  met" if each["met"] else "  NOT MET")
        aim = "" if each["target"] is None else f"  (target {each['target']:g}{met})"
        print(f"{each['name']:16} {params:24} {each['value']:10.3f} {each['unit']:14}{ratio}{aim}")


if __name__ == "__main__":
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    arguments.add_argument("--json", action="store_true", help="print JSON rows instead of a table")
    main(as_json=arguments.parse_args().json)
