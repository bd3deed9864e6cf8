"""What a federation will cost before anybody runs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2pfl.gossip.manifest import GroupSpec, Manifest
from p2pfl.gossip.thresholds import Thresholds, thresholds
from p2pfl.node.accountant import (
    Kind,
    Mechanism,
    Multipliers,
    Spent,
    calibrate,
    epsilon,
    evaluations_paid,
)
from p2pfl.node.errors import PrivacyError
from p2pfl.node.outlook import planned_mechanisms, whole_run


@dataclass(frozen=True, slots=True)
class Terms:
    """What people settle before they write a manifest, for one mode.

    ``records`` of a member; ``sampling_rate``: probability that one is in a step; ``members`` of the whole
    federation, who average in ``groups``. A round is one step. ``evaluations``: how many come before the last
    round.
    """

    kind: Kind
    epsilon: float
    delta: float
    records: int
    rounds: int
    sampling_rate: float
    members: int
    groups: GroupSpec
    evaluations: int = 0

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
        """The least noise that keeps the promise. Takes a second or two. Raises PrivacyError if none does."""
        paid = evaluations_paid(self.evaluations)
        try:
            return calibrate(self.epsilon, self.delta, self.rounds, self.sampled, self.kind, paid)
        except ValueError as error:
            raise PrivacyError(f"epsilon: {error}", "promise more: a larger epsilon or delta") from None

    def run(self, noise: Multipliers, roster: Thresholds) -> list[Mechanism]:
        """A node's ledger after all rounds, with ``noise``, in such rosters."""
        paid = evaluations_paid(self.evaluations)
        return whole_run(self.kind, noise, self.rounds, self.sampled, paid, roster)

    def ladder(self, noise: Multipliers) -> list[tuple[int, Spent]]:
        """Epsilon of all rounds against c, c+1, … colluders, for the worst roster that may form."""
        largest = min(2 * self.groups.size - 1, self.members)
        return _worst_ladder(self.groups, largest, self.delta, lambda roster: self.run(noise, roster))


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


def check_promise(manifest: Manifest, before: Sequence[Mechanism] = ()) -> None:
    """Raises PrivacyError if the noise in ``manifest`` is less than its epsilon needs, with ``before``
    released in earlier federations: nodes would stop training midway.
    """
    privacy = manifest.privacy
    if privacy.mode == "none":
        return
    planned = epsilon([*before, *planned_mechanisms(manifest)], privacy.delta).pld
    if planned > privacy.epsilon:
        raise PrivacyError(
            f"privacy.epsilon: the noise multipliers given cost epsilon {planned:.3f} over"
            f" {manifest.training.rounds} rounds, more than the {privacy.epsilon:g} that is promised",
            "leave the noise multipliers out: they are computed from epsilon and delta",
        )
