"""``p2pfl privacy attack``: what an attacker makes of a federation's releases, beside what epsilon allows."""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.node.errors import ManifestProblem, UsageError

if TYPE_CHECKING:
    from p2pfl.attacks.membership import Unit
    from p2pfl.attacks.report import Mode, Report
    from p2pfl.gossip.manifest import Manifest
    from p2pfl.node.training.table import Table
    from p2pfl.progress import Progress

_MODES: "dict[Unit, tuple[str, ...]]" = {
    "record": ("none", "local", "distributed"),
    "organisation": ("none", "organisation"),
}
"""What hides a record, or all records of a member, and what does not."""
_TRIALS = 200
_LEAST_TRIALS: "dict[Unit, int]" = {"record": 4, "organisation": 20}
_MOST_TRIALS = 100_000
_RUNS: "dict[Unit, int]" = {"record": 1, "organisation": 8}
"""Runs with canaries for each trial: only few organisations fit into one."""
_MOST_RECORDS = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl privacy attack``."""
    parser.description = (
        "Train a federation many times in this process and attack it: guess which records were in the data,"
        " or of which members any, from the last model and as a curious member, and bound epsilon from below"
        " by canaries. By default the four hospitals of the demo. Takes minutes."
    )
    parser.add_argument(
        "--federation", metavar="FILE", type=Path, help="a manifest (default: that of the demo)"
    )
    parser.add_argument(
        "--data", metavar="PATH", type=Path, nargs="+", help="training data of each member, for --federation"
    )
    parser.add_argument(
        "--hidden",
        choices=tuple(_MODES),
        help="what is looked for, and in the modes that hide it: a record, or whether an organisation's"
        " records take part at all (default: what the manifest's mode hides)",
    )
    parser.add_argument(
        "--trials",
        metavar="N",
        type=int,
        default=_TRIALS,
        help=f"federations trained for each mode and attack (default: {_TRIALS})",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="another one gives other trials (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print what the attacks came to. Raises PrivacyError if canaries refute a claim."""
    # Read when torch is imported, after this: models here are too small to be shared by several threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if (options.federation is None) != (options.data is None):
        what = "--federation and --data go together: a manifest, and training data of each of its members"
        raise UsageError(what, "leave both out to attack the four hospitals of the demo")
    manifest, tables = _federation(options)
    hides: Unit = "organisation" if manifest.privacy.mode == "organisation" else "record"
    unit: Unit = options.hidden or hides
    least = _LEAST_TRIALS[unit]
    if not least <= options.trials <= _MOST_TRIALS:
        what = f"--trials must be from {least} to {_MOST_TRIALS} where it is on {unit}s"
        raise UsageError(what, "see `p2pfl privacy attack --help`")
    report = _attacked(manifest, tables, unit, options.trials, options.seed)
    if options.json:
        print(json.dumps(report.as_dict(), indent=1))
    else:
        for line in report.lines():
            print(line)
    report.check()
    return 0


def _federation(options: argparse.Namespace) -> "tuple[Manifest, list[Table]]":
    """The manifest, and the members' tables, the largest first. Raises UserError if they do not fit."""
    from p2pfl.gossip.manifest import ImageTask, TabularTask
    from p2pfl.node.storage.manifest_file import read_manifest
    from p2pfl.node.training.table import load_table

    if options.federation is None:
        return _hospitals()
    manifest = read_manifest(options.federation)
    if not isinstance(manifest.task, TabularTask | ImageTask):
        raise ManifestProblem(
            f"{options.federation}: the attack is on tables and pictures",
            "give it the manifest of such a task",
        )
    if manifest.model.private or manifest.model.backbone:
        what = "the attack is on models that are trained and shared whole"
        raise ManifestProblem(f"{options.federation}: {what}", "give it one without private or frozen layers")
    tables = [load_table(path, manifest.task) for path in options.data]
    least, most = manifest.groups.minimum, 2 * manifest.groups.size - 1
    if not least <= len(tables) <= most:
        raise UsageError(f"--data needs {least} to {most} members: a group", "name one file for each member")
    tables.sort(key=len, reverse=True)
    if sum(map(len, tables)) > _MOST_RECORDS:
        raise UsageError(
            f"--data has more than {_MOST_RECORDS} records", "give it a sample of every member's"
        )
    return manifest, tables


def _hospitals() -> "tuple[Manifest, list[Table]]":
    from tempfile import TemporaryDirectory

    from p2pfl.crypto.identity import Identity
    from p2pfl.gossip.manifest import from_toml
    from p2pfl.heart_disease import FEDERATION_TOML, HOSPITALS, write_hospital
    from p2pfl.node.training.table import load_table

    issuer = Identity.from_seed(bytes(32)).peer_id
    manifest = from_toml(FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", issuer))
    with TemporaryDirectory() as directory:
        homes = [Path(directory) / name for name in HOSPITALS]
        for home in homes:
            home.mkdir()
            write_hospital(home, home.name)
        tables = [load_table(home / "train.csv", manifest.task) for home in homes]
    return manifest, sorted(tables, key=len, reverse=True)


def _attacked(manifest: "Manifest", tables: "list[Table]", unit: "Unit", trials: int, seed: int) -> "Report":
    from p2pfl.attacks.report import Report
    from p2pfl.progress import Progress

    agreed = [each for mode in _MODES[unit] if (each := _in_mode(manifest, mode)) is not None]
    progress = Progress((1 + _RUNS[unit]) * trials * len(agreed))
    try:
        modes = [
            _attack(each, tables, unit, manifest.privacy.delta, trials, seed, progress) for each in agreed
        ]
    finally:
        progress.end()
    return Report(manifest, tables, trials, seed, modes, unit)


def _in_mode(manifest: "Manifest", mode: str) -> "Manifest | None":
    """The same promise kept in ``mode``; None if that cannot be."""
    from p2pfl.gossip.manifest import ManifestError
    from p2pfl.node.privacy import calibrated
    from p2pfl.terminal import note

    privacy = manifest.privacy
    if mode == privacy.mode and manifest.calibrated:
        return manifest
    if privacy.mode == "none":
        return None
    try:
        return calibrated(replace(manifest, privacy=privacy.with_mode(mode)))
    except ManifestError as error:
        note(f"mode {mode} is left out: {error}")
        return None


def _attack(
    manifest: "Manifest",
    tables: "list[Table]",
    unit: "Unit",
    delta: float,
    trials: int,
    seed: int,
    progress: "Progress",
) -> "Mode":
    import numpy as np

    from p2pfl.attacks.canaries import audit, with_canaries
    from p2pfl.attacks.membership import infer_membership
    from p2pfl.attacks.report import Mode, claims
    from p2pfl.crypto.randomness import seeded_random

    mode = manifest.privacy.mode
    random = seeded_random(f"attack {mode} {seed}".encode())
    progress.begin(f"mode {mode}: federations to infer membership from")
    rng = np.random.default_rng(seed)
    results = infer_membership(manifest, tables, trials, random, rng, progress.step, unit)
    progress.begin(f"mode {mode}: runs with canaries")
    scores = audit(with_canaries(manifest, unit), _RUNS[unit] * trials, random, progress.step, unit)
    return Mode(mode, delta, results, *claims(manifest), scores.bound(delta), len(scores))
