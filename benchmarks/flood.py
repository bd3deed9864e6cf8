"""What strangers cost a federation that goes on meanwhile: seconds a round takes, with and without a flood.

    python benchmarks/flood.py [--seconds 20] [--json]

Four nodes (those of `p2pfl demo`) average on loopback, round after round. They are left alone, then flooded
in one way after the other, each for as long, then left alone again. The attacker is a process of its own with
the lowest priority, comes from other addresses of loopback than the nodes, and tries as fast as it can:

    storm        connects, and hangs up
    half         connects, begins the handshake, and says no more
    drip         connects, and says a byte a second
    newcomers    whole handshakes, each under a new identity, and a greeting with a made-up ticket

A round is said to take the median of the times between two that complete. The processor is shared with the
attacker: on few cores part of what is measured is that.
"""

import argparse
import json
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import trio
from _rows import Rows, row, show

from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.randomness import system_random
from p2pfl.gossip.tickets import issue
from p2pfl.node.errors import NetworkError
from p2pfl.node.membership.admission import Greeting
from p2pfl.node.transport.network import Limits, Transport

QUIET = "quiet"
ATTACKS = ("storm", "half", "drip", "newcomers")
TARGET = 1.5
"""A round under a flood should take no longer than so many without."""
WARM_UP_ROUNDS = 5
STARTING_SECONDS = 120
HELD = 256
"""Connections that the attacker keeps open at a node."""
_DONE = re.compile(r"round \d+ \(\w+\) completed")
_HEADER = b"\x13/multistream/1.0.0\n\x07/noise\n"


# -- the federation


@contextmanager
def federation(directory: Path) -> Iterator[tuple[Path, bytes, list[str]]]:
    """Four nodes; the log of the first, the federation's id, and the addresses of all."""
    command = [sys.executable, "-m", "p2pfl", "demo", "--rounds", "100000", "--mode", "none"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    demo = subprocess.Popen([*command, "--directory", str(directory)], **quiet)  # type: ignore[call-overload]
    try:
        deadline = time.monotonic() + STARTING_SECONDS
        while len(logs := sorted(directory.glob("*/node.log"))) < 4 or rounds_in(logs[0]) < WARM_UP_ROUNDS:
            if time.monotonic() > deadline or demo.poll() is not None:
                raise SystemExit("the federation did not start")
            time.sleep(0.2)
        status = json.loads((logs[0].parent / "state" / "status.json").read_text())
        yield logs[0], bytes.fromhex(status["federation"]), [address_of(log.parent) for log in logs]
    finally:
        demo.terminate()
        demo.wait(60)


def rounds_in(log: Path) -> int:
    return len(_DONE.findall(log.read_text()))


def address_of(home: Path) -> str:
    found = re.search(r"listening on (\S+)", (home / "node.log").read_text())
    assert found is not None
    return found[1]


def port_of(address: str) -> int:
    return int(address.split("/")[4])


def intervals(log: Path, seconds: float) -> list[float]:
    """Times between rounds that completed in the next ``seconds``."""
    known, last, found = rounds_in(log), time.monotonic(), []
    until = last + seconds
    with log.open() as file:
        file.seek(0, os.SEEK_END)
        while time.monotonic() < until:
            done = len(_DONE.findall(file.read()))
            now = time.monotonic()
            if done:
                found += [(now - last) / done] * done
                last = now
            time.sleep(0.005)
    assert known
    return found[1:]


def measure(seconds: float) -> Rows:
    with tempfile.TemporaryDirectory() as directory, federation(Path(directory) / "demo") as found:
        log, federation_id, addresses = found
        taken: dict[str, list[float]] = {QUIET: []}
        tries: dict[str, int] = {}
        for kind in (QUIET, *ATTACKS, QUIET):
            if kind == QUIET:
                taken[QUIET] += intervals(log, seconds)
                continue
            with flood(kind, federation_id, addresses) as count:
                taken[kind] = intervals(log, seconds)
            tries[kind] = count()
    return list(rows(taken, tries, seconds))


def rows(taken: dict[str, list[float]], tries: dict[str, int], seconds: float) -> Iterator[dict[str, object]]:
    usual = statistics.median(taken[QUIET])
    yield row("a round, left alone", {"rounds": len(taken[QUIET])}, usual, "s")
    for kind in ATTACKS:
        if len(taken[kind]) < 2:
            raise SystemExit(f"rounds stopped under {kind}")
        value = statistics.median(taken[kind])
        params = {"rounds": len(taken[kind]), "tries a second": round(tries[kind] / seconds)}
        ratio = value / usual
        yield row(
            f"a round, under {kind}", params, value, "s", "a round, left alone", ratio, TARGET,
            met=ratio <= TARGET,
        )  # fmt: skip


# -- the attacker


@contextmanager
def flood(kind: str, federation: bytes, addresses: Sequence[str]) -> Iterator[Callable[[], int]]:
    """Attack from a process of its own; how often it has tried, once it is over."""
    said: list[bytes] = []
    command = [sys.executable, __file__, "--attack", kind, federation.hex(), *addresses]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    try:
        yield lambda: int(said[0])
    finally:
        said.append(process.communicate()[0])


async def attack_from_here(kind: str, federation: bytes, addresses: Sequence[str]) -> int:
    """Until standard input ends; how many connections were tried."""
    tries = [0]
    async with trio.open_nursery() as nursery:
        for number in range(len(addresses) * (HELD if kind in ("half", "drip") else 8)):
            address = addresses[number % len(addresses)]
            one = partial(_newcomer, federation, address)
            if kind != "newcomers":
                one = partial(_connection, kind, port_of(address), f"127.0.1.{1 + number % 200}")
            nursery.start_soon(_keep_trying, one, tries)
        async with trio.lowlevel.FdStream(os.dup(0)) as end:
            await end.receive_some()
        nursery.cancel_scope.cancel()
    return tries[0]


async def _keep_trying(one: Callable[[], Awaitable[None]], tries: list[int]) -> None:
    while True:
        tries[0] += 1
        with suppress(OSError, trio.BrokenResourceError):
            await one()
        await trio.sleep(0.01)


async def _connection(kind: str, port: int, source: str) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=source)
    async with stream:
        if kind == "half":
            await stream.send_all(_HEADER + b"\x00\x20" + bytes(31))  # of 32
            while await stream.receive_some():
                pass
        while kind == "drip":
            await stream.send_all(_HEADER[:1])
            await trio.sleep(1)


class Pretender:
    """Says that it is in ``federation``, with a ticket that nobody there issued."""

    def __init__(self, federation: bytes, own: Identity) -> None:
        ticket = issue(own, federation=federation, peer=own.peer_id, expires=1 << 33)
        self._greeting = Greeting((1,), federation, int(time.time()), str(ticket)).to_bytes()

    def at_handshake(self, peer: PeerId) -> str | None:
        return None

    def greeting(self) -> bytes:
        return self._greeting

    def judge(self, peer: PeerId, greeting: bytes) -> str | None:
        return None


async def _newcomer(federation: bytes, address: str) -> None:
    own = Identity.generate(system_random)
    transport = Transport(own, (), Pretender(federation, own), "/p2pfl/none", Limits(), {})
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        with suppress(NetworkError):
            await transport.connect(address)
        nursery.cancel_scope.cancel()


def attack(kind: str, federation: bytes, addresses: Sequence[str]) -> None:
    os.nice(19)
    logging.disable(logging.CRITICAL)
    print(trio.run(attack_from_here, kind, federation, addresses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each of the six parts")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--attack", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.attack:
        kind, federation, *addresses = options.attack
        attack(kind, bytes.fromhex(federation), addresses)
        return
    show(measure(options.seconds), as_json=options.json)


if __name__ == "__main__":
    main()
