"""What a secure sum costs: local arithmetic, bytes on the wire, and a real round over libp2p.

    python benchmarks/secure_sum.py [--json] [--quick]

Arithmetic is the best of several runs in this process, beside the same bytes through np.copyto and through
the bare AES-CTR stream. A round is run by a process for every member, over real connections on loopback,
beside the same plain vectors over the same connections: once as an all-reduce, which moves as many bytes, and
once sent whole to everybody. The bytes are those on the sockets; the yardstick is a plain reduce-scatter and
all-gather, 2 (k - 1) / k vectors a member.

Flower's SecAgg+ client is measured afresh where flwr is installed; else its figure is that of flwr 1.27.0 on
two virtual cores of an AMD EPYC (Zen 3). hivemind's all-reduce of 10^7 floats among four local peers, 1.41 s
of wall time, 2.8 s of CPU and 3.2 GB, was measured on the same machine with hivemind 1.1.12.

With --quick only up to d = 10^6 and k = 8.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from _rows import Rows, row, show

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.linear_check import check_values
from p2pfl.crypto.masks import Mask
from p2pfl.crypto.randomness import Keystream, system_random
from p2pfl.crypto.ring import Encoder, Encoding, encode, largest_fraction_bits
from p2pfl.crypto.shamir import combine, split
from p2pfl.gossip.broadcast import mask_slice
from p2pfl.gossip.chunks import Chunks
from p2pfl.gossip.masking import Masking, Secrets
from p2pfl.gossip.messages import Ready
from p2pfl.gossip.roster import Roster
from p2pfl.gossip.suite import SUITE

COLLUDERS = 1
SEED = bytes(32)
FLOWER_CLIENT_MS = 133.0


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


def client(dim: int, members: int, flower: float | None) -> Rows:
    """All that one member computes until its masked vector is on its way, CPU time; and the same bytes
    through less. ``flower``: milliseconds of its client, if this is the case to compare.
    """
    identities = [Identity.from_seed(bytes([number]) * 32) for number in range(members)]
    secrets, readies = zip(*(readied(identity, dim) for identity in identities), strict=True)
    roster = Roster.of(readies, COLLUDERS)
    reals = np.random.default_rng(0).uniform(-1, 1, dim)
    encoding = Encoding(largest_fraction_bits(members, 1.0), 1.0)
    chunks = Chunks.of(dim, members, 4)
    block, other = np.ones(min(dim, 1 << 18), np.uint32), np.empty(min(dim, 1 << 18), np.uint32)
    blocks = members * dim // len(block)

    def work() -> None:
        masking = Masking(roster, 0, secrets[0], SUITE)
        masking.deal(system_random)
        values, masker = Encoder(reals, encoding, system_random), masking.masker()
        for chunk in range(chunks.count):
            mask_slice(values, chunks.where(chunk), masker)

    def copied() -> None:
        for _ in range(blocks):
            np.copyto(other, block)

    def streamed() -> None:
        stream = Keystream(SEED)
        for _ in range(blocks):
            stream.fill(other)

    copy, cipher, spent = (best(f, 5, time.process_time) * 1e3 for f in (copied, streamed, work))
    params = {"d": dim, "k": members}
    rows = [
        row("k masks, copied", params, copy, "ms CPU"),
        row("k masks, AES-CTR", params, cipher, "ms CPU"),
        row("client", params, spent, "ms CPU", "np.copyto", spent / copy),
        row("client", params, spent, "ms CPU", "AES-CTR", spent / cipher),
    ]
    if flower is not None:
        rows.append(row("client", params, spent, "ms CPU", target=14.0, met=spent <= 14))
        rows.append(
            row(
                "SecAgg+ client",
                params,
                flower,
                "ms CPU",
                "client",
                flower / spent,
                9.0,
                met=flower >= 9 * spent,
            )
        )
    return rows


def flower_client(dim: int, members: int) -> float | None:
    """Milliseconds of CPU of Flower's SecAgg+ client for the same work, by its own functions; None where flwr
    is not installed.
    """
    try:
        flower = import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")
        parameters = import_module("flwr.common.parameter")
    except ImportError:
        return None
    key = flower.Key
    agreed = {
        key.SAMPLE_NUMBER: members,
        key.SHARE_NUMBER: members,
        key.THRESHOLD: members // 2 + 2,
        key.CLIPPING_RANGE: 1.0,
        key.TARGET_RANGE: 1 << 22,
        key.MOD_RANGE: 1 << 32,
        key.MAX_WEIGHT: 1.0,
    }
    states = [flower.SecAggPlusState() for _ in range(members)]
    publics = {}
    for number, state in enumerate(states):
        state.nid = number
        shown = flower._setup(state, agreed)
        publics[str(number)] = (shown[key.PUBLIC_KEY_1], shown[key.PUBLIC_KEY_2])
    sealed = [dict(flower._share_keys(state, publics)) for state in states]
    reals = parameters.ndarrays_to_parameters([np.random.default_rng(0).uniform(-1, 1, dim)])
    others = range(1, members)
    # Sealed to number 0, by each in the order of its others.
    given = {
        key.SOURCE_LIST: list(others),
        key.CIPHERTEXT_LIST: [sealed[other][key.CIPHERTEXT_LIST][0] for other in others],
    }

    def work() -> None:
        flower._share_keys(states[0], publics)
        flower._collect_masked_vectors(states[0], given, 1, reals)

    return best(work, 5, time.process_time) * 1e3


def checking(dim: int, members: int) -> Rows:
    """What the linear check of a reduce-scatter takes, for one vector of the two; and unmasking."""
    chunks = Chunks.of(dim, members, 4)
    whole = np.ones(dim, np.uint32)
    cut = {chunk: whole[chunks.where(chunk)] for chunk in range(chunks.count)}
    owners = [chunk % members for chunk in cut]
    spent = best(lambda: check_values(SEED, cut, owners), 5, time.process_time)
    params = {"d": dim, "k": members}
    return [row("linear check", params, spent * 1e9 / dim, "ns CPU/element")]


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
    """``members`` processes, connected over loopback (:mod:`_secure_sum_member`)."""

    def __init__(self, members: int) -> None:
        script = [sys.executable, str(Path(__file__).with_name("_secure_sum_member.py"))]
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
        self.resident_before = sum(self.hear())

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
    """A secure round beside plain exchanges, each the best of ``times``."""
    group = Group(members)
    # Secure rounds come first, so that the memory is theirs; of the plain ones the second lot counts.
    order = ["secure", "plain", "whole", "plain"]
    if dim * members > 10**8:
        order.remove("whole")  # gigabytes, that show nothing new
    played = {what: [group.play(what, dim) for _ in range(times)] for what in order}
    group.end()
    params, secure = {"d": dim, "k": members}, played["secure"]
    wall, cpu = min(each.wall for each in secure), min(each.cpu for each in secure)
    rows = []
    for what, name in (("plain", "plain all-reduce"), ("whole", "plain, to everybody")):
        if what not in played:
            continue
        bare = min(each.wall for each in played[what])
        target = 1.3 if (dim, members) == (10**6, 4) else None
        rows.append(row(name, params, bare * 1e3, "ms wall"))
        rows.append(aimed("secure round", params, wall * 1e3, "ms wall", name, wall / bare, target))
    bare = min(each.cpu for each in played["plain"])
    rows.append(row("secure round", params, cpu * 1e3, "ms CPU, all", "plain all-reduce", cpu / bare))
    sent, least = min(each.sent for each in secure), 2 * (members - 1) / members * 4 * dim
    most = 1.02 if dim == 10**6 else None
    rows.append(aimed("bytes sent", params, sent / 1e6, "MB/member", "all-reduce", sent / least, most))
    held = (max(each.resident for each in secure) - group.resident_before) / members
    if dim >= 10**6:
        rows.append(row("memory held", params, held / 1e6, "MB/member", "vector", held / (4 * dim)))
    if (dim, members) == (10**7, 4):
        resident = max(each.resident for each in secure) / 1e9
        for value, unit, theirs in (
            (wall, "s wall", 1.41),
            (cpu, "s CPU, all", 2.8),
            (resident, "GB, all", 3.2),
        ):
            rows.append(row("secure round", params, value, unit, f"hivemind, {theirs}", value / theirs))
    return rows


def measure(*, quick: bool) -> Rows:
    dims, sizes = ((10**4, 10**6), (4, 8)) if quick else ((10**4, 10**6, 10**7), (4, 8, 16))
    flower = flower_client(10**6, 8) or FLOWER_CLIENT_MS
    rows = [entry for dim in dims for entry in primitives(dim)]
    for dim in dims:
        for members in sizes:
            rows += client(dim, members, flower if (dim, members) == (10**6, 8) else None)
            rows += checking(dim, members) if Chunks.of(dim, members, 4).scattered else []
    rows += sharing()
    for dim in dims:
        for members in sizes:
            rows += exchange(dim, members, 2 if dim * members > 10**8 else 4)
    return rows


def main(*, as_json: bool, quick: bool) -> None:
    show(measure(quick=quick), as_json=as_json)


if __name__ == "__main__":
    if "OPENBLAS_NUM_THREADS" not in os.environ:  # as p2pfl has it; numpy has looked by now
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    arguments.add_argument("--json", action="store_true", help="print JSON rows instead of a table")
    arguments.add_argument("--quick", action="store_true", help="leave out the largest vectors and groups")
    options = arguments.parse_args()
    main(as_json=options.json, quick=options.quick)
