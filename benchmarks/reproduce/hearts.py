"""Four hospitals: Fed-Heart-Disease, pooled, alone, federated, and federated under privacy."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

import numpy as np

from p2pfl.baselines import pooled, train_centrally
from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import RandomBytes, seeded_random
from p2pfl.gossip.manifest import Manifest, from_toml
from p2pfl.heart_disease import FEDERATION_TOML, HOSPITALS, write_hospital
from p2pfl.node.accountant import Mechanism, epsilon
from p2pfl.node.privacy import calibrated
from p2pfl.node.training.table import Table, load_table
from reproduce.federation import Learnt, federate
from reproduce.runs import Figures, Run, Setting

EXPERIMENT: Final = "hearts"
SEEDS: Final = 40
EPSILONS: Final = (0.1, 1.0, 5.0, 10.0, 50.0)
FLAMBY: Final = {
    0.1: (0.606, 0.121),
    1.0: (0.685, 0.055),
    5.0: (0.704, 0.049),
    10.0: (0.700, None),
    50.0: (0.702, None),
}
"""Accuracy and standard deviation that FLamby publishes at these epsilons and a delta of 1e-4
(flamby/results/dp_example at edacf54, five seeds): local noise, the mean of the four hospitals.
"""
FLAMBY_ROUNDS: Final = 15
FLAMBY_STEPS: Final = 1500
FLAMBY_BATCH: Final = 4


class Accuracy(NamedTuple):
    """The mean of the four hospitals' accuracies, and that over all test records."""

    mean: float
    pooled: float


def runs() -> list[Run]:
    """The whole experiment takes a minute, so it has one form."""
    cases: list[tuple[tuple[str, Setting], ...]] = [(("way", "alone"),), (("way", "pooled"),)]
    cases += [(("way", "own scales"),), (("way", "federation"), ("mode", "none"), ("epsilon", 0.0))]
    cases += [
        (("way", "federation"), ("mode", mode), ("epsilon", limit))
        for mode in ("distributed", "local")
        for limit in EPSILONS
    ]
    runs = [Run(EXPERIMENT, "any", case, seed, 0.5) for case in cases for seed in range(SEEDS)]
    once: list[tuple[tuple[str, Setting], ...]] = [(("way", "all ill"),)]
    once += [(("way", "FLamby"), ("epsilon", limit)) for limit in EPSILONS]
    return [*runs, *(Run(EXPERIMENT, "any", case, 0, 2.0) for case in once)]


def measure(run: Run) -> Figures:
    """Test accuracies; of a federation also what the training records paid; of FLamby's only that."""
    case, random = dict(run.case), seeded_random(b"hearts %d" % run.seed)
    match case["way"]:
        case "FLamby":
            costs = [flamby_really_spent(float(case["epsilon"]), len(table)) for table in tables()[0]]
            return {"least": min(costs), "most": max(costs)}
        case "all ill":
            return _weighed([float(test.labels.mean()) for test in tables()[1]])._asdict()
        case "alone":
            return alone(random)._asdict()
        case "pooled":
            return together(random)._asdict()
        case "own scales":
            unshared = federate(agreement("none", 0.0), tables()[0], random, shared_statistics=False)
            return _accuracy(unshared)._asdict()
    learnt = federate(agreement(str(case["mode"]), float(case["epsilon"])), tables()[0], random)
    spent = {"pld": learnt.spent.pld, "rdp": learnt.spent.rdp}
    return _accuracy(learnt)._asdict() | spent | {"against two": learnt.against(2)}


def manifest() -> Manifest:
    """The demo's."""
    issuer = Identity.generate(seeded_random(b"issuer")).peer_id
    return from_toml(FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", issuer))


@cache
def agreement(mode: str, limit: float) -> Manifest:
    """The demo's, its noise computed for another promise; ``limit`` is epsilon and means nothing in none."""
    draft = manifest()
    if mode == "none":
        return replace(draft, privacy=draft.privacy.with_mode("none"))
    return calibrated(replace(draft, privacy=replace(draft.privacy, epsilon=limit).with_mode(mode)))


@cache
def tables() -> tuple[list[Table], list[Table]]:
    """Training and test table of every hospital, read from files as a node reads them."""
    with TemporaryDirectory() as directory:
        homes = [Path(directory) / name for name in HOSPITALS]
        for home in homes:
            home.mkdir()
            write_hospital(home, home.name)
        task = manifest().task
        train = [load_table(home / "train.csv", task) for home in homes]
        return train, [load_table(home / "test.csv", task) for home in homes]


def alone(random: RandomBytes) -> Accuracy:
    """Each hospital learns from its own patients."""
    train, test = tables()
    models = [train_centrally(manifest(), table, random) for table in train]
    return _weighed([model.accuracy(table) for model, table in zip(models, test, strict=True)])


def together(random: RandomBytes) -> Accuracy:
    """All records in one place."""
    train, test = tables()
    model = train_centrally(manifest(), pooled(train), random)
    return _weighed([model.accuracy(table) for table in test])


def federated(agreed: Manifest, random: RandomBytes) -> Accuracy:
    """The four hospitals learn together."""
    return _accuracy(federate(agreed, tables()[0], random))


def _accuracy(learnt: Learnt) -> Accuracy:
    return _weighed([learnt.accuracy(test, member) for member, test in enumerate(tables()[1])])


def _weighed(each: Sequence[float]) -> Accuracy:
    return Accuracy(
        float(np.mean(each)), float(np.average(each, weights=[len(table) for table in tables()[1]]))
    )


def flamby_really_spent(nominal: float, patients: int) -> float:
    """What each of a hospital's ``patients`` paid in the runs published at ``nominal``, by Rényi moments as
    there.

    Noise was chosen for 15 epochs, one for every round of averaging; 1500 steps of batches of four were taken
    (100 a round). As if the batches had been Poisson samples, which they were not.
    """
    batches = math.ceil(patients / FLAMBY_BATCH)
    low, high = 0.2, 256.0
    for _ in range(14):
        middle = math.sqrt(low * high)
        fits = _renyi(middle, batches, FLAMBY_ROUNDS * batches) <= nominal
        low, high = (low, middle) if fits else (middle, high)
    return _renyi(high, batches, FLAMBY_STEPS)


def _renyi(multiplier: float, batches: int, steps: int) -> float:
    release = Mechanism("training", "train", "local", multiplier, 1 / batches, steps, 4, 3, 1)
    return epsilon([release], 1e-4).rdp
