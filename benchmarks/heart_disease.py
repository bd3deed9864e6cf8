"""How good is what four hospitals learn together, beside what each learns alone, and beside published
results?

    python benchmarks/heart_disease.py [--seeds N] [--json]

The first experiment of `make reproduce`, with targets: prints mean test accuracy over the seeds, as the mean
of the four hospitals' accuracies and on all test records pooled. Takes about a minute.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from reproduce import hearts

from p2pfl.crypto.randomness import seeded_random
from p2pfl.heart_disease import PUBLISHED

TARGETS = {"none": (0.80, 0.78), "distributed": (0.78, 0.76)}
MODES = {
    "none": "federation, no privacy",
    "distributed": "federation, epsilon 1, distributed noise",
    "local": "federation, epsilon 1, local noise",
}


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
    seeds = [seeded_random(b"heart disease %d" % seed) for seed in range(options.seeds)]
    rows = [
        *_rows("each hospital alone, own patients", {}, [hearts.alone(seed) for seed in seeds]),
        *_rows("all records pooled", {}, [hearts.together(seed) for seed in seeds], "pooled"),
    ]
    for mode, name in MODES.items():
        agreed = hearts.agreement(mode, 1.0)
        results = [hearts.federated(agreed, seed) for seed in seeds]
        params: dict[str, object] = {"mode": mode, "rounds": agreed.training.rounds}
        if mode != "none":
            params |= {"epsilon": agreed.privacy.epsilon, "delta": agreed.privacy.delta}
        rows += _rows(name, params, results, "federated averaging", TARGETS.get(mode))
    print(json.dumps([asdict(row) for row in rows], indent=1) if options.json else _table(rows))
    return int(any(row.met is False for row in rows))


# -- the table
def _rows(
    name: str,
    params: Mapping[str, object],
    results: Sequence[hearts.Accuracy],
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
