"""One member of the rounds that secure_sum.py times: a process of its own, told by lines of JSON what to do.

It prints its address, reads everybody's, connects, prints its memory, and then answers every line:
{"play": "plain" | "whole" | "secure", "round": n, "dim": d} with what it took, once it holds the sum.
"""

import json
import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trio
from numpy.typing import NDArray

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.randomness import system_random
from p2pfl.gossip import wire
from p2pfl.gossip.chunks import Chunks
from p2pfl.gossip.events import (
    Agreed,
    Completed,
    Compute,
    Computed,
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
from p2pfl.gossip.messages import ROUND_MESSAGES
from p2pfl.gossip.round import RoundMachine
from p2pfl.gossip.wire import decode_untrusted
from p2pfl.node.transport.network import Limits, MessageReceived, PeerConnected, Transport

COLLUDERS = 1
FEDERATION = bytes(32)
_WHICH = 4
_PIECE = 1 << 18


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
    ready_seconds: float = 60.0
    phase_seconds: float = 120.0
    round_seconds: float = 600.0


def identity_of(number: int) -> Identity:
    return Identity.from_seed(bytes([number]) * 32)


class Member:
    """Number ``number`` of ``members``."""

    def __init__(self, number: int, members: int) -> None:
        self.number = number
        self.identity = identity_of(number)
        self.group = [identity_of(each).peer_id for each in range(members)]
        self.others = [peer for peer in self.group if peer != self.identity.peer_id]
        limits = Limits(max_message=96 << 20, outbox_bytes=1 << 30, inbox_bytes=256 << 20)
        self.transport = Transport(
            self.identity, ["/ip4/127.0.0.1/tcp/0"], Everybody(), "/p2pfl/bench", limits, {}
        )

    async def connect(self, addresses: list[str]) -> None:
        for address in addresses[: self.number]:
            await self.transport.connect(address)
        for _ in self.others:
            assert isinstance(await self.transport.events.receive(), PeerConnected)

    async def whole(self, values: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Every vector to everybody, in pieces of a megabyte."""
        total, left = values.copy(), len(self.others) * len(values)
        for start in range(0, len(values), _PIECE):
            data = start.to_bytes(_WHICH, "big") + values[start : start + _PIECE].tobytes()
            for peer in self.others:
                self.transport.send(peer, data)
        while left:
            message = await self.message()
            start = int.from_bytes(message.data[:_WHICH], "big")
            arrived = np.frombuffer(message.data, np.uint32, offset=_WHICH)
            total[start : start + len(arrived)] += arrived
            left -= len(arrived)
        return total

    async def plain(self, values: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """An all-reduce without secrets: whole vectors while they are short, else chunk by chunk, as the
        secure sum goes about it.
        """
        chunks = Chunks.of(len(values), len(self.group), 4)
        return await (self.scatter(values, chunks) if chunks.scattered else self.whole(values))

    async def scatter(self, values: NDArray[np.uint32], chunks: Chunks) -> NDArray[np.uint32]:
        total, awaited = values.copy(), dict[int, int]()
        for chunk in range(chunks.count):
            owner = chunk % len(self.group)
            if owner == self.number:
                awaited[chunk] = len(self.others)
            else:
                data = values[chunks.where(chunk)].tobytes()
                self.transport.send(self.group[owner], chunk.to_bytes(_WHICH, "big") + data)
        to_come = chunks.count - len(awaited)
        while awaited or to_come:
            message = await self.message()
            chunk = int.from_bytes(message.data[:_WHICH], "big")
            here = total[chunks.where(chunk)]
            arrived = np.frombuffer(message.data, np.uint32, offset=_WHICH)
            if chunk % len(self.group) != self.number:
                here[:] = arrived
                to_come -= 1
                continue
            here += arrived
            awaited[chunk] -= 1
            if not awaited[chunk]:
                del awaited[chunk]
                data = message.data[:_WHICH] + here.tobytes()
                for peer in self.others:
                    self.transport.send(peer, data)
        return total

    async def rest(self) -> None:
        """Take what is still on its way."""
        with trio.move_on_after(0.2):
            while True:
                await self.transport.events.receive()

    async def message(self) -> MessageReceived:
        event = await self.transport.events.receive()
        assert isinstance(event, MessageReceived)
        return event

    async def secure(self, values: NDArray[np.uint32], round: int) -> NDArray[np.uint32]:
        machine = RoundMachine(
            identity=self.identity,
            federation=FEDERATION,
            roster_digest=FEDERATION,
            round=round,
            group=self.group,
            minimum=3,
            colluders=COLLUDERS,
            timing=Timing(),
            random=system_random,
        )
        return await SecureRound(self, machine, values).run()


class SecureRound:
    """Drives one machine, as the daemon does: arithmetic on other threads."""

    def __init__(self, member: Member, machine: RoundMachine, values: NDArray[np.uint32]) -> None:
        self.member, self.machine, self.values = member, machine, values
        self.timers: dict[str, float] = {}
        self.total: NDArray[np.uint32] | None = None
        self.put, self.events = trio.open_memory_channel[Event](math.inf)
        self.encoded: tuple[wire.Message, bytes] | None = None

    async def run(self) -> NDArray[np.uint32]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.listen)
            self.handle(Prepared(self.machine.round, "training", len(self.values), FEDERATION), nursery)
            while self.total is None:
                with trio.move_on_at(min(self.timers.values(), default=math.inf)):
                    self.handle(await self.events.receive(), nursery)
                for key in [key for key, at in self.timers.items() if at <= trio.current_time()]:
                    del self.timers[key]
                    self.handle(TimerExpired(key), nursery)
            nursery.cancel_scope.cancel()
        return self.total

    async def listen(self) -> None:
        limits = wire.Limits(len(self.values))
        while True:
            arrived = await self.member.message()
            message = decode_untrusted(arrived.peer, arrived.data, limits, ROUND_MESSAGES)
            await self.put.send(Received(arrived.peer, message))

    async def compute(self, effect: Compute) -> None:
        value = await trio.to_thread.run_sync(effect.work)
        await self.put.send(Computed(effect.round, effect.key, value))

    def handle(self, event: Event, nursery: trio.Nursery) -> None:
        for effect in self.machine.handle(event, trio.current_time()):
            match effect:
                case Send(peer, message):
                    self.member.transport.send(peer, self.encode(message))
                case SetTimer(key, at):
                    self.timers[key] = at
                case Compute():
                    nursery.start_soon(self.compute, effect)
                case Contribute():
                    self.handle(Contribution(self.machine.round, self.values), nursery)
                case Completed():
                    self.total = effect.total
                case Skipped():
                    raise RuntimeError(effect.reason)
                case Agreed():
                    pass
                case _:
                    raise RuntimeError(f"an honest round, and yet {effect}")

    def encode(self, message: wire.Message) -> bytes:
        if self.encoded is None or self.encoded[0] is not message:
            self.encoded = message, wire.encode(message)
        return self.encoded[1]


def resident_bytes() -> int:
    """The most that this process ever held. getrusage would count what its parent held when it forked."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


async def play(member: Member, order: dict[str, object]) -> dict[str, object]:
    dim, round = int(str(order["dim"])), int(str(order["round"]))
    values = np.random.default_rng([member.number, round]).integers(0, 2**32, dim, dtype=np.uint32)
    tell({"ready": True})
    await trio.to_thread.run_sync(sys.stdin.readline)
    sent, cpu = member.transport.traffic().wire_sent, time.process_time()
    match order["play"]:
        case "plain":
            total = await member.plain(values)
        case "whole":
            total = await member.whole(values)
        case _:
            total = await member.secure(values, round)
    tell({"cpu": time.process_time() - cpu, "digest": hex(int(total.sum(dtype=np.uint64)))})
    await trio.to_thread.run_sync(sys.stdin.readline)  # the others have it too
    await member.rest()
    return {"sent": member.transport.traffic().wire_sent - sent, "resident": resident_bytes()}


def tell(answer: object) -> None:
    print(json.dumps(answer), flush=True)


async def main(number: int, members: int) -> None:
    member = Member(number, members)
    async with trio.open_nursery() as nursery:
        await nursery.start(member.transport.run)
        tell(member.transport.addresses[0])
        read: Callable[[], str] = sys.stdin.readline
        await member.connect(json.loads(await trio.to_thread.run_sync(read)))
        tell(resident_bytes())
        while line := await trio.to_thread.run_sync(read):
            tell(await play(member, json.loads(line)))
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    trio.run(main, int(sys.argv[1]), int(sys.argv[2]))
