"""What epsilon is at least: canaries put into the data, and looked for in what is released.

A canary is a record made for the purpose: alone in having a value in one column, so that its gradient points
along one coordinate, and so large there that it is clipped. Whether it is in a member's records or not is
drawn anew for every canary of every run, and guessed from all that an insider sees. Hundreds fit into one
model, each in a coordinate of its own with noise of its own, and so count as trials of their own.

Where whole organisations are hidden, canaries are organisations: members that have nothing but copies of such
a record, or take part without any. Only those that need not be curious can be, one coordinate each.

The claim is for whatever model a step is taken from, so it may be the worst: zero in every round, where no
canary is ever fitted. (Colluders can steer a model there.) As few members survive as a sum is ever opened
over, so that the noise is what the claim is laid out for and not more.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.attacks.added import part
from p2pfl.attacks.group import Group
from p2pfl.attacks.measures import epsilon_bound
from p2pfl.attacks.membership import Unit
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.manifest import Column, DenseModel, EvaluationSpec, Manifest, TabularTask
from p2pfl.node.privacy import StagePlan, dimension
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer

Vector = NDArray[np.float64]

CANARIES: Final = 512
"""In one model. Noise also covers the rounding of every coordinate, so more of them cost tightness."""
_LEAST_NOISE: Final = 0.1
"""Noise multiplier that scores reckon with at least, where there is less."""
_MOST_STEPS: Final = 64
"""Steps of a round that scores reckon with a canary in."""
_FAR: Final = 4.0
"""How many times as far as clipping lets it an organisation's records move the model."""
_MOST_COPIES: Final = 1 << 14


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


def with_canaries(manifest: Manifest, unit: Unit = "record") -> Manifest:
    """``manifest``, its steps, noise and groups, for a table that canaries fit into: CANARIES of them, or as
    many as its model has room for where a ring of 16 bits may not carry more noise; of organisations as many
    as a sum is opened over, but for the curious.
    """
    room = CANARIES if manifest.training.ring_bits > 16 else dimension(manifest, "training") - 1
    roster = manifest.groups.thresholds
    count = min(CANARIES if unit == "record" else roster.minimum_survivors - roster.colluders, room)
    columns = tuple(Column(f"canary {number}", "numeric", -1.0, 1.0) for number in range(count))
    task = TabularTask("tabular", "label", ("1",), columns)
    return replace(manifest, task=task, model=DenseModel("logistic"), evaluation=EvaluationSpec())


def audit(
    manifest: Manifest,
    runs: int,
    random: RandomBytes,
    tick: Callable[[], None] = lambda: None,
    unit: Unit = "record",
) -> Scores:
    """Put canaries into ``runs`` runs of a manifest :func:`with_canaries` for this ``unit``; ``tick`` is
    called after each. Raises PrivacyError if the noise cannot be drawn.

    Records that are canaries are the last member's, in mode distributed, local or none. Organisations that
    are canaries are all that are not curious, in mode organisation or none.
    """
    group, members = Group(manifest, manifest.groups.thresholds, random), _members(manifest, unit, random)
    middle = Table(np.zeros((1, manifest.task.features)), np.zeros(1))
    statistics = Trainer(manifest, middle, None, random).statistics()
    present, absent = [], []
    for _ in range(runs):
        bits = np.frombuffer(random(manifest.task.features), np.uint8)
        there = bits < 128
        scores = _run(manifest, group, members(there), statistics)
        present.append(scores[there])
        absent.append(scores[~there])
        tick()
    return Scores(np.concatenate(present), np.concatenate(absent))


def _members(
    manifest: Manifest, unit: Unit, random: RandomBytes
) -> Callable[[NDArray[np.bool_]], list[Trainer | None]]:
    """Who is not curious, as they train when these canaries are there; None: without records."""
    canaries = Table(np.eye(manifest.task.features), np.ones(manifest.task.features))
    if unit == "organisation":
        rows = (np.full(_copies(manifest), place) for place in range(len(canaries)))
        each = [Trainer(manifest, part(canaries, row), None, random) for row in rows]
        return lambda there: [one if chosen else None for one, chosen in zip(each, there, strict=True)]
    roster = manifest.groups.thresholds
    # Noise of its own holds against everybody else: then all of them are the insider.
    local = manifest.privacy.mode == "local"
    others = [None] * (0 if local else roster.minimum_survivors - roster.colluders - 1)
    return lambda there: [*others, Trainer(manifest, part(canaries, there), None, random)]


def _copies(manifest: Manifest) -> int:
    """How many of a canary move the model _FAR."""
    training = manifest.training
    each = training.learning_rate / training.expected_batch * training.sampling_rate
    return math.ceil(min(_FAR * manifest.privacy.clip_norm / each, _MOST_COPIES))


def _run(manifest: Manifest, group: Group, members: Sequence[Trainer | None], statistics: Vector) -> Vector:
    """What every canary comes to over all rounds of one run: shape (canaries,)."""
    start = np.zeros(dimension(manifest, "training"))
    scores, plan = np.zeros(manifest.task.features), group.plan("training")
    for _ in range(manifest.training.rounds):
        added = (start if one is None else one.contribution(start, statistics) for one in members)
        values = [*[start] * manifest.groups.colluders, *added]
        moved = group.sum("training", values).others[: len(scores)] / plan.sensitivity
        scores += _log_ratio(plan, moved)
    return scores


def _log_ratio(plan: StagePlan, moved: Vector) -> Vector:
    """Log of how much likelier it is with a canary that a round moves coordinates so far, in clip norms."""
    steps = min(plan.releases_per_round, _MOST_STEPS)
    variance = plan.releases_per_round * max(plan.noise_multiplier, _LEAST_NOISE) ** 2
    taken = np.arange(steps + 1)[:, None]
    choices = np.cumprod([1.0, *((steps - k) / (k + 1) for k in range(steps))])[:, None]
    q = plan.sampling_rate
    chance = choices * q**taken * (1 - q) ** (steps - taken)
    with np.errstate(divide="ignore"):
        logs = np.log(chance) + (moved * taken - taken**2 / 2) / variance
    found: Vector = np.logaddexp.reduce(logs, axis=0)
    return found
