"""How fast the vectorised engine is: node-rounds a CPU-second, and how time and memory grow with the nodes.

A node-round is one step of SGD on 16 records of 64 numbers, then averaging with four neighbours; the model is
an MLP 64-32-10. "Poisson": samples of 16 on average, as a node draws them. Private training is compared with
plain training on samples of the same kind. Plain training is compared with a loop over nodes: a torch module
and optimiser each, neighbours' parameters averaged one node at a time. One thread.

Run it: `python benchmarks/simulation.py` (about a minute), `--quick` for n up to 256, `--json` for rows,
`--peers PYTHON` to compare with the gossipy (of the index: gossipy-dfl) that the interpreter PYTHON has.
Others are not measured: decentralizepy and the package p2pfl of the index have no clock of their own: a
figure would be one of processes, sockets and waits.
"""

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np
import torch
from _rows import Rows, row, show
from torch import nn

from p2pfl.gossip.manifest import DenseModel
from p2pfl.node.training.objectives import Classes
from p2pfl.simulation.averaging import Mixing
from p2pfl.simulation.batches import Records
from p2pfl.simulation.population import Population, Terms
from p2pfl.simulation.stacks import stack
from p2pfl.topologies.mixing import metropolis

FEATURES, HIDDEN, CLASSES, BATCH, HELD, DEGREE = 64, 32, 10, 16, 64, 4
CPU = torch.device("cpu")
PLAIN = Terms(steps=1, rate=0.05 / BATCH, kept=1.0, sampling_rate=BATCH / HELD, batch=BATCH)
PRIVATE = replace(PLAIN, record_clip=1.0, step_noise=1e-3)
KINDS = {
    "plain": PLAIN,
    "private": PRIVATE,
    "plain, Poisson": replace(PLAIN, batch=None),
    "private, Poisson": replace(PRIVATE, batch=None),
}
WITHOUT = {"private": "plain", "private, Poisson": "plain, Poisson"}
LEAST, GROWTH, LOOP, PEER, PRIVATE_COST, COPIES = 25_000, 1.25, 20.0, 70.0, 2.0, 4.0
PEERS = Path(__file__).with_name("_peers.py")


def held(nodes: int) -> Records:
    rng = np.random.default_rng(0)
    return Records.of(
        [
            (rng.standard_normal((HELD, FEATURES), np.float32), rng.integers(0, CLASSES, HELD))
            for _ in range(nodes)
        ],
        CPU,
    )


def neighbours(nodes: int) -> nx.Graph:
    return nx.random_regular_graph(DEGREE, nodes, seed=1)


def mixing(graph: nx.Graph) -> Mixing:
    return Mixing.of(metropolis(graph), CPU)


def population(nodes: int) -> Population:
    goal = Classes(CLASSES, hinge=False)
    model = stack(DenseModel("mlp", (HIDDEN,), CLASSES), FEATURES, goal)
    generator = torch.Generator().manual_seed(0)
    return Population(model, held(nodes), torch.randn(model.dimension, generator=generator) * 0.1, generator)


def cpu_seconds(work: Callable[[], None], least: float = 1.0) -> float:
    """The quickest of several calls, in seconds of CPU."""
    work()
    times: list[float] = []
    while sum(times) < least or len(times) < 3:
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def vectorised(nodes: int, terms: Terms) -> float:
    """Node-rounds a CPU-second."""
    everybody, averaging = population(nodes), mixing(neighbours(nodes))

    def round_() -> None:
        everybody.train(terms)
        everybody.average(averaging)

    return nodes / cpu_seconds(round_)


def looped(nodes: int) -> float:
    """Node-rounds a CPU-second of a module, an optimiser and a neighbourhood at a time."""
    graph, generator, records = neighbours(nodes), torch.Generator().manual_seed(0), held(nodes)
    modules = [
        nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES))
        for _ in range(nodes)
    ]
    optimisers = [torch.optim.SGD(module.parameters(), lr=0.05) for module in modules]
    loss = nn.CrossEntropyLoss()

    def round_() -> None:
        for node, (module, optimiser) in enumerate(zip(modules, optimisers, strict=True)):
            chosen = node * HELD + torch.randint(HELD, (BATCH,), generator=generator)
            optimiser.zero_grad()
            loss(module(records.inputs[chosen]), records.targets[chosen]).backward()
            optimiser.step()
        with torch.no_grad():
            rows = [nn.utils.parameters_to_vector(module.parameters()) for module in modules]
            for node, module in enumerate(modules):
                near = torch.stack([rows[node], *(rows[other] for other in graph[node])])
                nn.utils.vector_to_parameters(near.mean(0), module.parameters())

    return nodes / cpu_seconds(round_)


def memory(nodes: int, answer: Connection) -> None:
    """Send the peak memory of a private round, less the batch, in copies of the parameters.

    In a process of its own.
    """
    torch.set_num_threads(1)
    small = population(16)
    small.train(PRIVATE)
    small.average(mixing(neighbours(16)))
    everybody, averaging = population(nodes), mixing(neighbours(nodes))
    parameters = everybody.parameters.numel() * 4
    batch = nodes * BATCH * (FEATURES + 1) * 4
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew (proc(5))
    before = _memory("VmRSS")
    everybody.train(PRIVATE)
    everybody.average(averaging)
    answer.send((_memory("VmHWM") - before + parameters - batch) / parameters)


def _memory(field: str) -> int:
    """In bytes, of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def copies(nodes: int) -> float:
    """See :func:`memory`."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=memory, args=(nodes, there))
    process.start()
    found: float = here.recv()
    process.join()
    return found


def speed_rows(sizes: list[int]) -> Rows:
    rows: Rows = []
    speeds = {name: {nodes: vectorised(nodes, terms) for nodes in sizes} for name, terms in KINDS.items()}
    for name, found in speeds.items():
        for nodes, speed in found.items():
            params = {"training": name, "n": nodes}
            if without := WITHOUT.get(name):
                cost = speeds[without][nodes] / speed
                rows.append(
                    row(
                        "node-rounds",
                        params,
                        speed,
                        "/CPU-s",
                        without,
                        cost,
                        PRIVATE_COST,
                        met=cost <= PRIVATE_COST,
                    )
                )
            elif nodes >= 64:
                rows.append(row("node-rounds", params, speed, "/CPU-s", target=LEAST, met=speed >= LEAST))
            else:
                rows.append(row("node-rounds", params, speed, "/CPU-s"))
    large = [speed for nodes, speed in speeds["plain"].items() if nodes >= 64]
    spread = max(large) / min(large)
    rows.append(
        row("largest over smallest", {"n": "64 and more"}, spread, "", target=GROWTH, met=spread <= GROWTH)
    )
    return rows


def loop_rows(sizes: list[int]) -> Rows:
    rows: Rows = []
    for nodes in sizes:
        loop, ours = looped(nodes), vectorised(nodes, PLAIN)
        ratio = ours / loop
        params = {"n": nodes}
        rows.append(
            row(
                "ours over a loop",
                params,
                ours,
                "/CPU-s",
                "a loop over nodes",
                ratio,
                LOOP,
                met=ratio >= LOOP,
            )
        )
    return rows


def peer(name: str, python: str, nodes: int) -> tuple[float | None, str]:
    """Node-rounds a CPU-second of somebody else's simulator; None and why, where it does not run."""
    done = subprocess.run([python, PEERS, name, str(nodes)], capture_output=True, text=True, check=False)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    return (None, lines[-1]) if done.returncode else (float(json.loads(lines[-1])), "/CPU-s")


def peer_rows(sizes: list[int], python: str) -> Rows:
    rows: Rows = []
    for nodes in sizes:
        theirs, said = peer("gossipy", python, nodes)
        if theirs is None:
            rows.append(row("ours over gossipy", {"n": nodes}, None, said))
            continue
        ours = vectorised(nodes, PLAIN)
        ratio = ours / theirs
        rows.append(
            row("ours over gossipy", {"n": nodes}, ours, said, "gossipy", ratio, PEER, met=ratio >= PEER)
        )
    return rows


def memory_rows(sizes: list[int]) -> Rows:
    return [
        row("peak memory", {"n": nodes}, found, "copies", target=COPIES, met=found <= COPIES)
        for nodes, found in ((nodes, copies(nodes)) for nodes in sizes)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="up to 256 nodes")
    parser.add_argument("--json", action="store_true", help="rows instead of a table")
    parser.add_argument(
        "--peers", metavar="PYTHON", default=sys.executable, help="an interpreter with gossipy"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = [16, 64, 256] if options.quick else [16, 64, 256, 1024, 4096]
    rows = (
        speed_rows(sizes)
        + loop_rows([64, 256])
        + peer_rows([64, 256], options.peers)
        + memory_rows(sizes[2:])
    )
    show(rows, as_json=options.json)


if __name__ == "__main__":
    main()
