"""What a federation will cost before anybody runs it, and what the rest of a run will cost a node."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from p2pfl.gossip.manifest import GroupSpec, Manifest
from p2pfl.gossip.thresholds import Thresholds, thresholds
from p2pfl.node.accountant import (
    EVALUATIONS,
    Kind,
    Mechanism,
    Multipliers,
    Spent,
    Subject,
    calibrate,
    epsilon,
    releases_within,
)
from p2pfl.node.errors import PrivacyError
from p2pfl.node.store import Charge, RoundOutcome


@dataclass(frozen=True, slots=True)
class Terms:
    """What people settle before they write a manifest, for one mode.

    ``records`` of a member; ``sampling_rate``: probability that one is in a step; ``members`` of the whole
    federation, who average in ``groups``. A round is one step.
    """

    kind: Kind
    epsilon: float
    delta: float
    records: int
    rounds: int
    sampling_rate: float
    members: int
    groups: GroupSpec

    @property
    def sampled(self) -> float:
        """Probability that what the unit of privacy adds is in a round."""
        return 1.0 if self.kind == "organisation" else self.sampling_rate

    @property
    def batch(self) -> float:
        """Records of a member that a step is expected to see."""
        return self.sampling_rate * self.records

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Of one round that everybody takes part in, on the complete topology."""
        count = max(1, self.members // self.groups.size)
        base, larger = divmod(self.members, count)
        return (base + 1,) * larger + (base,) * (count - larger)

    def noise(self) -> Multipliers:
        """The least noise that keeps the promise. Takes a second or two."""
        return calibrate(self.epsilon, self.delta, self.rounds, self.sampled, self.kind)

    def run(self, noise: Multipliers, roster: Thresholds) -> list[Mechanism]:
        """A node's ledger after all rounds, with ``noise``, in such rosters."""
        return _whole_run(self.kind, noise, self.rounds, self.sampled, roster)

    def ladder(self, noise: Multipliers) -> list[tuple[int, Spent]]:
        """Epsilon of all rounds against c, c+1, … colluders, for the worst roster that may form."""
        largest = min(2 * self.groups.size - 1, self.members)
        return _worst_ladder(self.groups, largest, self.delta, lambda roster: self.run(noise, roster))


def planned_mechanisms(manifest: Manifest, roster: Thresholds | None = None) -> list[Mechanism]:
    """A node's ledger after a whole run of ``manifest`` in such rosters, None: of the agreed size; empty in
    mode none.
    """
    privacy, training = manifest.privacy, manifest.training
    if privacy.mode == "none":
        return []
    whole = privacy.mode == "organisation"
    noise = Multipliers(
        privacy.noise_multiplier, privacy.statistics_noise_multiplier, privacy.evaluation_noise_multiplier
    )
    releases = training.rounds * (1 if whole else training.local_steps)
    rate = 1.0 if whole else training.sampling_rate
    return _whole_run(privacy.mode, noise, releases, rate, roster or manifest.groups.thresholds)


def _whole_run(
    kind: Kind, noise: Multipliers, releases: int, rate: float, roster: Thresholds
) -> list[Mechanism]:
    group = (roster.members, roster.minimum_survivors, roster.colluders)
    train: Subject = "organisation" if kind == "organisation" else "train"
    test: Subject = "organisation" if kind == "organisation" else "test"
    return [
        Mechanism("statistics", train, kind, noise.statistics, 1.0, 1, *group),
        Mechanism("training", train, kind, noise.training, rate, releases, *group),
        Mechanism("evaluation", test, kind, noise.evaluation, 1.0, EVALUATIONS, *group),
    ]


def planned_ladder(manifest: Manifest) -> list[tuple[int, Spent]]:
    """Epsilon of a whole run against c, c+1, … colluders of a group; empty in mode none.

    Rosters may have any size from ``groups.minimum`` to 2·``groups.size`` - 1; every rung is for the size
    that is worst for it.
    """
    groups = manifest.groups
    if manifest.privacy.mode == "none":
        return []
    return _worst_ladder(
        groups,
        2 * groups.size - 1,
        manifest.privacy.delta,
        lambda roster: planned_mechanisms(manifest, roster),
    )


def _worst_ladder(
    groups: GroupSpec, largest: int, delta: float, run: Callable[[Thresholds], list[Mechanism]]
) -> list[tuple[int, Spent]]:
    plans = [run(thresholds(size, groups.colluders)) for size in range(groups.minimum, largest + 1)]
    rungs = []
    for colluders in range(groups.colluders, largest):
        possible = [plan for plan in plans if plan[0].members > colluders]
        worst = min(possible, key=lambda plan: plan[0].against(colluders))
        rungs.append((colluders, epsilon(worst, delta, colluders)))
    return rungs


def check_promise(manifest: Manifest) -> None:
    """Raises PrivacyError if the noise in ``manifest`` is less than its epsilon needs: nodes would stop
    training midway.
    """
    privacy = manifest.privacy
    planned = epsilon(planned_mechanisms(manifest), privacy.delta).pld
    if planned > privacy.epsilon:
        raise PrivacyError(
            f"privacy.epsilon: the noise multipliers given cost epsilon {planned:.3f} over"
            f" {manifest.training.rounds} rounds, more than the {privacy.epsilon:g} that is promised",
            "leave the three noise multipliers out: they are computed from epsilon and delta",
        )


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a node's ledger will be when the programme is over, if no round to come is lost.

    ``without_records``: training rounds to come for which the budget does not last; the node takes part in
    them without its records, at no cost.
    """

    mechanisms: tuple[Mechanism, ...]
    without_records: int


def outlook(manifest: Manifest, charges: Sequence[Charge], outcomes: Sequence[RoundOutcome]) -> Outlook:
    """From the ledger so far and how the rounds went, to the planned end.

    An upper bound: rounds that this node knows nothing of, because it joined late, count as still to come.
    """
    ledger = [charge.mechanism for charge in charges if charge.mechanism is not None]
    planned_rounds = {"statistics": 1, "training": manifest.training.rounds, "evaluation": EVALUATIONS}
    without = 0
    for planned in planned_mechanisms(manifest):
        rounds = _rounds_to_come(planned.stage, manifest, charges, outcomes)
        if rounds == 0:
            continue
        each = planned.count // planned_rounds[planned.stage]
        last = min(rounds, _fitting(manifest, ledger, planned, rounds * each) // each)
        if last:
            ledger.append(replace(planned, count=last * each))
        if planned.stage == "training":
            without = rounds - last
    return Outlook(tuple(ledger), without)


def _rounds_to_come(
    stage: str, manifest: Manifest, charges: Iterable[Charge], outcomes: Iterable[RoundOutcome]
) -> int:
    """Rounds of ``stage`` that this node may still contribute its records to."""
    outcomes = list(outcomes)
    charged = {charge.round for charge in charges if charge.mechanism and charge.mechanism.stage == stage}
    gone = charged | {outcome.round for outcome in outcomes if outcome.stage == stage}
    completed = {outcome.stage for outcome in outcomes if outcome.completed}
    if "evaluation" in completed:
        return 0
    match stage:
        case "statistics":
            return 0 if completed else 1
        case "training":
            return max(0, manifest.training.rounds - len(gone))
    return max(0, EVALUATIONS - len(charged))


def _fitting(manifest: Manifest, ledger: Sequence[Mechanism], kind: Mechanism, wanted: int) -> int:
    """How many more releases of this kind the budget has room for, at most ``wanted`` of them."""
    limit, delta = manifest.privacy.epsilon, manifest.privacy.delta
    if epsilon([*ledger, replace(kind, count=wanted)], delta).pld <= limit:  # as a rule, and quick to find
        return wanted
    release = (kind.subject, kind.noise_multiplier, kind.sampling_rate)
    return releases_within(ledger, *release, limit, delta)
