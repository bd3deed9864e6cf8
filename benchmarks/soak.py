"""A federation of real nodes with faults, for as long as one likes: does anything grow?

    python benchmarks/soak.py [--minutes 60] [--members 6]

Members are killed at random moments and come back, all but two, of which memory, open files and tasks are
sampled. How many there are goes up and down with the members that are here, so the least is what counts: the
exit status is 1 if that is more in the last fifth of the time than in the second, beyond what is allowed
below, or if fewer rounds completed than one a minute.
"""

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "processes"))

from real_federation import Federation, Member, wait_until
from test_chaos import Chaos

SAMPLE_SECONDS = 5.0
STARTING_SECONDS = 300.0
ENDLESS = {'mode = "distributed"\nepsilon = 8.0\ndelta = 1e-4': 'mode = "none"'}
# What may be added between the second fifth of the time and the last one: (a part, and so much more).
ALLOWED: Mapping[str, tuple[float, float]] = {
    "resident_bytes": (0.05, 16 << 20),
    "open_files": (0.0, 8),
    "tasks": (0.0, 8),
}
Sample = Mapping[str, float]


def sample(member: Member) -> Sample | None:
    """What ``member`` uses now, from its status pages; None while it is too busy to say."""
    host, port = member.status["status_at"]
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/status", timeout=SAMPLE_SECONDS) as answer:
            found: Sample = json.load(answer)["process"]
    except OSError:
        return None
    return found


def endure(federation: Federation, seconds: float, seed: int) -> tuple[Chaos, list[list[Sample]]]:
    """Samples of the two members that live through it all."""
    watched = federation.members[:2]
    for member in federation.members:
        federation.start(member)
    wait_until(
        lambda: all(m.status.get("completed") for m in federation.members), STARTING_SECONDS, "a round"
    )
    chaos = Chaos(federation, len(federation.members) // 3, seed, spares=watched)
    samples: list[list[Sample]] = [[] for _ in watched]
    end, due = time.monotonic() + seconds, 0.0
    while (now := time.monotonic()) < end:
        chaos.step(chaos.round)
        if now >= due:
            due = now + SAMPLE_SECONDS
            for member, found in zip(watched, samples, strict=True):
                if (one := sample(member)) is not None:
                    found.append(one)
        time.sleep(chaos.random.uniform(0.05, 0.5))
    return chaos, samples


def grown(name: str, samples: Sequence[Sample]) -> bool:
    """Print how ``name`` went, and say whether it has grown."""
    values, fifth = [one[name] for one in samples], max(1, len(samples) // 5)
    before, after = min(values[fifth : 2 * fifth]), min(values[-fifth:])
    part, more = ALLOWED[name]
    worse = after > before * (1 + part) + more
    unit, scale = ("MiB", 1 << 20) if name == "resident_bytes" else ("", 1)
    figures = f"{before / scale:10.1f} → {after / scale:8.1f} {unit:4} highest {max(values) / scale:8.1f}"
    print(f"  {name:16}{figures}{'  GREW' if worse else ''}")
    return worse


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--members", type=int, default=6, help="at least 5 (default: 6)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        federation = Federation(Path(directory), options.members, rounds=1_000_000, change=ENDLESS)
        try:
            chaos, samples = endure(federation, 60 * options.minutes, options.seed)
        finally:
            federation.stop()
        rounds = [int(member.status["completed"]) for member in federation.members[:2]]
    print(f"{options.minutes:g} minutes, {chaos.kills} kills, {rounds[0]} and {rounds[1]} rounds completed")
    worse = False
    for number, found in enumerate(samples):
        print(f"member {number}, {len(found)} samples, least in the second and the last fifth of the time:")
        worse |= sum(grown(name, found) for name in ALLOWED) > 0
    return int(worse or min(rounds) < options.minutes)


if __name__ == "__main__":
    sys.exit(main())
