"""How long four nodes on loopback take from nothing to their first round, and what an idle one holds.

    python benchmarks/startup.py [--json]

Seconds are from the start of the processes until the last of the four is there. `processor until listening`
is what importing and opening takes of one core, each; torch and dp-accounting come later, while the nodes
wait for who else may come, until nobody new has for a third of the manifest's gather_seconds, here 3. Memory
is of a node whose programme is over: `resident` is all that it touches, `its own` leaves out pages of files,
which processes share, and of which there are the more, the more of them the system has in its cache. Below is
what the libraries add, each imported after those above it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _rows import Rows, row, show

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "processes"))

from real_federation import Federation, Member

TARGET_SECONDS, TARGET_MIB = 5.0, 350.0
PATIENCE = 300.0
LIBRARIES = ("libp2p", "p2pfl.node.daemon", "torch", "p2pfl.node.training.own_models")
STEPS: dict[str, Callable[[Member], object]] = {
    "listening": lambda member: "listening on" in member.log,
    "everybody connected": lambda member: member.status.get("connected") == 3,
    "first round": lambda member: member.status.get("completed"),
}


def memory(pid: int | str) -> tuple[float, float]:
    """Resident and own (anonymous) MiB of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    found = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "RssAnon"))}
    return int(found["VmRSS"]) / 1024, int(found["RssAnon"]) / 1024


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(directory: Path) -> Rows:
    """Of four nodes with three rounds to do."""
    federation = Federation(directory, 4, rounds=3)
    found, used = [], 0.0
    try:
        began = time.monotonic()
        for member in federation.members:
            federation.start(member)
        for name, reached in STEPS.items():
            wait(lambda: all(map(reached, federation.members)))  # noqa: B023
            seconds = time.monotonic() - began
            judged = name == "first round"
            target, met = (TARGET_SECONDS, seconds < TARGET_SECONDS) if judged else (None, None)
            found.append(row(f"start to {name}", {"nodes": 4}, seconds, "s", target=target, met=met))
            if name == "listening":
                used = sum(processor_seconds(pid(member)) for member in federation.members) / 4
        found.append(row("processor until listening", {"cores": os.cpu_count()}, used, "s of a node"))
        wait(lambda: all(member.status.get("phase") == "done" for member in federation.members))
        resident, own = memory(pid(federation.members[1]))
    finally:
        federation.stop()
    met = resident < TARGET_MIB
    found.append(row("idle node, resident", {}, resident, "MiB", target=TARGET_MIB, met=met))
    return [*found, row("idle node, its own", {}, own, "MiB")]


def pid(member: Member) -> int:
    assert member.process is not None
    return member.process.pid


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"the federation got no further in {PATIENCE:g} s")
        time.sleep(0.02)


def imported() -> Rows:
    """What each library adds, by a process that imports one after the other."""
    code = "import startup\nshow = lambda name: print(name, *startup.memory('self'))\nshow('python+numpy')\n"
    code += "\n".join(f"import {name}; show({name!r})" for name in LIBRARIES)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    found, before = [], 0.0
    for name, resident, own in map(str.split, done.stdout.splitlines()):
        found.append(row(f"  {name}", {"its own": f"{float(own):.0f}"}, float(resident) - before, "MiB more"))
        before = float(resident)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="print JSON rows instead of a table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        show([*start(Path(directory)), *imported()], as_json=options.json)


if __name__ == "__main__":
    main()
