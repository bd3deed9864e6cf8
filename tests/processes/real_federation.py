"""A small federation of real `p2pfl node` processes on loopback, for tests: made with the commands an
operator would type."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

TOML = """\
name = "test"
issuers = ["ISSUER"]

[task]
kind = "tabular"
label = "ill"
positive = ["1"]

[[task.columns]]
name = "dose"
kind = "numeric"
low = -3.0
high = 3.0

[[task.columns]]
name = "ward"
kind = "categorical"
levels = ["a", "b"]

[model]
kind = "logistic"

[training]
rounds = {rounds}
learning_rate = 0.5
sampling_rate = 0.5
expected_batch = 50.0

[privacy]
mode = "distributed"
epsilon = 8.0
delta = 1e-4

[groups]
size = 4
minimum = 3

[timing]
epoch_rounds = {epoch_rounds}
gather_seconds = 3.0
ready_seconds = 3.0
phase_seconds = 3.0
round_seconds = 12.0
"""


def p2pfl(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command; its exit status must be ``code``."""
    done = subprocess.run(
        [sys.executable, "-m", "p2pfl", *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, f"exit status {done.returncode}: {done.stdout}{done.stderr}"
    return done


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll: the processes under test have no other way to tell."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


class Member:
    """One organisation: its directory, and its process while it runs."""

    def __init__(self, directory: Path, seed: int, records: int = 120) -> None:
        self.directory = directory
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.peer = p2pfl("init", directory).stdout.strip()
        rng = np.random.default_rng(seed)
        for name, count in (("train.csv", records), ("test.csv", 60)):
            rows = ["dose,ward,ill"]
            for _ in range(count):
                dose, ward = rng.normal(), rng.choice(["a", "b"])
                rows.append(f"{dose:.4f},{ward},{int(dose + rng.normal() * 0.5 + (ward == 'b') > 0.5)}")
            (directory / name).write_text("\n".join(rows) + "\n")

    @property
    def address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.port}/p2p/{self.peer}"

    @property
    def status(self) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = json.loads((self.directory / "state" / "status.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return found

    @property
    def log(self) -> str:
        path = self.directory / "log"
        return path.read_text() if path.exists() else ""

    def start(self, *arguments: str | Path) -> None:
        command = [
            sys.executable, "-m", "p2pfl", "node", "--config", str(self.directory / "node.toml"),
            "--listen", f"/ip4/127.0.0.1/tcp/{self.port}", "--data-test", str(self.directory / "test.csv"),
            *map(str, arguments),
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def wait(self, seconds: float) -> int:
        assert self.process is not None
        return self.process.wait(seconds)


class Federation:
    """An issuer, a manifest and the members it invited. ``change``: what else the manifest says instead."""

    def __init__(
        self,
        directory: Path,
        members: int,
        *,
        rounds: int,
        epoch_rounds: int = 5,
        change: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        issuer = p2pfl("init", directory / "issuer").stdout.strip()
        toml = directory / "federation.toml"
        text = TOML.format(rounds=rounds, epoch_rounds=epoch_rounds).replace("ISSUER", issuer)
        for old, new in (change or {}).items():
            assert old in text
            text = text.replace(old, new)
        toml.write_text(text)
        self.manifest = directory / "test.manifest"
        p2pfl("federation", "create", toml, "--out", self.manifest)
        self.id = json.loads(p2pfl("federation", "show", self.manifest, "--json").stdout)["id"]
        self.members: list[Member] = []
        for number in range(members):
            self.invite(f"member-{number}")

    def invite(self, name: str, *arguments: str) -> Member:
        member = Member(self.directory / name, seed=len(self.members))
        self.ticket(member, *arguments)
        self.members.append(member)
        return member

    def ticket(self, member: Member, *arguments: str) -> Path:
        path = member.directory / "ticket.txt"
        path.unlink(missing_ok=True)
        p2pfl(
            "federation", "invite", member.peer, "--federation", self.manifest,
            "--identity", self.directory / "issuer" / "identity.key", "--out", path, *arguments,
        )  # fmt: skip
        return path

    def start(self, member: Member, *arguments: str | Path) -> None:
        """Member 0 has the manifest; the others know its id and the address of member 0."""
        first = self.members[0]
        ticket = ("--ticket", member.directory / "ticket.txt")
        if member is first:
            member.start("--federation", self.manifest, *ticket, *arguments)
        else:
            member.start("--federation", self.id, "--bootstrap", first.address, *ticket, *arguments)

    def stop(self) -> None:
        for member in self.members:
            if member.process is not None and member.process.poll() is None:
                member.process.kill()
                member.process.wait()
