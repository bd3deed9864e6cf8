"""`p2pfl demo`: four hospitals as four real daemons on this machine, from nothing to a model.

Everything is what an operator would do by hand: an organiser makes a manifest and signs tickets, each
hospital gets an identity, a config, its ticket and only its own patients' file, and starts `p2pfl node`. One
hospital holds the manifest and is the bootstrap address of the other three, which know nothing but the
federation id. A hospital that is killed is started again from its directory.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import system_random
from p2pfl.demo_report import print_report
from p2pfl.gossip.manifest import Manifest, canonical_bytes, from_toml
from p2pfl.gossip.tickets import issue
from p2pfl.heart_disease import FEDERATION_TOML, HOSPITALS, write_hospital
from p2pfl.node.atomic_file import write_atomically
from p2pfl.node.errors import FederationError, StorageError
from p2pfl.node.identity_file import save_identity
from p2pfl.node.privacy import calibrated
from p2pfl.node.status import FILE as STATUS_FILE

MARKER = ".p2pfl-demo"
POLL_SECONDS = 0.2
STALL_SECONDS = 120.0
STOP_SECONDS = 15.0
MOST_RESTARTS = 20
TICKET_SECONDS = 7 * 86_400


@dataclass
class Hospital:
    """One `p2pfl node` process and the directory it lives in."""

    name: str
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    exit_code: int | None = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to wait for: it has finished its rounds, or failed for good."""
        return self.exit_code is not None or (self.running and self.status().get("phase") == "done")

    @property
    def log(self) -> Path:
        return self.directory / "node.log"

    def status(self) -> Mapping[str, Any]:
        """What the node last wrote about itself; empty before it did."""
        try:
            found: Mapping[str, Any] = json.loads((self.directory / "state" / STATUS_FILE).read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return found

    def start(self) -> None:
        (self.directory / "state" / STATUS_FILE).unlink(missing_ok=True)  # of the life before
        command = [sys.executable, "-m", "p2pfl", "node", "--config", str(self.directory / "node.toml")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("P2PFL_")}
        # Four trainers share this machine; a model of fourteen numbers gains nothing from threads.
        environment["OMP_NUM_THREADS"] = "1"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def stop(self) -> None:
        """Ask the node to stop; it must do so by itself, and well."""
        if self.process is None or self.exit_code is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.exit_code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.exit_code = self.process.wait()


def run_demo(directory: Path, *, rounds: int | None = None, mode: str | None = None) -> int:
    """Set up and run the federation in ``directory``, print what came of it; 0 only if every node finished.

    ``rounds`` and ``mode`` replace the training rounds and the privacy mode of the built-in manifest. Raises
    UserError if the directory is somebody else's or a node cannot be started.
    """
    _make_directory(directory)
    began = time.monotonic()
    manifest, hospitals = _prepare(directory, rounds, mode)
    print(f"four hospitals in {directory}, federation {manifest.federation_id[:12]}…")
    with _stopped_at_the_end(hospitals):
        for hospital in hospitals:
            hospital.start()
        _watch(hospitals, manifest.training.rounds)
    print_report(manifest, {hospital.name: hospital.status() for hospital in hospitals}, directory)
    print(f"\nfinished in {time.monotonic() - began:.0f} s", end="")
    restarts = sum(hospital.restarts for hospital in hospitals)
    print(f"; restarts: {restarts}" if restarts else "")
    failed = [
        f"{hospital.name} (exit status {hospital.exit_code})" for hospital in hospitals if hospital.exit_code
    ]
    if failed:
        raise FederationError(
            f"did not finish: {', '.join(failed)}", f"see node.log in its directory under {directory}"
        )
    return 0


# -- set-up
def _make_directory(directory: Path) -> None:
    try:
        if (directory / MARKER).exists():
            shutil.rmtree(directory)
        elif directory.exists() and any(directory.iterdir()):
            raise StorageError(
                f"{directory} is not empty and not an earlier demo's", "name another one with --directory"
            )
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / MARKER).touch()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StorageError(
            f"cannot use {directory}: {reason}", "name another one with --directory"
        ) from error


def _prepare(directory: Path, rounds: int | None, mode: str | None) -> tuple[Manifest, list[Hospital]]:
    organiser = Identity.generate(system_random)
    manifest = _manifest(organiser, rounds, mode)
    save_identity(directory / "organiser.key", organiser)
    write_atomically(directory / "hearts.manifest", canonical_bytes(manifest), 0o644)
    hospitals: list[Hospital] = []
    bootstrap = ""
    for name, port in zip(HOSPITALS, _free_ports(len(HOSPITALS)), strict=True):
        home = directory / name
        home.mkdir(mode=0o700)
        identity = Identity.generate(system_random)
        save_identity(home / "identity.key", identity)
        expires = int(time.time()) + TICKET_SECONDS
        ticket = issue(organiser, federation=manifest.digest, peer=identity.peer_id, expires=expires)
        write_atomically(home / "ticket.txt", f"{ticket}\n".encode(), 0o644)
        write_hospital(home, name)
        first = not hospitals
        config = _CONFIG.format(
            federation="../hearts.manifest" if first else manifest.federation_id,
            port=port,
            bootstrap="" if first else f'"{bootstrap}"',
        )
        write_atomically(home / "node.toml", config.encode(), 0o644)
        if first:
            bootstrap = f"/ip4/127.0.0.1/tcp/{port}/p2p/{identity.peer_id}"
        hospitals.append(Hospital(name, home))
    return manifest, hospitals


_CONFIG = """\
# `p2pfl node --help` and docs/configuration.md explain every key.
identity = "identity.key"
state = "state"

[federation]
id = "{federation}"
ticket = "ticket.txt"

[network]
listen = ["/ip4/127.0.0.1/tcp/{port}"]
bootstrap = [{bootstrap}]

[data]
train = "train.csv"
test = "test.csv"
"""


def _free_ports(count: int) -> list[int]:
    """Ports nobody listens on now. They must be known before the start, so that a hospital restarted is found
    where it was.
    """
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in sockets]
    for server in sockets:
        server.close()
    return ports


def _manifest(organiser: Identity, rounds: int | None, mode: str | None) -> Manifest:
    draft = from_toml(FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", organiser.peer_id))
    if rounds is not None:
        draft = replace(draft, training=replace(draft.training, rounds=rounds))
    if mode is not None:
        draft = replace(draft, privacy=draft.privacy.with_mode(mode))
    return calibrated(draft)


# -- running
def _watch(hospitals: Sequence[Hospital], rounds: int) -> None:
    """Show progress until every node is done; start again what was killed."""
    progress = _Progress(rounds)
    last_change = time.monotonic()
    while not all(hospital.settled for hospital in hospitals):
        for hospital in hospitals:
            _look_after(hospital)
        if progress.show(hospitals):
            last_change = time.monotonic()
        elif time.monotonic() - last_change > STALL_SECONDS:
            raise FederationError(f"no progress for {STALL_SECONDS:g} s", "see the node.log files")
        time.sleep(POLL_SECONDS)
    progress.end()


def _look_after(hospital: Hospital) -> None:
    process = hospital.process
    if process is None or hospital.running or hospital.exit_code is not None:
        return
    if process.returncode < 0 and hospital.restarts < MOST_RESTARTS:
        name = signal.Signals(-process.returncode).name
        print(
            f"\n{hospital.name} was killed ({name}); starting it again from {hospital.directory}", flush=True
        )
        hospital.restarts += 1
        hospital.start()
    else:
        hospital.exit_code = process.returncode


class _Progress:
    """One line that is redrawn on a terminal; a line every few rounds elsewhere."""

    WIDTH = 30

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._terminal = sys.stdout.isatty()
        self._shown = ""
        self._began = time.monotonic()

    def show(self, hospitals: Sequence[Hospital]) -> bool:
        """Draw where the federation is; whether anything moved since the last call."""
        statuses = [hospital.status() for hospital in hospitals]
        done = max((status.get("training_completed", 0) for status in statuses), default=0)
        skipped = max((status.get("skipped", 0) for status in statuses), default=0)
        phases = {_phase(status) for status in statuses}
        text = f"{'/'.join(sorted(phases))}: {done}/{self._rounds} training rounds, {skipped} skipped"
        moved = text != self._shown
        self._shown = text
        seconds = time.monotonic() - self._began
        if self._terminal:
            filled = self.WIDTH * min(done, self._rounds) // self._rounds
            bar = "█" * filled + "·" * (self.WIDTH - filled)
            print(f"\r\x1b[K{bar} {seconds:3.0f} s  {text}", end="", flush=True)
        elif moved and (done % 10 == 0 or done == self._rounds):
            print(f"{seconds:4.0f} s  {text}", flush=True)
        return moved

    def end(self) -> None:
        if self._terminal:
            print()


def _phase(status: Mapping[str, Any]) -> str:
    phase = str(status.get("phase", "starting"))
    return str(status["stage"]) if phase == "learning" and status.get("stage") else phase


@contextmanager
def _stopped_at_the_end(hospitals: Sequence[Hospital]) -> Iterator[None]:
    try:
        yield
    finally:
        for hospital in hospitals:
            hospital.stop()
