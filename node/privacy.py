"""What every kind of round releases about this node's records, and the noise that covers it.

A round is one secure sum. What one record can change in this node's vector is bounded here, per stage, for
records added or removed (``sensitivity``, L2); noise of ``noise_multiplier`` times that makes the sum a
Gaussian mechanism. Four modes:

    distributed   every member adds a share of the noise after encoding; only the sum carries all of it
    local         this node adds all of it: to every gradient step, and to statistics and evaluation
    organisation  as distributed, but what a whole organisation can change is bounded, and hidden
    none          no noise, and no epsilon

Noise is integer noise on a grid, from a cryptographic stream, so no floating-point side channel exists
(Mironov 2012).

Why ``sensitivity * 2^f + sqrt(d)`` grid steps. Encoding adds a coin u in [0, 1) to every scaled value and
rounds down. For fixed coins a neighbouring vector, at L2 distance s, moves every coordinate's integer by less
than |difference| + 1, so the integers lie within s + sqrt(d) (triangle inequality). The coins do not depend
on the records, and the hockey-stick divergence of a mixture is at most the mixture of the divergences, so the
bound for every fixed coin is a bound for the random ones. This is the first bound of Kairouz, Liu, Steinke
(2021, section 4); at the grids chosen below it adds a few percent.

Arithmetic is not quite real: a scaled value is taken to 2^-16 of a step before its coin is added, which moves
it by 2^-17 at most, and the value itself is a float64. Where noise covers the sum, the grid has 2^34 steps
within the limit at most, so that rounding to float64 moves a value by at most 2^-20 of a step; there is room
for eight such errors in each of two neighbours within 1 + 2^-15, which stands for the 1 above.

Shares of noise. A sum is opened only over at least u = minimum survivors, of whom at most c collude. u - c
honest shares of standard deviation sigma / sqrt(u - c) make up sigma (Truex et al. 2019). More survivors only
add noise. Of members whose budgets are spent nobody counts on the noise: with s of them, u - s - c shares of
sigma / sqrt(u - s - c) do.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.discrete_gaussian import LARGEST_SIGMA, DiscreteGaussian, Samples
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.crypto.ring import RING_16, RING_32, Encoding, Ring, largest_fraction_bits
from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.gossip.manifest import GroupSpec, Manifest, PrivacySpec, TrainingSpec
from p2pfl.gossip.thresholds import Thresholds, thresholds
from p2pfl.node.accountant import (
    Mechanism,
    Spent,
    Subject,
    calibrate,
    epsilon,
    evaluations_paid,
    releases_within,
    surely_within,
)
from p2pfl.node.errors import PrivacyError
from p2pfl.node.training.metrics import HEAD, LOSS_CAP, measures

__all__ = [
    "LOSS_CAP",
    "MAX_RECORDS",
    "Budget",
    "Mechanism",
    "StagePlan",
    "StepNoise",
    "calibrated",
    "dimension",
    "noise",
    "noise_source",
    "poisson_sample",
    "stage_plan",
    "step_noise",
]

MAX_RECORDS: Final = 1 << 20
"""Records of one node's table at most: no entry of its statistics or evaluation vector is larger, so none is
cut by the encoding.
"""
GRID_SIGMA: Final = 2.0**11
"""Grid steps. The grid is as fine as it can be with at most this much noise per member: small tables, quick
draws.
"""
LEAST_SIGMA: Final = 10.0
"""Grid steps. Below, a sum of discrete Gaussians need not behave as one Gaussian (Kairouz, Liu, Steinke 2021,
Theorem 1).
"""
_ROUNDING: Final = 1 + 2.0**-15
"""Grid steps that rounding moves a coordinate by at most, beyond the move of its value: one, and a little
because the encoding's coins have 16 bits and the values before it are float64.
"""
_RESOLVED: Final = 2.0**34
"""Grid steps within the limit of a noised stage at most: beyond, float64 is too coarse for _ROUNDING. Only
64-bit rings go so far.
"""
_HEADROOM: Final = 8.0
"""Standard deviations of a sum's noise that fit between its largest value and where it wraps."""
_BLOCK: Final = 1 << 15
"""Elements of a gradient noised at a time, so that all passes but the first find them in the cache."""
_LARGEST_SINGLE: Final = 2.0**20
"""Grid steps. No sample is larger than 14 sigma: float32 has every one."""

Gradient: TypeAlias = NDArray[np.float64] | NDArray[np.float32]

Mode = Literal["distributed", "local", "organisation", "none"]
STAGES: Final = ("statistics", "training", "evaluation")


@dataclass(frozen=True, slots=True)
class StagePlan:
    """How one stage's vector is encoded, noised and charged; the same at every member.

    ``sensitivity``: L2 norm of what one record (in mode organisation, all records of a member together) adds
    to a release, before encoding. ``noise_multiplier``: z, standard deviation over sensitivity.
    ``sampling_rate``: probability that a record takes part. ``releases_per_round``: noised sums that a round
    is made of.
    """

    stage: str
    mode: Mode
    dimension: int
    encoding: Encoding
    sensitivity: float
    noise_multiplier: float
    sampling_rate: float
    releases_per_round: int

    @property
    def charged(self) -> bool:
        """Whether a round of this stage goes into the ledger."""
        return self.mode != "none"

    @property
    def subject(self) -> Subject:
        """Whose records it is about, or that it is about all that an organisation has. Test records, which no
        step ever sees, pay for evaluations, and for nothing else.
        """
        if self.mode == "organisation":
            return "organisation"
        return "test" if self.stage == "evaluation" else "train"

    def sigma(self, group: Thresholds, spent: int = 0) -> float:
        """Standard deviation, in grid steps, of what each member adds to its encoded vector; 0 if nothing.

        ``spent`` members of ``group`` have no budget left, and nobody counts on their noise. Only if it
        :meth:`hides`.
        """
        if not _noised_in_the_sum(self.mode, self.stage):
            return 0.0
        whole = _grid_sigma(
            self.noise_multiplier, self.sensitivity, self.encoding.fraction_bits, self.dimension
        )
        return whole * _share(self.mode, group, spent)

    def hides(self, group: Thresholds, spent: int) -> bool:
        """Whether a round in ``group`` can carry its noise if that of ``spent`` members does not count.

        If not, nobody in it may contribute its records. Every member finds the same.
        """
        counts = group.minimum_survivors - spent > group.colluders
        return self.mode in ("local", "none") or (counts and self.sigma(group, spent) <= LARGEST_SIGMA)

    def mechanism(self, group: Thresholds, spent: int = 0) -> Mechanism:
        """The ledger entry for one round in ``group``. Raises LocalProtocolError in mode none: no ledger."""
        if self.mode == "none":
            raise LocalProtocolError("mode none charges nothing")
        return Mechanism(
            stage=self.stage,
            subject=self.subject,
            kind=self.mode,
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            count=self.releases_per_round,
            members=group.members,
            minimum_survivors=group.minimum_survivors,
            colluders=group.colluders,
            spent=0 if self.mode == "local" else spent,
        )


def dimension(manifest: Manifest, stage: str) -> int:
    """Length of the vector that a round of ``stage`` sums. Raises LocalProtocolError for another stage."""
    match stage:
        case "statistics":
            return 1 + 2 * manifest.numeric_columns
        case "training":
            return manifest.model.parameters(manifest.task.features)
        case "evaluation":
            return HEAD + measures(manifest.task).dimension
        case "vote":
            return 1
    raise LocalProtocolError(f"no stage {stage!r}")


def stage_plan(manifest: Manifest, stage: str, dimension: int) -> StagePlan:
    """The plan of ``stage`` for vectors of ``dimension`` entries.

    In mode organisation a member's vector is that of one record: of statistics and evaluation the mean over
    its records, of training its update, clipped. Raises PrivacyError if the ring has no grid on which the
    manifest's noise can be drawn, LocalProtocolError for another stage.
    """
    privacy, training, groups = manifest.privacy, manifest.training, manifest.groups
    limit, ring, rate, releases = float(MAX_RECORDS), RING_32, 1.0, 1
    match stage:
        case "statistics" if not manifest.numeric_columns:
            return _recordless(stage, dimension, Encoding(_finest(groups, limit, ring), limit, ring))
        case "statistics":
            # A record adds (1, u_1…u_m, u_1² - ½…u_m² - ½) with u in [-1, 1], and u² + (u² - ½)² <= 1 + ¼.
            multiplier = privacy.statistics_noise_multiplier
            sensitivity = math.sqrt(1 + 1.25 * manifest.numeric_columns)
        case "training":
            multiplier, limit, ring = privacy.noise_multiplier, training.parameter_limit, training.ring
            sensitivity, rate, releases = _training(privacy.mode, training, privacy.clip_norm)
        case "evaluation":
            multiplier = privacy.evaluation_noise_multiplier
            sensitivity = measures(manifest.task).sensitivity
        case "vote":
            return _recordless(stage, dimension, Encoding(_finest(groups, 1.0, ring), 1.0, ring))
        case _:
            raise LocalProtocolError(f"no stage {stage!r}")
    encoding = Encoding(_finest(groups, limit, ring), limit, ring)
    plan = StagePlan(stage, privacy.mode, dimension, encoding, sensitivity, multiplier, rate, releases)
    return _covered(plan, groups) if _noised_in_the_sum(privacy.mode, stage) else plan


def _finest(groups: GroupSpec, limit: float, ring: Ring) -> int:
    return largest_fraction_bits(2 * groups.size - 1, limit, ring)


def _recordless(stage: str, dimension: int, encoding: Encoding) -> StagePlan:
    """A vote is made of released sums, statistics of nothing are a constant: there is no record in them to be
    hidden or to be charged.
    """
    return StagePlan(stage, "none", dimension, encoding, 0.0, 0.0, 1.0, 1)


def _training(mode: Mode, training: TrainingSpec, clip_norm: float) -> tuple[float, float, int]:
    """What training adds to a sum: sensitivity, sampling rate, and releases in a round."""
    if mode == "organisation":
        return clip_norm, 1.0, 1  # x + clip(update, C), however many steps it took and records they saw
    # A step is x - (lr / b) Σ clip(gradient, C).
    step = training.learning_rate / training.expected_batch * clip_norm
    return step, training.sampling_rate, training.local_steps


def _covered(plan: StagePlan, groups: GroupSpec) -> StagePlan:
    """``plan``, whose grid is the finest that the ring has, on one that suits its noise."""
    smallest, largest = (thresholds(k, groups.colluders) for k in (groups.minimum, 2 * groups.size - 1))
    ring, limit, finest = plan.encoding.ring, plan.encoding.limit, plan.encoding.fraction_bits
    while math.ldexp(limit, finest) > _RESOLVED:
        finest -= 1
    multiplier, sensitivity = plan.noise_multiplier * _share(plan.mode, smallest), plan.sensitivity
    room = math.ldexp(1.0, ring.bits - 2) / (_HEADROOM * math.sqrt(largest.members))
    rounding = _grid_sigma(multiplier, 0.0, 0, plan.dimension)
    if ring == RING_16 and rounding > min(multiplier * math.ldexp(sensitivity, finest), room / 2):
        what = f"to cover the rounding of {plan.dimension} parameters takes more noise than to cover a record"
        raise PrivacyError(f"training.ring_bits: 16 are too few: {what}", "take 32, in the manifest")
    bits = _fraction_bits(finest, multiplier, sensitivity, plan.dimension, plan.stage, room)
    plan = replace(plan, encoding=Encoding(bits, limit, ring))
    _require_noise(plan.sigma(largest), plan.stage)
    return plan


def noise(plan: StagePlan, group: Thresholds, random: RandomBytes) -> NDArray[np.int64]:
    """What this member adds to its encoded vector of ``plan``: int64, shape (dimension,), in grid steps.

    A share of the noise in mode distributed; all of it in mode local, except to training, where every step
    has been noised; zeros in mode none.
    """
    source = noise_source(plan, group, random)
    return np.zeros(plan.dimension, np.int64) if source is None else source.take(plan.dimension)


def noise_source(plan: StagePlan, group: Thresholds, random: RandomBytes, spent: int = 0) -> Samples | None:
    """Where :func:`noise` comes from, to be taken piece by piece; None if it is all zeros."""
    sigma = plan.sigma(group, spent)
    return None if sigma == 0 else Samples(DiscreteGaussian(sigma), plan.dimension, random)


@dataclass(frozen=True, slots=True)
class StepNoise:
    """Noise for one local step: integer noise of ``sigma`` steps on a grid of step 2^-``fraction_bits``."""

    fraction_bits: int
    sigma: float

    def source(self, random: RandomBytes) -> Samples:
        """Noise for all the steps there will ever be. One source serves many: a small model's step costs less
        than a new one.
        """
        return Samples(DiscreteGaussian(self.sigma), 1 << 62, random)

    def apply(self, total: Gradient, noise: Samples) -> Gradient:
        """``total``, shape (dimension,), rounded to the nearest grid point and noised from a :meth:`source`:
        in its place, or in a fresh float64 array if integers of this sigma are too large for its precision.

        Exact in float64: a whole number of grid steps, far below 2^53 for the sum of any 2^20 clipped
        records. In float32 it is that number rounded, if beyond 2^24: a function of what is noised already.
        """
        fits = total.dtype == np.float64 or self.sigma <= _LARGEST_SINGLE
        noised = total if fits else total.astype(np.float64)
        for at in range(0, len(noised), _BLOCK):
            block = noised[at : at + _BLOCK]
            np.multiply(block, math.ldexp(1.0, self.fraction_bits), out=block)
            np.rint(block, out=block)
            noise.add_to(block)
            np.multiply(block, math.ldexp(1.0, -self.fraction_bits), out=block)
        return noised


def step_noise(manifest: Manifest, dimension: int) -> StepNoise:
    """The noise of a step in mode local, for gradients of ``dimension`` entries.

    Rounding to the nearest point moves a coordinate by at most one step more than its value moves, as in
    encoding. Raises PrivacyError as :func:`stage_plan` does.
    """
    multiplier, norm = manifest.privacy.noise_multiplier, manifest.privacy.clip_norm
    bits = _fraction_bits(30, multiplier, norm, dimension, "training")
    sigma = _grid_sigma(multiplier, norm, bits, dimension)
    _require_noise(sigma, "training")
    return StepNoise(bits, sigma)


def poisson_sample(records: int, rate: float, random: RandomBytes) -> NDArray[np.bool_]:
    """Which records take part, each with probability ``rate``, independently: bool, shape (records,).

    It may be none. A 64-bit number per record is compared with floor(2^64 rate): never more than ``rate``.
    """
    if rate >= 1:
        return np.ones(records, np.bool_)
    drawn = np.frombuffer(random(8 * records), "<u8")
    return drawn < np.uint64(math.floor(math.ldexp(rate, 64)))


class Budget:
    """What one node may still release: refuses whatever would take a record beyond the manifest's epsilon."""

    def __init__(self, privacy: PrivacySpec, mechanisms: Iterable[Mechanism] = ()) -> None:
        """Start from ``mechanisms``, the ledger so far."""
        self._privacy = privacy
        self._mechanisms = list(mechanisms)
        self._fitting: dict[tuple[Subject, float, float], int] = {}

    def allows(self, plan: StagePlan, releases: int | None = None) -> bool:
        """Whether ``releases`` more of ``plan`` (None: one round's) keep every record within epsilon."""
        if not plan.charged:
            return True
        key = (plan.subject, plan.noise_multiplier, plan.sampling_rate)
        limit, delta = self._privacy.epsilon, self._privacy.delta
        if key not in self._fitting:
            once = plan.sampling_rate == 1 and (releases or plan.releases_per_round) == 1
            if once and surely_within(self._mechanisms, plan.subject, plan.noise_multiplier, limit, delta):
                return True
            self._fitting[key] = releases_within(self._mechanisms, *key, limit, delta)
        return self._fitting[key] >= (plan.releases_per_round if releases is None else releases)

    def spend(self, mechanism: Mechanism) -> None:
        """Count ``mechanism``, which the ledger holds by now."""
        self._mechanisms.append(mechanism)
        key = (mechanism.subject, mechanism.noise_multiplier, mechanism.sampling_rate)
        left = {key: self._fitting[key] - mechanism.count} if key in self._fitting else {}
        others = {other: fitting for other, fitting in self._fitting.items() if other[0] != mechanism.subject}
        self._fitting = others | left

    @property
    def spent(self) -> Spent:
        """Epsilon so far, against the assumed colluders."""
        return epsilon(self._mechanisms, self._privacy.delta)


def calibrated(draft: Manifest, before: Sequence[Mechanism] = ()) -> Manifest:
    """``draft`` with the least noise that keeps its epsilon and delta, ``before`` included, which its members
    have released in earlier federations; as it is in mode none.

    Takes a few seconds. Raises PrivacyError if nothing is left, or no noise is enough, or there is no grid to
    draw it on.
    """
    privacy, training = draft.privacy, draft.training
    if privacy.mode == "none":
        return draft
    _, rate, releases = _training(privacy.mode, training, privacy.clip_norm)
    evaluations = evaluations_paid(draft.evaluation.between(training.rounds))
    steps = training.rounds * releases
    terms = (privacy.epsilon, privacy.delta, steps, rate, privacy.mode, evaluations)
    try:
        found = calibrate(*terms, before, measured=draft.numeric_columns > 0)
    except ValueError as error:
        hint = "promise more: a larger epsilon or delta" + ", for all federations together" * bool(before)
        raise PrivacyError(f"privacy.epsilon: {error}", hint) from None
    manifest = replace(
        draft,
        privacy=replace(
            privacy,
            noise_multiplier=found.training,
            statistics_noise_multiplier=found.statistics,
            evaluation_noise_multiplier=found.evaluation,
        ),
    )
    for stage in STAGES:
        stage_plan(manifest, stage, dimension(manifest, stage))
    if privacy.mode == "local":
        step_noise(manifest, manifest.model.trained(manifest.task.features))
    return manifest


def _noised_in_the_sum(mode: Mode, stage: str) -> bool:
    """Whether noise is added to the encoded vector, and not before (each local step) or not at all."""
    return mode in ("distributed", "organisation") or (mode == "local" and stage != "training")


def _share(mode: Mode, group: Thresholds, spent: int = 0) -> float:
    """What part of the noise's standard deviation one member of ``group`` adds."""
    return 1.0 if mode == "local" else 1 / math.sqrt(group.minimum_survivors - spent - group.colluders)


def _grid_sigma(multiplier: float, sensitivity: float, bits: int, dimension: int) -> float:
    return multiplier * (math.ldexp(sensitivity, bits) + _ROUNDING * math.sqrt(dimension))


def _fraction_bits(
    finest: int, multiplier: float, sensitivity: float, dimension: int, stage: str, room: float = math.inf
) -> int:
    """The finest grid, not beyond ``finest``, on which the noise is at most GRID_SIGMA steps, and ``room``.

    On that grid rounding would make up most of a very large model's noise. Then the grid is finer, up to
    LARGEST_SIGMA, until rounding adds an eighth.
    """
    rounding = _grid_sigma(multiplier, 0.0, 0, dimension)
    most = min(max(GRID_SIGMA, 9 * rounding), LARGEST_SIGMA, room)
    for bits in range(finest, -1, -1):
        if _grid_sigma(multiplier, sensitivity, bits, dimension) <= most:
            return bits
    what = f"the noise of {stage} does not fit the ring: {multiplier * sensitivity:g} per member"
    raise PrivacyError(
        what, "make learning_rate / expected_batch or the model smaller, or epsilon larger, in the manifest"
    )


def _require_noise(sigma: float, stage: str) -> None:
    if sigma < LEAST_SIGMA:
        what = f"the noise of {stage} is too fine for the ring, {sigma:.2g} grid steps, not {LEAST_SIGMA:g}"
        raise PrivacyError(
            what,
            "make learning_rate / expected_batch or ring_bits larger, or epsilon smaller, in the manifest",
        )
