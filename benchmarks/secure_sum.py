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
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
import trio
from numpy.typing import NDArray

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.masks import add_mask
from p2pfl.crypto.randomness import Keystream, system_random
from p2pfl.crypto.ring import Encoding, encode, largest_fraction_bits
from p2pfl.crypto.shamir import combine, split
from p2pfl.gossip import wire
from p2pfl.gossip.events import (
    Completed,
    Contribute,
    Contribution,
    Event,
    Prepared,
    Received,
    Send,
    SetTimer,
    Skipped,
    TimerExpired,
)
from p2pfl.gossip.masking import Masking, Secrets
from p2pfl.gossip.messages import ROUND_MESSAGES, Ready
from p2pfl.gossip.roster import Roster
from p2pfl.gossip.round import RoundMachine
from p2pfl.gossip.suite import SUITE
from p2pfl.gossip.wire import decode_untrusted
from p2pfl.node.transport import Limits, MessageReceived, PeerConnected, Transport

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


# -- arithmetic


def primitives(dim: int) -> Rows:
    """Per element: copying, the cipher, one neighbour's mask, encoding."""
    values, other = np.ones(dim, np.uint32), np.empty(dim, np.uint32)
    reals = np.random.default_rng(0).uniform(-1, 1, dim)
    encoding = Encoding(largest_fraction_bits(8, 1.0), 1.0)
    per = 1e9 / dim
    copy = best(lambda: np.copyto(other, values)) * per
    cipher = best(lambda: Keystream(SEED).fill(other)) * per
    mask = best(lambda: add_mask(values, SEED)) * per
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


class Everybody:
    """Admits everybody."""

    def at_handshake(self, peer: PeerId) -> str | None:
        return None

    def greeting(self) -> bytes:
        return b""

    def judge(self, peer: PeerId, greeting: bytes) -> str | None:
        return None


@dataclass(frozen=True)
class Timing:
    ready_seconds: float = 30.0
    phase_seconds: float = 60.0
    round_seconds: float = 300.0


@dataclass
class Member:
    """One node: its transport, and of every run the machine or the plain vectors that it takes."""

    identity: Identity
    values: NDArray[np.uint32]
    transport: Transport = field(init=False)

    def __post_init__(self) -> None:
        limits = Limits(max_message=256 << 20, outbox_bytes=1 << 30, inbox_bytes=512 << 20)
        self.transport = Transport(
            self.identity, ["/ip4/127.0.0.1/tcp/0"], Everybody(), "/p2pfl/bench", limits, {}
        )

    async def plain(self, others: int) -> None:
        """Send the vector to everybody, take theirs, add."""
        data, total = self.values.tobytes(), self.values.copy()
        for peer in self.transport.connected:
            self.transport.send(peer, data)
        for _ in range(others):
            event = await self.transport.events.receive()
            assert isinstance(event, MessageReceived)
            total += np.frombuffer(event.data, np.uint32)

    async def secure(self, machine: RoundMachine) -> None:
        """One round of the machine, to its end and until all that it sent is taken."""
        limits, timers = wire.Limits(len(self.values)), dict[str, float]()
        inbox: list[Event] = [Prepared(machine.round, "training", len(self.values), SEED)]
        while True:
            for event in inbox:
                if self.perform(machine, event, timers):
                    return
            inbox = []
            with trio.move_on_at(min(timers.values(), default=math.inf)):
                arrived = await self.transport.events.receive()
                assert isinstance(arrived, MessageReceived)
                message = decode_untrusted(arrived.peer, arrived.data, limits, ROUND_MESSAGES)
                inbox.append(Received(arrived.peer, message))
            for key in [key for key, at in timers.items() if at <= trio.current_time()]:
                del timers[key]
                inbox.append(TimerExpired(key))

    def perform(self, machine: RoundMachine, event: Event, timers: dict[str, float]) -> bool:
        """Whether the round is over."""
        for effect in machine.handle(event, trio.current_time()):
            match effect:
                case Send(peer, message):
                    self.transport.send(peer, wire.encode(message))
                case SetTimer(key, at):
                    timers[key] = at
                case Contribute():
                    return self.perform(machine, Contribution(machine.round, self.values), timers)
                case Completed():
                    return True
                case Skipped():
                    raise RuntimeError(effect.reason)
        return False


class Federation:
    """``members`` nodes on loopback, all connected."""

    def __init__(self, dim: int, members: int) -> None:
        rng = np.random.default_rng(0)
        self.members = [
            Member(Identity.from_seed(bytes([n]) * 32), rng.integers(0, 2**32, dim, dtype=np.uint32))
            for n in range(members)
        ]
        self.group = tuple(member.identity.peer_id for member in self.members)
        self.rounds = 0

    async def connect(self, nursery: trio.Nursery) -> None:
        for member in self.members:
            await nursery.start(member.transport.run)
        for number, member in enumerate(self.members):
            for other in self.members[:number]:
                await member.transport.connect(other.transport.addresses[0])
        for member in self.members:
            for _ in range(len(self.members) - 1):
                assert isinstance(await member.transport.events.receive(), PeerConnected)

    async def timed(self, play: Callable[[Member], Awaitable[None]]) -> tuple[float, float, float]:
        """Wall and CPU seconds of everybody together, and bytes sent by a member on average."""
        sent, wall, cpu = self.sent, time.perf_counter(), time.process_time()
        async with trio.open_nursery() as nursery:
            for member in self.members:
                nursery.start_soon(play, member)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        await self.quiet()
        return wall, cpu, (self.sent - sent) / len(self.members)

    @property
    def sent(self) -> int:
        return sum(member.transport.traffic().wire_sent for member in self.members)

    async def quiet(self) -> None:
        """Take what is still on its way."""
        for member in self.members:
            with trio.move_on_after(0.2):
                while True:
                    await member.transport.events.receive()

    async def plain(self, member: Member) -> None:
        await member.plain(len(self.members) - 1)

    async def secure(self, member: Member) -> None:
        await member.secure(
            RoundMachine(
                identity=member.identity,
                federation=SEED,
                roster_digest=SEED,
                round=self.rounds,
                group=self.group,
                minimum=3,
                colluders=COLLUDERS,
                timing=Timing(),
                random=system_random,
            )
        )


async def exchange(dim: int, members: int, times: int) -> Rows:
    """A secure round beside the plain exchange, each the best of ``times``."""
    federation = Federation(dim, members)
    plain, secure = [], []
    async with trio.open_nursery() as nursery:
        await federation.connect(nursery)
        for _ in range(times):
            plain.append(await federation.timed(federation.plain))
            secure.append(await federation.timed(federation.secure))
            federation.rounds += 1
        nursery.cancel_scope.cancel()
    params = {"d": dim, "k": members}
    wall, cpu, sent = (min(column) for column in zip(*secure, strict=True))
    ratio = wall / min(plain)[0]
    target = 1.3 if (dim, members) == (10**6, 4) else None
    least = 2 * (members - 1) / members * 4 * dim
    aimed = 1.02 if dim == 10**6 else None
    return [
        row("plain exchange", params, min(plain)[0] * 1e3, "ms wall"),
        row(
            "secure round",
            params,
            wall * 1e3,
            "ms wall",
            "plain exchange",
            ratio,
            target,
            met=None if target is None else ratio <= target,
        ),
        row("secure round", params, cpu * 1e3 / members, "ms CPU/member"),
        row(
            "bytes sent",
            params,
            sent / 1e6,
            "MB/member",
            "all-reduce",
            sent / least,
            aimed,
            met=None if aimed is None else sent / least <= aimed,
        ),
    ]


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
