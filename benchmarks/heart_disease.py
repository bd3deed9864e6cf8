"""How good is what four hospitals learn together, beside what each learns alone, and beside published
results?

    python benchmarks/heart_disease.py [--seeds N] [--json]

Trains by the manifest of the demo in this process: each contribution is encoded and noised as a node would,
and the ring sum over the four is decoded, which is exactly what the secure sum yields. Prints mean test
accuracy over the seeds, as the mean of the four hospitals' accuracies and on all test records pooled. Takes
about a minute.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from p2pfl.baselines import pooled, train_centrally
from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import RandomBytes, seeded_random
from p2pfl.crypto.ring import decode, encode
from p2pfl.gossip.manifest import Manifest, from_toml
from p2pfl.gossip.thresholds import thresholds
from p2pfl.heart_disease import FEDERATION_TOML, HOSPITALS, PUBLISHED, write_hospital
from p2pfl.node.privacy import Budget, calibrated, noise, stage_plan
from p2pfl.node.training.table import Table, load_table
from p2pfl.node.training.trainer import Trainer

TARGETS = {"none": (0.80, 0.78), "distributed": (0.78, 0.76)}
MODES = {
    "none": "federation, no privacy",
    "distributed": "federation, epsilon 1, distributed noise",
    "local": "federation, epsilon 1, local noise",
}


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Test accuracies of one model, or of one per hospital; or their means over seeds."""

    mean: float
    pooled: float


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``ratio``: value / baseline; ``met``: null without a target."""

    name: str
    params: Mapping[str, object]
    value: float
    unit: str
    baseline: float | None
    ratio: float | None
    target: float | None
    met: bool | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seeds", type=int, default=10, metavar="N", help="runs to average over (default: 10)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON rows instead of a table")
    options = parser.parse_args(arguments)
    manifest = _manifest()
    train, test = _tables(manifest)
    seeds = [seeded_random(b"heart disease %d" % seed) for seed in range(options.seeds)]
    rows = [
        *_rows(
            "each hospital alone, own patients", {}, [_alone(manifest, train, test, seed) for seed in seeds]
        ),
        *_rows("all records pooled", {}, [_pooled(manifest, train, test, seed) for seed in seeds], "pooled"),
    ]
    for mode, name in MODES.items():
        agreed = calibrated(replace(manifest, privacy=manifest.privacy.with_mode(mode)))
        results = [_federated(agreed, train, test, seed) for seed in seeds]
        params = {"mode": mode, "rounds": agreed.training.rounds}
        if mode != "none":
            params |= {"epsilon": agreed.privacy.epsilon, "delta": agreed.privacy.delta}
        rows += _rows(name, params, results, "federated averaging", TARGETS.get(mode))
    print(json.dumps([asdict(row) for row in rows], indent=1) if options.json else _table(rows))
    return int(any(row.met is False for row in rows))


def _manifest() -> Manifest:
    issuer = Identity.generate(seeded_random(b"issuer")).peer_id
    return from_toml(FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", issuer))


def _tables(manifest: Manifest) -> tuple[list[Table], list[Table]]:
    """Training and test table of every hospital, read from files as a node reads them."""
    with TemporaryDirectory() as directory:
        homes = [Path(directory) / name for name in HOSPITALS]
        for home in homes:
            home.mkdir()
            write_hospital(home, home.name)
        train = [load_table(home / "train.csv", manifest.task) for home in homes]
        return train, [load_table(home / "test.csv", manifest.task) for home in homes]


# -- the three ways to learn
def _alone(
    manifest: Manifest, train: Sequence[Table], test: Sequence[Table], random: RandomBytes
) -> Accuracy:
    models = [train_centrally(manifest, table, random) for table in train]
    return _weighed([model.accuracy(table) for model, table in zip(models, test, strict=True)], test)


def _pooled(
    manifest: Manifest, train: Sequence[Table], test: Sequence[Table], random: RandomBytes
) -> Accuracy:
    model = train_centrally(manifest, pooled(train), random)
    return _weighed([model.accuracy(table) for table in test], test)


def _federated(
    manifest: Manifest, train: Sequence[Table], test: Sequence[Table], random: RandomBytes
) -> Accuracy:
    trainers = [Trainer(manifest, table, None, random) for table in train]
    budget = Budget(manifest.privacy)
    statistics = _round(
        manifest, "statistics", [trainer.statistics() for trainer in trainers], budget, random
    )
    parameters = trainers[0].initial_parameters()
    for _ in range(manifest.training.rounds):
        steps = [trainer.contribution(parameters, statistics) for trainer in trainers]
        parameters = _round(manifest, "training", steps, budget, random)
    results = [trainers[0].evaluate(parameters, statistics, table) for table in test]
    return _weighed([result.accuracy for result in results], test)


def _round(
    manifest: Manifest,
    stage: str,
    contributions: Sequence[NDArray[np.float64]],
    budget: Budget,
    random: RandomBytes,
) -> NDArray[np.float64]:
    """The mean that the secure sum of ``contributions`` yields, and its price."""
    plan = stage_plan(manifest, stage, len(contributions[0]))
    group = thresholds(len(contributions), manifest.groups.colluders)
    if not budget.allows(plan):
        raise AssertionError("the budget does not last for the rounds it was calibrated for")
    total = np.zeros(plan.dimension, np.uint32)
    for values in contributions:
        total += encode(values, plan.encoding, random)[0] + noise(plan, group, random).astype(np.uint32)
    if plan.charged:
        budget.spend(plan.mechanism(group))
    return decode(total, plan.encoding) / len(contributions)


def _weighed(each: Sequence[float], test: Sequence[Table]) -> Accuracy:
    return Accuracy(float(np.mean(each)), float(np.average(each, weights=[len(table) for table in test])))


# -- the table
def _rows(
    name: str,
    params: Mapping[str, object],
    results: Sequence[Accuracy],
    published: str | None = None,
    targets: tuple[float, float] | None = None,
) -> list[Row]:
    """Two rows: mean of the four hospitals, and pooled test records."""
    values = np.mean([(result.mean, result.pooled) for result in results], axis=0)
    spread = np.std([(result.mean, result.pooled) for result in results], axis=0)
    baselines = (
        (None, None) if published is None else (PUBLISHED[published].mean, PUBLISHED[published].pooled)
    )
    return [
        Row(
            f"{name}: {unit}",
            {**params, "seeds": len(results), "standard deviation": round(float(deviation), 4)},
            round(float(value), 4),
            "test accuracy",
            baseline,
            None if baseline is None else round(float(value) / baseline, 3),
            target,
            None if target is None else bool(value >= target),
        )
        for unit, value, deviation, baseline, target in zip(
            ("mean of four", "pooled test"), values, spread, baselines, targets or (None, None), strict=True
        )
    ]


def _table(rows: Sequence[Row]) -> str:
    lines = [f"{'test accuracy':58}{'here':>8}{'±':>8}{'published':>11}{'target':>8}"]
    for row in rows:
        baseline = "" if row.baseline is None else f"{row.baseline:.3f}"
        target = "" if row.target is None else f"{row.target:.2f} {'✓' if row.met else '✗'}"
        deviation = row.params["standard deviation"]
        lines.append(f"{row.name:58}{row.value:8.3f}{deviation:8.3f}{baseline:>11}{target:>8}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
