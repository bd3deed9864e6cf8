"""Real daemons with an address of their own each, in network namespaces around a switch: links are cut, made
slow and lossy where the kernel can, and heal.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from real_federation import Federation, Member, wait_until
from test_finding import Namespaces, allowed

from p2pfl.node.storage.identity_file import load_identity
from p2pfl.node.storage.store import Store

pytestmark = pytest.mark.slow

SIDES = ("0", "1", "2", "3")


class Switched(Namespaces):
    """A namespace for each member, and one with the switch that joins them; member n has 10.78.0.n+1."""

    def __init__(self) -> None:
        self.names = {side: f"p2pfl-{os.getpid()}-{side}" for side in (*SIDES, "switch")}

    def __enter__(self) -> "Switched":
        for name in self.names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", self.names["switch"], "link", "add", "joint", "type", "bridge")
        _ip("-n", self.names["switch"], "link", "set", "joint", "up")
        for side in SIDES:
            _ip("link", "add", f"to{side}", "netns", self.names["switch"], "type", "veth",
                "peer", "name", "out", "netns", self.names[side])  # fmt: skip
            _ip("-n", self.names["switch"], "link", "set", f"to{side}", "master", "joint")
            _ip("-n", self.names[side], "addr", "add", f"{self.host(side)}/24", "dev", "out")
            _ip("-n", self.names[side], "link", "set", "out", "up")
            self.heal(side)
        return self

    @staticmethod
    def host(side: str) -> str:
        return f"10.78.0.{int(side) + 1}"

    def cut(self, side: str) -> None:
        _ip("-n", self.names["switch"], "link", "set", f"to{side}", "down")

    def heal(self, side: str) -> None:
        _ip("-n", self.names["switch"], "link", "set", f"to{side}", "up")

    def spoil(self, side: str, *how: str) -> bool:
        """Whether the kernel can make what is sent to ``side`` late and lossy; it is from now on."""
        command = ["tc", "-n", self.names["switch"], "qdisc", "add", "dev", f"to{side}", "root", "netem"]
        found = shutil.which("tc")
        return found is not None and subprocess.run([*command, *how], capture_output=True).returncode == 0


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def rounds_of(member: Member) -> int:
    return int(member.status.get("completed", 0))


def go_on(members: Sequence[Member], several: int = 3) -> None:
    """Each of them sees that many rounds more."""
    goals = [(member, rounds_of(member) + several) for member in members]
    for member, goal in goals:
        wait_until(lambda: rounds_of(member) >= goal, 240, f"{several} rounds: {member.log}")  # noqa: B023


def waits(member: Member) -> bool:
    """Whether the last that it said of rounds is that members are missing."""
    said = [line for line in member.log.splitlines() if "node.rounds: " in line]
    return "at least 3" in said[-1]


@pytest.fixture
def net() -> Iterator[Switched]:
    if not allowed():
        pytest.skip("this system does not let us make network namespaces (root, ip netns, veth)")
    with Switched() as made:
        yield made


@pytest.fixture
def slow(net: Switched) -> Switched:
    if not all(net.spoil(side, "delay", "40ms", "10ms", "loss", "2%") for side in SIDES):
        pytest.skip("this kernel makes no link slow or lossy (tc netem)")
    return net


@pytest.fixture
def four(net: Switched, tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path, 4, rounds=2000)
    yield made
    made.stop()
    assert not any("Traceback" in member.log or "excluded" in member.log for member in made.members)
    for member in made.members:
        identity = load_identity(member.directory / "identity.key")
        with Store.open(member.directory / "state", identity, readonly=True) as store:
            store.verify()


def start(four: Federation, net: Switched) -> None:
    first = four.members[0]
    for side, member in zip(SIDES, four.members, strict=True):
        bootstrap = f"/ip4/{net.host('0')}/tcp/{first.port}/p2p/{first.peer}"
        how = (four.manifest,) if member is first else (four.id, "--bootstrap", bootstrap)
        net.start(side, member, "--federation", *how)


def test_links_are_cut_and_heal_and_the_federation_unites(four: Federation, net: Switched) -> None:
    first, second, third, _ = four.members
    start(four, net)
    go_on(four.members)
    net.cut("3")
    go_on((first, second, third))
    net.cut("2")
    wait_until(lambda: waits(first) and waits(second), 240, f"two are too few: {first.log}")
    net.heal("2")
    net.heal("3")
    go_on(four.members)
    wait_until(lambda: all(len(m.status["group"]) == 4 for m in four.members), 240, "four in a group")


def test_over_slow_and_lossy_links_rounds_complete(slow: Switched, four: Federation) -> None:
    start(four, slow)
    go_on(four.members, 5)
