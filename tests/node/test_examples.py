"""The examples: their agreements are manifests, their data is as declared, and something can be learnt."""

import gzip
import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.manifest import Manifest, PrivacySpec, from_toml
from p2pfl.node.privacy import calibrated
from p2pfl.node.training.metrics import Evaluation
from p2pfl.node.training.table import load_table
from p2pfl.node.training.trainer import Trainer

torch.set_num_threads(1)
EXAMPLES = Path(__file__).parents[2] / "examples"
ISSUER = Identity.from_seed(bytes(32)).peer_id
# Of own_task only its plug-in knows the size: see test_plugins.py.
AGREEMENTS = sorted(
    path.relative_to(EXAMPLES).as_posix()
    for path in EXAMPLES.rglob("*.toml")
    if path.parent.name != "own_task"
)
# With a step of the example's own size and no noise: rounds, and the loss to come below (0.69 knows nothing).
LEARNT = {
    "wards/federation.toml": (10, 0.66),
    "credit/default.toml": (15, 0.55),
    "credit/limit.toml": (30, 0.06),
    "shakespeare/federation.toml": (6, 0.63),
}


def agreement(name: str) -> Manifest:
    return from_toml((EXAMPLES / name).read_text(encoding="utf-8").replace("ISSUER", ISSUER))


def without_noise(manifest: Manifest) -> Manifest:
    return replace(manifest, privacy=PrivacySpec("none"))


def trainers(manifest: Manifest, folder: Path) -> list[Trainer]:
    tables = {
        path.name: load_table(path, manifest.task)
        for path in sorted(folder.iterdir())
        if path.suffix in (".csv", ".txt")
    }
    names = sorted(name for name in tables if "-train" in name)
    assert len(names) >= manifest.groups.minimum
    return [
        Trainer(manifest, tables[name], tables[name.replace("-train", "-test")], seeded_random(name.encode()))
        for name in names
    ]


def federated(members: list[Trainer], rounds: int) -> tuple[Evaluation, Evaluation]:
    """What the model is worth before and after, on all test records, averaging without secrecy."""
    statistics: NDArray[np.float64] = np.mean([member.statistics() for member in members], axis=0)
    parameters = members[0].initial_parameters()
    before = evaluated(members, parameters, statistics)
    for _ in range(rounds):
        parts = [member.contribution(parameters, statistics) for member in members]
        parameters = np.mean(parts, axis=0)
    return before, evaluated(members, parameters, statistics)


def evaluated(
    members: list[Trainer], parameters: NDArray[np.float64], statistics: NDArray[np.float64]
) -> Evaluation:
    sums = np.sum([member.evaluation(parameters, statistics) for member in members], axis=0)
    return Evaluation(tuple(sums), members[0].evaluate(parameters, statistics).measured)


@pytest.mark.parametrize("name", sorted(LEARNT))
def test_an_example_learns(name: str) -> None:
    rounds, worth = LEARNT[name]
    members = trainers(without_noise(agreement(name)), (EXAMPLES / name).parent)
    before, after = federated(members, rounds)
    assert after.sums[2] / after.total < worth < before.sums[2] / before.total


@pytest.mark.slow
@pytest.mark.parametrize("name", AGREEMENTS)
def test_an_example_can_keep_its_promise(name: str) -> None:
    assert calibrated(agreement(name)).calibrated


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes(), 1))


def test_digits_are_dealt_out_and_learnt(tmp_path: Path) -> None:
    """On made-up digits: ten patterns with noise on them, in files like MNIST's."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 2, (10, 28, 28)) * 255
    (tmp_path / "mnist").mkdir()
    for part, count in (("train", 800), ("t10k", 160)):
        labels = rng.integers(0, 10, count).astype(np.uint8)
        pictures = (patterns[labels] * rng.random((count, 28, 28))).astype(np.uint8)
        write_idx(tmp_path / "mnist" / f"{part}-images-idx3-ubyte.gz", pictures)
        write_idx(tmp_path / "mnist" / f"{part}-labels-idx1-ubyte.gz", labels)
    command = (sys.executable, EXAMPLES / "digits" / "split.py", tmp_path / "mnist", tmp_path / "parts")
    subprocess.run(command, check=True)
    agreed = agreement("digits/federation.toml")
    quick = replace(agreed.training, sampling_rate=0.2, expected_batch=40.0)
    manifest = without_noise(replace(agreed, training=quick))
    members = []
    for folder in sorted((tmp_path / "parts").iterdir()):
        train, test = (load_table(folder / f"{part}.npz", manifest.task) for part in ("train", "test"))
        members.append(Trainer(manifest, train, test, seeded_random(folder.name.encode())))
    straight = load_table(tmp_path / "mnist" / "train-images-idx3-ubyte.gz", manifest.task)
    assert (
        sum(len(load_table(path, manifest.task)) for path in sorted(tmp_path.glob("parts/*/train.npz")))
        == 800
    )
    assert len(straight) == 800
    before, after = federated(members, 20)
    assert before.accuracy < 0.25
    assert after.accuracy > 0.8


@pytest.mark.slow
def test_a_backbone_teaches_what_cannot_be_learnt_from_scratch() -> None:
    command = (sys.executable, EXAMPLES / "transfer" / "compare.py", "--json")
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    rows = {row["trained"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert all(row["epsilon"] == 1 for row in rows.values())
    assert rows["scratch"]["foreseen"] < 0.22
    assert rows["head"]["foreseen"] > 0.32
    assert rows["adapters"]["foreseen"] > 0.32
    said = (EXAMPLES / "transfer" / "README.md").read_text(encoding="utf-8")
    for row in rows.values():
        assert f"| {row['parameters']:,} |" in said
