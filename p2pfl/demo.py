"""`p2pfl demo`: four hospitals as four real daemons on this machine, from nothing to a model.

Everything is what an operator would do by hand: an organiser makes a manifest and signs tickets, each
hospital gets an identity, a config, its ticket and only its own patients' file, and starts `p2pfl node`. One
hospital holds the manifest and is the bootstrap address of the other three, which know nothing but the
federation id. A hospital whose node is killed or stopped is started again from its directory.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import system_random
from p2pfl.demo_report import print_report
from p2pfl.gossip.manifest import Manifest, canonical_bytes, from_toml
from p2pfl.gossip.tickets import issue
from p2pfl.heart_disease import FEDERATION_TOML, HOSPITALS, write_hospital
from p2pfl.node.errors import FederationError, StorageError, reason_of
from p2pfl.node.monitoring.status import FILE as STATUS_FILE
from p2pfl.node.privacy import calibrated
from p2pfl.node.storage.atomic_file import write_atomically
from p2pfl.node.storage.identity_file import save_identity
from p2pfl.terminal import note

MARKER = ".p2pfl-demo"
POLL_SECONDS = 0.2
STALL_SECONDS = 120.0
STOP_SECONDS = 15.0
MOST_RESTARTS = 20
TICKET_SECONDS = 7 * 86_400


# A demo that gets SIGKILL cannot stop its nodes, so the kernel shall send them SIGTERM then. setpriv, of
# util-linux, asks for that and becomes the node. (Popen's preexec_fn could ask too, but would run Python in a
# fork of a process with threads: numpy's and torch's.) Where there is no setpriv, SIGKILL leaves the nodes.
_ENDING_WITH_US = ("setpriv", "--pdeathsig", "TERM", "--") if shutil.which("setpriv") else ()


@dataclass
class Hospital:
    """One `p2pfl node` process and the directory it lives in.

    ``failure`` says why it did not finish and is not started again; empty while there is hope.
    """

    name: str
    directory: Path
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    failure: str = ""

    @property
    def finished(self) -> bool:
        """Whether the node said since its last start that the programme is over; it may have died since.

        One that was over before it started says so first, and how good its model is here a little later.
        """
        status = self.status()
        return status.get("phase") == "done" and bool(status.get("own_evaluation"))

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.finished or bool(self.failure)

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
        node = (sys.executable, "-P", "-m", "p2pfl", "node", "--config", str(self.directory / "node.toml"))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("P2PFL_")}
        # Four trainers share this machine; a model of fourteen numbers gains nothing from threads.
        environment["OMP_NUM_THREADS"] = "1"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*_ENDING_WITH_US, *node],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )

    def ask_to_stop(self) -> None:
        """Send the node SIGTERM, if it still runs."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Wait until the node that was asked to stop has, and note whether it had finished."""
        if self.process is None or self.failure:
            return
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if status > 0 or not self.finished:
            self.failure = _ending(status)


def run_demo(directory: Path, *, rounds: int | None = None, mode: str | None = None) -> int:
    """Set up and run the federation in ``directory``, print what came of it; 0 only if every node finished.

    ``rounds`` and ``mode`` replace the training rounds and the privacy mode of the built-in manifest. SIGTERM
    and SIGHUP stop the nodes and end in SystemExit with 128 and the signal's number. Raises UserError if the
    directory is somebody else's, another demo runs in it, or a node cannot be started or did not finish.
    """
    began = time.monotonic()
    with _held(directory), _unwinding_on_signals():
        manifest, hospitals = _prepare(directory, rounds, mode)
        print(f"four hospitals in {directory}, federation {manifest.federation_id[:12]}…", flush=True)
        with _stopped_at_the_end(hospitals):
            for hospital in hospitals:
                hospital.start()
            _watch(hospitals, manifest.training.rounds)
        if any(hospital.finished for hospital in hospitals):
            print_report(manifest, {hospital.name: hospital.status() for hospital in hospitals}, directory)
    restarts = sum(hospital.restarts for hospital in hospitals)
    print(f"finished in {time.monotonic() - began:.0f} s" + (f"; restarts: {restarts}" if restarts else ""))
    _require_all_finished(hospitals, directory)
    return 0


def _require_all_finished(hospitals: Sequence[Hospital], directory: Path) -> None:
    failed = [f"{hospital.name} ({hospital.failure})" for hospital in hospitals if hospital.failure]
    if failed:
        raise FederationError(
            f"did not finish: {', '.join(failed)}", f"see node.log in its directory under {directory}"
        )


# -- set-up
@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Empty ``directory`` and keep every other demo out of it until this one ends, however it ends."""
    marker = directory / MARKER
    with _explained(directory):
        if not marker.exists() and directory.exists() and any(directory.iterdir()):
            raise StorageError(
                f"{directory} is not empty and not an earlier demo's", "name another one with --directory"
            )
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = marker.open("ab")
    with file:
        with _explained(directory):
            _lock(file.fileno(), directory)
            _empty(directory)
        yield


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StorageError(
            f"another demo is running in {directory}", "wait for its end, or name another with --directory"
        ) from None


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()


@contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = reason_of(error)
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
def _watch(
    hospitals: Sequence[Hospital],
    rounds: int,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Show progress until every node is done; start again what was killed.

    Raises FederationError if nothing moves for STALL_SECONDS.
    """
    progress = _Progress(rounds, clock)
    last_change = clock()
    while not all(hospital.settled for hospital in hospitals):
        for hospital in hospitals:
            _look_after(hospital)
        if progress.show(hospitals):
            last_change = clock()
        elif clock() - last_change > STALL_SECONDS:
            unfinished = ", ".join(hospital.name for hospital in hospitals if not hospital.finished)
            raise FederationError(
                f"no progress for {STALL_SECONDS:g} s; not finished: {unfinished}", "see the node.log files"
            )
        pause(POLL_SECONDS)
    progress.show(hospitals)
    progress.end()


def _look_after(hospital: Hospital) -> None:
    """Start a node again that somebody ended, even one that had finished: the others may need it to finish.

    One that gave up by itself would only do so again.
    """
    status = None if hospital.process is None else hospital.process.poll()
    if status is None or hospital.failure:
        return
    if status > 0 or hospital.restarts == MOST_RESTARTS:
        hospital.failure = _ending(status)
        return
    if sys.stdout.isatty():
        print()  # below the progress line
    print(f"{hospital.name} was {_ending(status)}; starting it again from {hospital.directory}", flush=True)
    hospital.restarts += 1
    hospital.start()


def _ending(status: int) -> str:
    """What ``status``, as Popen gives it, says of a node that was not to end yet."""
    if status < 0:
        return f"killed ({signal.Signals(-status).name})"
    return f"exit status {status}" if status else "stopped"


class _Progress:
    """One line that is redrawn on a terminal; elsewhere a line for every phase and half of the rounds."""

    WIDTH = 30
    LIFE = "starting waiting statistics mixing training evaluation vote done"

    def __init__(self, rounds: int, clock: Callable[[], float]) -> None:
        self._rounds = rounds
        self._clock = clock
        self._terminal = sys.stdout.isatty()
        self._shown = ""
        self._printed: tuple[str, int] | None = None
        self._began = clock()

    def show(self, hospitals: Sequence[Hospital]) -> bool:
        """Draw where the federation is; whether anything moved since the last call."""
        statuses = [hospital.status() for hospital in hospitals]
        done = max((status.get("training_completed", 0) for status in statuses), default=0)
        skipped = max((status.get("skipped", 0) for status in statuses), default=0)
        phases = "/".join(sorted({_phase(status) for status in statuses}, key=self.LIFE.find))
        text = f"{phases}: {done}/{self._rounds} training rounds, {skipped} skipped"
        moved = text != self._shown
        self._shown = text
        self._draw(text, done, (phases, 2 * done // self._rounds))
        return moved

    def _draw(self, text: str, done: int, mark: tuple[str, int]) -> None:
        seconds = self._clock() - self._began
        if self._terminal:
            filled = self.WIDTH * min(done, self._rounds) // self._rounds
            bar = "█" * filled + "·" * (self.WIDTH - filled)
            print(f"\r\x1b[K{bar} {seconds:3.0f} s  {text}", end="", flush=True)
        elif mark != self._printed:
            self._printed = mark
            print(f"{seconds:4.0f} s  {text}", flush=True)

    def end(self) -> None:
        if self._terminal:
            print()


def _phase(status: Mapping[str, Any]) -> str:
    phase = str(status.get("phase", "starting"))
    return str(status["stage"]) if phase == "learning" and status.get("stage") else phase


# -- ending
@contextmanager
def _stopped_at_the_end(hospitals: Sequence[Hospital]) -> Iterator[None]:
    try:
        yield
    finally:
        for hospital in hospitals:
            hospital.ask_to_stop()
        for hospital in hospitals:
            hospital.stop()


@contextmanager
def _unwinding_on_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the demo as Ctrl-C does, from inside out, so that it stops its nodes."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        with suppress(OSError):  # after SIGHUP the terminal is gone
            note(f"{signal.Signals(number).name}: stopping the nodes")
        raise SystemExit(128 + number)

    caught = [number for number in (signal.SIGTERM, signal.SIGHUP) if _has_default(number)]
    for number in caught:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def _has_default(number: signal.Signals) -> bool:
    """Not so under nohup, which ignores SIGHUP for us."""
    return signal.getsignal(number) == signal.SIG_DFL
