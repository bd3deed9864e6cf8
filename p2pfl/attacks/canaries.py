"""What epsilon is at least: canaries put into the data, and looked for in what is released.

A canary is a record made for the purpose: alone in having a value in one column, so that its gradient points
along one coordinate, and so large there that it is clipped. Whether it is in a member's records or not is
drawn anew for every canary of every run, and guessed from all that an insider sees. Hundreds fit into one
model, each in a coordinate of its own with noise of its own, and so count as trials of their own.

The claim is for whatever model a step is taken from, so it may be the worst: zero in every round, where no
canary is ever fitted. (Colluders can steer a model there.) As few members survive as a sum is ever opened
over, so that the noise is what the claim is laid out for and not more.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.attacks.group import Group
from p2pfl.attacks.measures import epsilon_bound
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.manifest import Column, DenseModel, EvaluationSpec, Manifest, TabularTask
from p2pfl.node.privacy import dimension
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer

Vector = NDArray[np.float64]

CANARIES: Final = 512
"""In one model. Noise also covers the rounding of every coordinate, so more of them cost tightness."""
_LEAST_NOISE: Final = 0.1
"""Noise multiplier that scores reckon with at least, where there is less."""
_MOST_STEPS: Final = 64
"""Steps of a round that scores reckon with a canary in."""


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What canaries came to that were in the records (``present``), and that were not, run after run."""

    present: Vector
    absent: Vector

    def __len__(self) -> int:
        """All trials."""
        return len(self.present) + len(self.absent)

    def bound(self, delta: float) -> float:
        """What epsilon is at least, by :func:`epsilon_bound`."""
        return epsilon_bound(self.present, self.absent, delta)


def with_canaries(manifest: Manifest) -> Manifest:
    """``manifest``, its steps, noise and groups, for a table that canaries fit into: CANARIES of them, or as
    many as its model has room for where a ring of 16 bits may not carry more noise.
    """
    room = CANARIES if manifest.training.ring_bits > 16 else dimension(manifest, "training") - 1
    count = min(CANARIES, room)
    columns = tuple(Column(f"canary {number}", "numeric", -1.0, 1.0) for number in range(count))
    task = TabularTask("tabular", "label", ("1",), columns)
    return replace(manifest, task=task, model=DenseModel("logistic"), evaluation=EvaluationSpec())


def audit(
    manifest: Manifest, runs: int, random: RandomBytes, tick: Callable[[], None] = lambda: None
) -> Scores:
    """Put canaries into ``runs`` runs of a manifest :func:`with_canaries`, in mode distributed, local or
    none; ``tick`` is called after each.

    The last member's records are the canaries that are in. Raises PrivacyError if the noise cannot be drawn.
    """
    canaries = Table(np.eye(manifest.task.features), np.ones(manifest.task.features))
    group = Group(manifest, manifest.groups.thresholds, random)
    present, absent = [], []
    for _ in range(runs):
        bits = np.frombuffer(random(len(canaries)), np.uint8)
        there = bits < 128
        scores = _run(manifest, group, Table(canaries.features[there], canaries.labels[there]), random)
        present.append(scores[there])
        absent.append(scores[~there])
        tick()
    return Scores(np.concatenate(present), np.concatenate(absent))


def _run(manifest: Manifest, group: Group, table: Table, random: RandomBytes) -> Vector:
    """What every canary comes to over all rounds of one run: shape (canaries,)."""
    middle = Table(np.zeros((1, manifest.task.features)), np.zeros(1))
    statistics = Trainer(manifest, middle, None, random).statistics()
    trainer = Trainer(manifest, table, None, random)
    roster = manifest.groups.thresholds
    # Noise of its own holds against everybody else: then all of them are the insider.
    rest = roster.colluders if manifest.privacy.mode == "local" else roster.minimum_survivors - 1
    start = np.zeros(trainer.dimension("training"))
    scores = np.zeros(manifest.task.features)
    for _ in range(manifest.training.rounds):
        values = [start] * rest + [trainer.contribution(start, statistics)]
        moved = group.sum("training", values).others[: len(scores)] / group.plan("training").sensitivity
        scores += _log_ratio(manifest, moved)
    return scores


def _log_ratio(manifest: Manifest, moved: Vector) -> Vector:
    """Log of how much likelier it is with a canary that a round moves coordinates so far, in clip norms."""
    training = manifest.training
    steps = min(training.local_steps, _MOST_STEPS)
    variance = training.local_steps * max(manifest.privacy.noise_multiplier, _LEAST_NOISE) ** 2
    taken = np.arange(steps + 1)[:, None]
    choices = np.cumprod([1.0, *((steps - k) / (k + 1) for k in range(steps))])[:, None]
    q = training.sampling_rate
    chance = choices * q**taken * (1 - q) ** (steps - taken)
    with np.errstate(divide="ignore"):
        logs = np.log(chance) + (moved * taken - taken**2 / 2) / variance
    found: Vector = np.logaddexp.reduce(logs, axis=0)
    return found
