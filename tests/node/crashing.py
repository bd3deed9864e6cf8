"""Kills a node's storage at its writes, and takes away its power, as the kernel sees them.

A child process runs a few rounds on a real directory and is traced (ptrace), so every system call that
changes a file is a point: before it the child is killed; and from all of them together follows what would be
on the disk if the power had failed there, of a file system that keeps nothing but what was synchronised, or
every name but only synchronised contents. Whatever is found is opened then, and must hold everything that
had left the node.

    python tests/node/crashing.py kill 7        at every seventh point
    python tests/node/crashing.py power

Prints what was done as one line of JSON; ends with an error at the first directory that is not as it must be.
"""

import ctypes
import json
import os
import platform
import shutil
import signal
import struct
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.events import Course
from p2pfl.gossip.manifest import canonical_bytes, from_toml
from p2pfl.heart_disease import FEDERATION_TOML
from p2pfl.node.accountant import Mechanism
from p2pfl.node.monitoring.status import Status
from p2pfl.node.released import Released
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.storage.store import Store

IDENTITY = Identity.from_seed(bytes(32))
PEERS = tuple(Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2, 3, 4))
CHARGE = Mechanism("training", "train", "distributed", 1.5, 0.5, 1, 4, 3, 1)
ROUNDS = 3
_NAMES = {
    "x86_64": (
        "1 write, 18 pwrite, 20 writev, 74 fsync, 75 fsync, 76 truncate, 77 ftruncate, 82 rename, 83 mkdir,"
        " 86 link, 87 unlink, 91 fchmod, 257 openat, 263 unlinkat, 264 renameat, 265 linkat, 285 fallocate,"
        " 296 pwritev, 316 renameat"
    ),
    "aarch64": (
        "34 mkdir, 35 unlinkat, 37 linkat, 38 renameat, 45 truncate, 46 ftruncate, 47 fallocate, 52 fchmod,"
        " 56 openat, 64 write, 66 writev, 68 pwrite, 70 pwritev, 82 fsync, 83 fsync, 276 renameat"
    ),
}
_PAGE = 4096  # or a part of one
_TRACEME, _CONT_SYSCALL, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x420E
_OPTIONS = 1 | 0x100000  # mark the stops at system calls; whoever traces takes the child along
_ENTRY, _EXIT = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


def play(directory: Path, left: int) -> None:
    """What a node does on its disk; what has left it, or was promised to be kept, is written to ``left``."""
    with Store.open(directory, IDENTITY) as store:
        store.bind_manifest(MANIFEST)
        begun = store.last_contribution() + 1
        for round in range(begun, begun + ROUNDS):
            store.enter_epoch(0, PEERS)
            store.charge(round, CHARGE, PEERS)
            os.write(left, f"sent {round}\n".encode())
            store.save_released(Released(round, 1, np.array([1.0]), np.full(40, float(round))))
            store.record_round(RoundOutcome(round, "training", PEERS, PEERS, "", True, 0), Course(PEERS))
            store.record_agreement(round, ())
            os.write(left, f"kept {round}\n".encode())
            Status(IDENTITY.peer_id, "00").write(directory)


def require_whole(directory: Path, left: bytes) -> None:
    """Raise AssertionError unless what ``left`` says is in ``directory``, and it can be gone on with."""
    words = [line.split() for line in left.decode().splitlines()]
    sent = {int(round) for word, round in words if word == "sent"}
    kept = {int(round) for word, round in words if word == "kept"}
    with Store.open(directory, IDENTITY) as store:
        charged = [charge.round for charge in store.charges()]
        assert len(charged) == len(set(charged)), charged
        assert sent <= set(charged), (sent, charged)
        assert kept <= {one.receipt.round for one in store.receipts()}
        assert not [one.false() for one in store.receipts() if one.false()]
        released = store.released()
        assert released is None or released.round >= max(kept, default=-1)
        assert released is not None or not kept
        store.charge(99, CHARGE, PEERS)
        assert store.last_contribution() == 99


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that a traced child is about to make, or (``result``) has made."""

    name: str
    arguments: tuple[int, ...]
    result: int | None


class Traced:
    """A child that runs :func:`play` in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._read, write = os.pipe()
        self.left = write  # the same number in the child
        self.pid = os.fork()
        if self.pid == 0:
            _libc.ptrace(_TRACEME, 0, None, None)
            os.kill(os.getpid(), signal.SIGSTOP)
            try:
                play(directory, write)
            finally:
                os._exit(0)
        os.close(write)
        os.waitpid(self.pid, 0)
        if _libc.ptrace(_SETOPTIONS, self.pid, None, _OPTIONS):
            os.kill(self.pid, signal.SIGKILL)
            raise SystemExit(3)

    def calls(self) -> Iterator[Call]:
        """Every call of those in the table, before and after it is made, until the child has ended."""
        table = (word.split() for word in _NAMES[platform.machine()].split(", "))
        names = {int(number): name for number, name in table}
        info = ctypes.create_string_buffer(88)
        pending: Call | None = None
        while True:
            _libc.ptrace(_CONT_SYSCALL, self.pid, None, None)
            _, status = os.waitpid(self.pid, 0)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                return
            if os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
                continue
            _libc.ptrace(_GET_SYSCALL_INFO, self.pid, len(info), info)
            number, *arguments = struct.unpack_from("<7Q", info, 24)
            if info.raw[0] == _ENTRY and number in names:
                pending = Call(names[number], tuple(arguments), None)
                yield pending
            elif info.raw[0] == _EXIT and pending is not None:
                yield Call(pending.name, pending.arguments, struct.unpack_from("<q", info, 24)[0])
                pending = None

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    def memory(self, at: int, size: int) -> bytes:
        with open(f"/proc/{self.pid}/mem", "rb", 0) as file:
            file.seek(at)
            return file.read(size)

    def text(self, at: int) -> str:
        """The name that begins there: it may go on in the next page, which need not exist if it does not."""
        read = b""
        while b"\0" not in read:
            start = at + len(read)
            read += self.memory(start, _PAGE - start % _PAGE)
        return read.split(b"\0")[0].decode()

    def said(self) -> bytes:
        """What it said so far that has left it."""
        os.set_blocking(self._read, False)
        try:
            return os.read(self._read, 1 << 16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        os.close(self._read)


def changes(call: Call, child: Traced) -> bool:
    """Whether ``call`` changes what is in a file system, or makes it last."""
    if call.name == "openat":
        return bool(call.arguments[2] & (os.O_CREAT | os.O_TRUNC))
    return call.name not in ("write", "writev") or call.arguments[0] != child.left


def kill_everywhere(every: int) -> dict[str, int]:
    """Kill a child before the first, the n-th, … of its writes, in a new directory and in one of before."""
    killed = 0
    for begun in (False, True):
        point = 0
        while True:
            with tempfile.TemporaryDirectory() as folder:
                directory = Path(folder) / "state"
                if begun:
                    play(directory, os.open(os.devnull, os.O_WRONLY))
                child = Traced(directory)
                seen = 0
                for call in child.calls():
                    if call.result is None and changes(call, child):
                        if seen == point:
                            child.kill()
                            break
                        seen += 1
                left = child.said()
                child.close()
                require_whole(directory, left)
                assert not [path for path in directory.iterdir() if path.name.startswith(".")]
            if seen < point:
                break
            killed, point = killed + 1, point + every
    return {"killed": killed}


@dataclass
class Disk:
    """What is in the files of a directory, and what of it would be there without power. Files are numbered
    in the order in which they were made.
    """

    names: dict[str, int] = field(default_factory=dict)
    contents: dict[int, bytearray] = field(default_factory=dict)
    lasting_names: dict[str, int] = field(default_factory=dict)
    lasting_contents: dict[int, bytes] = field(default_factory=dict)
    open: dict[int, str | int] = field(default_factory=dict)  # a directory, or a file
    places: dict[int, int] = field(default_factory=dict)

    def apply(self, call: Call, child: Traced) -> None:
        """Follow ``call``, which was made."""
        if call.result is None or call.result < 0:
            return
        first, second, _, fourth, *_ = call.arguments
        match call.name:
            case "openat":
                self._open(child.text(second), call.result)
            case "write" if first in self.open:
                self._write(first, self.places[first], child.memory(second, call.result))
                self.places[first] += call.result
            case "pwrite" if first in self.open:
                self._write(first, fourth, child.memory(second, call.result))
            case "ftruncate" if first in self.open:
                content = self.contents[int(self.open[first])]
                content[:] = content[:second].ljust(second, b"\0")
            case "fsync" if first in self.open:
                self._sync(self.open[first])
            case "rename" | "link":
                self._rename(child.text(first), child.text(second), keep=call.name == "link")
            case "renameat" | "linkat":
                self._rename(child.text(second), child.text(fourth), keep=call.name == "linkat")
            case "unlink" | "unlinkat":
                self.names.pop(child.text(first if call.name == "unlink" else second), None)
            case "writev" | "pwritev" | "truncate" | "fallocate":
                raise NotImplementedError(call.name)

    def _open(self, name: str, descriptor: int) -> None:
        path = Path(name)
        if path.is_dir():
            self.open[descriptor] = name
        elif path.is_file() and path.name != "null":
            if name not in self.names:
                self.names[name] = len(self.contents)
                self.contents[self.names[name]] = bytearray()
            self.open[descriptor], self.places[descriptor] = self.names[name], 0
        else:
            self.open.pop(descriptor, None)

    def _write(self, descriptor: int, at: int, data: bytes) -> None:
        content = self.contents[int(self.open[descriptor])]
        content[:] = content[:at].ljust(at, b"\0") + data + content[at + len(data) :]

    def _sync(self, what: str | int) -> None:
        if isinstance(what, int):
            self.lasting_contents[what] = bytes(self.contents[what])
            return
        inside = {name: file for name, file in self.names.items() if str(Path(name).parent) == what}
        outside = {name: file for name, file in self.lasting_names.items() if str(Path(name).parent) != what}
        self.lasting_names = outside | inside

    def _rename(self, old: str, new: str, *, keep: bool) -> None:
        self.names[new] = self.names[old]
        if not keep:
            del self.names[old]

    def images(self) -> Iterator[dict[str, bytes]]:
        """What could be found when the power is back. The index of the log is memory."""
        for names in (self.lasting_names, self.names):
            yield {
                Path(name).name: self.lasting_contents.get(file, b"")
                for name, file in names.items()
                if not name.endswith("-shm")
            }


def lose_power() -> dict[str, int]:
    """Follow a child through its rounds, and open all that a loss of power could leave behind."""
    tried: dict[tuple[bytes, int], int] = {}
    points = 0
    with tempfile.TemporaryDirectory() as folder:
        directory, disk, left = Path(folder) / "state", Disk(), b""
        child = Traced(directory)
        for call in child.calls():
            if call.result is None and changes(call, child):
                points, left = points + 1, left + child.said()
                for image in disk.images():
                    key = (repr(sorted(image.items())).encode(), len(left))
                    if key not in tried:
                        tried[key] = points
                        _require_image(Path(folder) / "image", image, left)
            disk.apply(call, child)
        assert b"kept 2" in left + child.said()
        child.close()
    return {"points": points, "images": len(tried)}


def _require_image(where: Path, image: dict[str, bytes], left: bytes) -> None:
    where.mkdir(mode=0o700)
    for name, content in image.items():
        (where / name).write_bytes(content)
    require_whole(where, left)
    shutil.rmtree(where)


def _manifest() -> bytes:
    text = FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", PEERS[0])
    draft = from_toml(text)
    return canonical_bytes(replace(draft, privacy=draft.privacy.with_mode("none")))


MANIFEST = _manifest()

if __name__ == "__main__":
    done = kill_everywhere(int(sys.argv[2])) if sys.argv[1] == "kill" else lose_power()
    print(json.dumps(done))
