"""How late a node's event loop is while a thread of the same process works.

    python benchmarks/event_loop.py [--seconds 5] [--json]

The loop sleeps for 2 ms again and again; a delay is what it woke later than that. `training` is what a
round asks of the learner, over and over: gradients of a Poisson batch, clipped, then encoded with noise;
`accountant` is the epsilon of a growing ledger. Everything as in a node: one training thread, Python's lock
changes hands after 1 ms, and the garbage collector leaves libraries alone; `as Python comes` is without the
latter two. `importing torch` is what a node does once, after it listens: in a process of its own.

Other processes delay a loop too: compare with `idle` of the same run, or run it with `chrt --fifo 1`. (Then
the kernel takes 50 ms of a second from what would compute all the time; `max` of the accountant may show it.)
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import trio
from _rows import Row, Rows, row, show

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import system_random
from p2pfl.gossip.manifest import Manifest, from_toml
from p2pfl.heart_disease import FEDERATION_TOML, write_hospital
from p2pfl.node.accountant import epsilon
from p2pfl.node.contribution import LazyContribution
from p2pfl.node.libraries import import_torch
from p2pfl.node.monitoring.watchdog import SWITCH_SECONDS, spare_the_collector
from p2pfl.node.privacy import calibrated, stage_plan
from p2pfl.node.training.table import Table, load_table
from p2pfl.node.training.trainer import Trainer

DIGITS = Path(__file__).parents[1] / "examples" / "digits" / "federation.toml"
CNN = 'kind = "cnn"\nchannels = [16, 32]\nhidden = [32]'
SLEEP = 0.002
TARGET_MS = 30.0
CHUNK = 1 << 16
Work = Callable[[threading.Event], None]
Site = tuple[Manifest, Trainer]


def agreed(text: str) -> Manifest:
    return calibrated(from_toml(text.replace("ISSUER", Identity.from_seed(bytes(32)).peer_id)))


def hearts() -> Site:
    manifest = agreed(FEDERATION_TOML.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as directory:
        write_hospital(Path(directory), "cleveland")
        table = load_table(Path(directory) / "train.csv", manifest.task)
    return manifest, Trainer(manifest, table, None, system_random)


def digits(model: str) -> Site:
    """15,000 made-up pictures, as many as a member of examples/digits has."""
    text = DIGITS.read_text(encoding="utf-8")
    assert CNN in text
    manifest, rng = agreed(text.replace(CNN, model)), np.random.default_rng(0)
    pictures = rng.integers(0, 256, (15_000, 1, 28, 28), dtype=np.uint8)
    table = Table(pictures, rng.integers(0, 10, 15_000))
    return manifest, Trainer(manifest, table, None, system_random)


def training(manifest: Manifest, trainer: Trainer) -> Work:
    plan = stage_plan(manifest, "training", trainer.dimension("training"))
    statistics = trainer.statistics()
    start = trainer.initial_parameters(statistics)

    def work(stop: threading.Event) -> None:
        while not stop.is_set():
            values = trainer.contribution(start, statistics)
            sent = LazyContribution(values, plan, manifest.groups.thresholds, system_random)
            for first in range(0, len(sent), CHUNK):
                sent[first : first + CHUNK]

    return work


def accountant(manifest: Manifest, trainer: Trainer) -> Work:
    plan = stage_plan(manifest, "training", trainer.dimension("training"))

    def work(stop: threading.Event) -> None:
        releases = [plan.mechanism(manifest.groups.thresholds)]
        while not stop.is_set():
            epsilon(releases, manifest.privacy.delta)
            releases.append(releases[0])

    return work


def delays(work: Work | None, seconds: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """In milliseconds, of every wake-up while ``work`` runs, which is told to stop after ``seconds``."""
    found: list[float] = []
    stop = threading.Event()

    async def wake() -> None:
        while True:
            asleep = trio.current_time()
            await trio.sleep(SLEEP)
            found.append((trio.current_time() - asleep - SLEEP) * 1000)

    async def run() -> None:
        async with trio.open_nursery() as waking:
            waking.start_soon(wake)
            async with trio.open_nursery() as working:
                if work is not None:
                    working.start_soon(trio.to_thread.run_sync, work, stop)
                await trio.sleep(seconds)
                stop.set()
            waking.cancel_scope.cancel()

    trio.run(run)
    return np.array(found)


def measure(seconds: float) -> Rows:
    heart = hearts()
    works: dict[str, Work | None] = {
        "idle": None,
        "training: logistic": training(*heart),
        "training: CNN, 26k": training(*digits(CNN)),
        "training: MLP, 203k": training(*digits('kind = "mlp"\nhidden = [256]')),
        "accountant": accountant(*heart),
    }
    rows = [each for name, work in works.items() for each in shown(name, "as Python comes", work, seconds)]
    as_in_a_node()
    rows += [each for name, work in works.items() for each in shown(name, "as in a node", work, seconds)]
    child = subprocess.run([sys.executable, __file__, "--importing"], stdout=subprocess.PIPE, check=True)
    imported: Rows = json.loads(child.stdout)
    return rows + imported


def as_in_a_node() -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    spare_the_collector()


def importing() -> Rows:
    """In a process that has not imported torch yet."""
    assert "torch" not in sys.modules
    as_in_a_node()
    return list(shown("importing torch", "as in a node", lambda _stop: import_torch(), 0.0))


def shown(name: str, setting: str, work: Work | None, seconds: float) -> Iterator[Row]:
    late = delays(work, seconds)
    for what, value in (("p50", np.median(late)), ("p99", np.percentile(late, 99)), ("max", late.max())):
        judged = what == "max" and setting == "as in a node"
        target, met = (TARGET_MS, bool(value < TARGET_MS)) if judged else (None, None)
        params = {"setting": setting, "delay": what}
        yield row(name, params, float(value), "ms", target=target, met=met)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row (default: 5)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--importing", action="store_true", help="only the import, as JSON")
    options = parser.parse_args()
    if options.importing:
        show(importing(), as_json=True)
        return
    show(measure(options.seconds), as_json=options.json)


if __name__ == "__main__":
    main()
