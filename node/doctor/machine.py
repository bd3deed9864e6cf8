"""What can be said of the machine alone: what is installed, memory, threads, files, disk, clock."""

import os
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from p2pfl.node.doctor.findings import Finding, failure, looked, ok, skipped, warning
from p2pfl.node.doctor.known import Known
from p2pfl.node.errors import ExitCode, StorageError, reason_of
from p2pfl.node.examination import versions

IDLE_BYTES: Final = 512 << 20
"""What a node takes before it has a model."""
_VECTORS: Final = 32
"""Vectors as long as the model, 8 bytes an element, that training, encoding and a round hold at a time."""
_RECORD_BYTES: Final = 256
"""For each feature of each record of a batch: its values, and what the layers make of them."""
LEAST_FILES: Final = 1024
BEHIND_SECONDS: Final = 2.0
"""By which a file that was just written may be later than now."""
_CGROUP: Final = Path("/sys/fs/cgroup")


def installed() -> Finding:
    """What the node runs on."""
    found = versions()
    missing = [name for name in ("p2pfl", "torch", "libp2p", "numpy") if name not in found]
    said = ", ".join(f"{name} {version}" for name, version in found.items())
    if missing:
        hint = "install p2pfl again, with its constraints.txt"
        return failure("versions", f"not installed: {', '.join(missing)}", hint, ExitCode.CONFIG)
    return ok("versions", said)


def memory(known: Known) -> Finding:
    """What the model and a batch need, roughly, against what there is."""
    allowed = known.config.memory
    if known.running:
        return ok("memory", "the node has it; its use is under `node`")
    needed, of = IDLE_BYTES, "a node without a model"
    if known.manifest is not None:
        manifest = known.manifest
        parameters = manifest.model.parameters(manifest.task.features)
        batch = manifest.training.expected_batch
        needed += int(8 * _VECTORS * parameters + _RECORD_BYTES * batch * manifest.task.features)
        of = f"{parameters} parameters and batches of {batch:g}"
    free = free_memory()
    said = f"about {needed >> 20} MiB are needed for {of}; {free >> 20} MiB are free"
    if allowed is not None and allowed < needed:
        hint = "give limits.memory more, or leave it out"
        return warning("memory", f"{said}, limits.memory allows {allowed >> 20} MiB", hint)
    if free < needed:
        return failure("memory", said, "free some, or use a machine with more", ExitCode.CONFIG)
    return ok("memory", said)


def free_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int:
    """Bytes that this machine, and the container or unit that this runs in, still have."""
    lines = meminfo.read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    try:
        most, used = ((cgroup / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return free if most == "max" else min(free, max(0, int(most) - int(used)))
    except (OSError, ValueError):
        return free


def threads(known: Known) -> Finding:
    """Cores to train on, and files that may be open."""
    cores, wanted = len(os.sched_getaffinity(0)), known.config.threads
    if wanted is not None and wanted > cores:
        said = f"limits.threads is {wanted}, and there are {cores} cores: they wait for each other"
        return warning("threads", said, f"set it to {cores} or less")
    return ok("threads", f"{wanted or cores} to train with, of {cores} cores")


def open_files() -> Finding:
    """Connections are files, too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < LEAST_FILES:
        hint = "ulimit -n 8192, or LimitNOFILE=8192 in the unit"
        return warning("open files", f"{soft} are allowed, a large federation may need {LEAST_FILES}", hint)
    return ok("open files", f"{soft} are allowed" if soft != resource.RLIM_INFINITY else "no limit")


def graphics(devices: Path = Path("/dev")) -> Finding:
    """A GPU is not used, so it cannot be lost."""
    found = ", ".join(sorted(path.name for path in devices.glob("nvidia[0-9]*"))) or "none here"
    return ok("gpu", f"not used: models are trained on the processor ({found})")


def writable(known: Known) -> Finding:
    """A file of no name is written to the state directory, and gone."""
    return looked("writable", lambda: _write(_existing(known.config.state)))


def _write(directory: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        hint = "as the user that runs the node; see docs/handbook.md, When the disk fails"
        raise StorageError(f"cannot write to {directory}: {reason_of(error)}", hint) from None
    return ok("writable", f"{directory}")


def last_written(known: Known) -> float:
    """When the node wrote last, in seconds since 1970; 0 if it never did."""
    return max([*_times(known.config.state), *(float(one.at) for one in known.rounds)], default=0.0)


def clock(
    known: Known, written: float, *, members_agree: bool, now: Callable[[], float] = time.time
) -> Finding:
    """Against ``written``, when the node wrote last: that is not in the future, unless the clock was ahead
    then. ``members_agree``: their clocks are about where this one is.
    """
    ahead = written - now()
    if ahead > BEHIND_SECONDS:
        said = f"the node wrote files {ahead:.0f} s after what this machine's clock shows now"
        if members_agree:
            said += "; `clocks` finds it right, so they are from when it was ahead"
            return warning("clock", said, f"nothing is to be done: this ends in {ahead:.0f} s")
        hint = (
            "set the clock (timedatectl set-ntp true); if it is right by now, and was not when the node wrote"
            f" them: touch {known.config.state}/*"
        )
        return failure("clock", said, hint, ExitCode.CLOCK)
    if not written:
        return skipped("clock", "nothing here to compare it with; see the clocks of members")
    return ok("clock", "not before anything that the node has written")


def _times(directory: Path) -> Iterator[float]:
    """When the files there were last written; one may go meanwhile."""
    for path in directory.glob("*"):
        with suppress(OSError):
            yield path.stat().st_mtime


def _existing(path: Path) -> Path:
    return path if path.exists() or path == path.parent else _existing(path.parent)
