"""Real daemons that find each other without being told where: at a rendezvous, on a local network, through a
relay; and in network namespaces, where some cannot reach some.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_federation import Federation, Member, free_port, p2pfl

pytestmark = pytest.mark.slow

CLOSED = "/ip4/127.0.0.1/tcp/1"
"""Nothing listens there."""


@pytest.fixture
def four(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path, 4, rounds=20)
    yield made
    made.stop()


def everybody(four: Federation, start: Callable[[Member], None]) -> None:
    """Run them all until the programme is over, and all have its model."""
    for member in four.members:
        start(member)
    end_well(four)


def end_well(four: Federation) -> None:
    for member in four.members:
        assert member.wait(240) == 0, member.log
    # On a busy machine one may still be at its first training when the programme, of seconds, is over.
    assert sum(int(member.status["completed"]) > 0 for member in four.members) >= 3
    assert len({Path(member.status["model"]).read_bytes() for member in four.members}) == 1


def ticket(member: Member) -> tuple[str, Path]:
    return "--ticket", member.directory / "ticket.txt"


def test_members_that_know_a_rendezvous_only_meet_there(four: Federation, tmp_path: Path) -> None:
    peer = p2pfl("init", tmp_path / "point").stdout.strip()
    listen = f"/ip4/127.0.0.1/tcp/{free_port()}"
    command = [sys.executable, "-m", "p2pfl", "rendezvous", "--identity", f"{tmp_path}/point/identity.key"]
    point = subprocess.Popen([*command, "--listen", listen], stdout=subprocess.PIPE)
    try:
        assert point.stdout is not None
        assert point.stdout.readline().decode().strip() == f"listening on {listen}/p2p/{peer}"
        meet = ("--rendezvous", f"{listen}/p2p/{peer}", "--until-done")
        first = four.members[0]

        def start(member: Member) -> None:
            known = four.manifest if member is first else four.id
            member.start("--federation", known, *ticket(member), *meet)

        everybody(four, start)
    finally:
        point.terminate()
        assert point.wait(10) == 0


def test_members_on_one_local_network_find_each_other(four: Federation) -> None:
    def start(member: Member) -> None:
        member.start("--federation", four.manifest, *ticket(member), "--mdns", "--until-done")

    everybody(four, start)


def test_members_behind_closed_ports_meet_through_the_one_that_relays(four: Federation) -> None:
    """Three say that they are where nothing listens; the first is where it says, and relays."""
    first = four.members[0]

    def start(member: Member) -> None:
        if member is first:
            four.start(member, "--relay", "--until-done")
        else:
            four.start(member, "--announce", CLOSED, "--until-done")

    everybody(four, start)
    assert "relaying between" in first.log
    closed = four.members[1:]
    assert all("not reachable from outside" in member.log for member in closed)
    assert all(CLOSED in member.status["reachability"]["failed"] for member in closed)
    assert any("which sees ciphertext only" in member.log for member in closed)
    assert "reachable from outside: " in first.log


class Namespaces:
    """Three network namespaces in a row, a – middle – b: the middle has an address in both networks and
    passes nothing on.
    """

    def __init__(self) -> None:
        self.names = {side: f"p2pfl-{os.getpid()}-{side}" for side in ("a", "middle", "b")}

    def __enter__(self) -> "Namespaces":
        for name in self.names.values():
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        for number, side in enumerate(("a", "b"), 1):
            outer, inner = f"p{os.getpid() % 10**6}{side}0", f"p{os.getpid() % 10**6}{side}1"
            _ip("link", "add", outer, "netns", self.names["middle"], "type", "veth",
                "peer", "name", inner, "netns", self.names[side])  # fmt: skip
            for name, link, host in ((self.names["middle"], outer, 1), (self.names[side], inner, 2)):
                _ip("-n", name, "addr", "add", f"10.77.{number}.{host}/24", "dev", link)
                _ip("-n", name, "link", "set", link, "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def start(self, side: str, member: Member, *arguments: str | Path) -> None:
        command = [
            "ip", "netns", "exec", self.names[side], sys.executable, "-m", "p2pfl", "node", "--config",
            member.directory / "node.toml", "--listen", f"/ip4/0.0.0.0/tcp/{member.port}",
            "--data-test", member.directory / "test.csv", *ticket(member), *arguments,
        ]  # fmt: skip
        with (member.directory / "log").open("ab") as log:
            member.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def allowed() -> bool:
    """Whether this system lets us make namespaces and links between them."""
    if shutil.which("ip") is None:
        return False
    try:
        with Namespaces():
            return True
    except (subprocess.CalledProcessError, OSError):
        return False


def test_two_networks_that_share_one_member_are_one_federation(four: Federation) -> None:
    if not allowed():
        pytest.skip("this system does not let us make network namespaces (root, ip netns, veth)")
    middle, *others = four.members
    with Namespaces() as spaces:
        spaces.start("middle", middle, "--federation", four.manifest, "--relay", "--until-done")
        for member, side, network in zip(others, ("a", "b", "b"), (1, 2, 2), strict=True):
            bootstrap = f"/ip4/10.77.{network}.1/tcp/{middle.port}/p2p/{middle.peer}"
            spaces.start(side, member, "--federation", four.id, "--bootstrap", bootstrap, "--until-done")
        try:
            end_well(four)
        finally:
            four.stop()
    assert "relaying between" in middle.log
    assert "which sees ciphertext only" in others[0].log + others[1].log + others[2].log
    assert "10.77.1.2" in str(others[0].status["reachability"]["reached"])
