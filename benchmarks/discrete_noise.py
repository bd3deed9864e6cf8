"""What integer noise costs, beside torch.normal_, the bare AES-CTR stream and a plain search of the table.

    python benchmarks/discrete_noise.py [--json] [--quick]

CPU time of one thread, the best of several runs that take turns. Integers come from a fresh seed of the
operating system each time and are added to a vector of float64 that is there already. A noised gradient is
what a step in mode `local` does: rounding to the grid, noise, back to float64; its yardstick draws
torch.normal_ in float32 and adds it.

With --quick only 10^5 numbers at a time.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from _rows import Row, row, show

from p2pfl.crypto.discrete_gaussian import LARGEST_SIGMA, SAMPLE_DISTANCE, DiscreteGaussian, Samples
from p2pfl.crypto.randomness import Keystream, system_random
from p2pfl.node.privacy import StepNoise

SIGMAS = (1.0, 64.0, 512.0, 2048.0, 8192.0, 2.0**17, LARGEST_SIGMA)
STEP_SIGMAS = (512.0, 2048.0, 8192.0)
TARGET = 50.0
"""Millions of integers a second on one core."""
TABLE_SIGMA = 1000.0
SEED = bytes(32)
_AT_LEAST = 1 << 18
"""Elements that small steps are repeated for, so that every draw is paid for."""
Work = Callable[[], object]


def in_turns(works: Mapping[str, Work], times: int = 9) -> dict[str, float]:
    """CPU seconds of the quickest run of each."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()
    for _ in range(times):
        for name, work in works.items():
            start = time.process_time()
            work()
            seconds[name].append(time.process_time() - start)
    return {name: min(each) for name, each in seconds.items()}


def table_search(count: int) -> Work:
    """One search of a table of 64-bit cumulative probabilities for every integer."""
    weights = np.exp(-0.5 * (np.arange(-13 * TABLE_SIGMA, 13 * TABLE_SIGMA) / TABLE_SIGMA) ** 2)
    cumulative = np.cumsum(weights) / weights.sum()
    table = (cumulative[cumulative < 1 - 2**-50] * 2.0**64).astype(np.uint64)
    words = np.empty(count, "<u8")

    def work() -> None:
        Keystream(SEED).fill(words)
        np.searchsorted(table, words, side="right")

    return work


def integers(count: int) -> list[Row]:
    vector, bits = np.zeros(count), np.empty(2 * count, np.uint8)
    single, double = torch.empty(count), torch.empty(count, dtype=torch.float64)

    def drawn(sigma: float) -> Work:
        law = DiscreteGaussian(sigma)
        return lambda: Samples(law, count, system_random).add_to(vector)

    others: dict[str, Work] = {
        "AES-CTR, 16 bits each": lambda: Keystream(SEED).fill(bits),
        "torch.normal_ float32": single.normal_,
        "torch.normal_ float64": double.normal_,
        f"table search, sigma {TABLE_SIGMA:g}": table_search(count),
    }
    took = in_turns(others | {f"{sigma}": drawn(sigma) for sigma in SIGMAS})
    size: dict[str, float] = {"n": count}
    rate = {name: count / seconds / 1e6 for name, seconds in took.items()}
    rows = [row(name, size, rate[name], "million/s") for name in others]
    for sigma in SIGMAS:
        for baseline in ("torch.normal_ float32", "torch.normal_ float64"):
            ours, target = rate[f"{sigma}"], TARGET if baseline.endswith("32") else None
            met = None if target is None else ours >= target
            params = size | {"sigma": sigma}
            rows.append(
                row(
                    "integer noise",
                    params,
                    ours,
                    "million/s",
                    baseline,
                    ours / rate[baseline],
                    target,
                    met=met,
                )
            )
    return rows


def steps(count: int) -> list[Row]:
    gradient, tensor, noise = np.ones(count), torch.ones(count), torch.empty(count)
    times = -(-_AT_LEAST // count)  # noise is drawn for many small steps at once

    def noised(sigma: float) -> Work:
        step = StepNoise(10, sigma)
        source = step.source(system_random)

        def work() -> None:
            for _ in range(times):
                step.apply(gradient, source)

        return work

    def added() -> None:
        for _ in range(times):
            tensor.add_(noise.normal_(), alpha=0.1)

    others: dict[str, Work] = {"gradient + normal_": added}
    took = in_turns(others | {f"{sigma}": noised(sigma) for sigma in STEP_SIGMAS})
    each = {name: seconds * 1e9 / (count * times) for name, seconds in took.items()}
    size: dict[str, float] = {"d": count}
    rows = [row(name, size, each[name], "ns/element") for name in others]
    for sigma in STEP_SIGMAS:
        ours, beside = each[f"{sigma}"], "gradient + normal_"
        rows.append(
            row("noised gradient", size | {"sigma": sigma}, ours, "ns/element", beside, ours / each[beside])
        )
    return rows


def first_use() -> list[Row]:
    """Building the tables of a scale that was not used before."""
    rows = []
    for sigma in (511.25, 2047.25, LARGEST_SIGMA - 1.25):
        start = time.process_time()
        DiscreteGaussian(sigma).sample(1, system_random)
        rows.append(row("tables built", {"sigma": sigma}, (time.process_time() - start) * 1e3, "ms"))
    return rows


def measure(*, quick: bool) -> list[Row]:
    count = 10**5 if quick else 10**6
    return [
        row("distance from the law", {}, SAMPLE_DISTANCE, "each, at most"),
        *first_use(),
        *integers(count),
        *(entry for size in ((10**4, count) if quick else (10**4, 203_530, count)) for entry in steps(size)),
    ]


def main(*, as_json: bool, quick: bool) -> None:
    torch.set_num_threads(1)
    show(measure(quick=quick), as_json=as_json)


if __name__ == "__main__":
    if "OPENBLAS_NUM_THREADS" not in os.environ:  # as p2pfl has it; numpy has looked by now
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    arguments.add_argument("--json", action="store_true", help="print JSON rows instead of a table")
    arguments.add_argument("--quick", action="store_true", help="draw fewer numbers at a time")
    options = arguments.parse_args()
    main(as_json=options.json, quick=options.quick)
