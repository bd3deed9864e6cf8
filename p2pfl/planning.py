"""What a manifest will cost before anybody runs it."""

from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.thresholds import Thresholds, thresholds
from p2pfl.node.accountant import EVALUATIONS, Mechanism, Spent, epsilon
from p2pfl.node.errors import PrivacyError


def planned_mechanisms(manifest: Manifest, roster: Thresholds | None = None) -> list[Mechanism]:
    """A node's ledger after a whole run of ``manifest`` in such rosters, None: of the agreed size; empty in
    mode none.
    """
    privacy, training = manifest.privacy, manifest.training
    roster = manifest.groups.thresholds if roster is None else roster
    if privacy.mode == "none":
        return []
    group = (roster.members, roster.minimum_survivors, roster.colluders)
    steps = training.rounds * training.local_steps
    statistics, evaluation = privacy.statistics_noise_multiplier, privacy.evaluation_noise_multiplier
    return [
        Mechanism("statistics", "train", privacy.mode, statistics, 1.0, 1, *group),
        Mechanism(
            "training", "train", privacy.mode, privacy.noise_multiplier, training.sampling_rate, steps, *group
        ),
        Mechanism("evaluation", "test", privacy.mode, evaluation, 1.0, EVALUATIONS, *group),
    ]


def planned_ladder(manifest: Manifest) -> list[tuple[int, Spent]]:
    """Epsilon of a whole run against c, c+1, … colluders of a group; empty in mode none.

    Rosters may have any size from ``groups.minimum`` to 2·``groups.size`` - 1; every rung is for the size
    that is worst for it.
    """
    groups = manifest.groups
    if manifest.privacy.mode == "none":
        return []
    sizes = range(groups.minimum, 2 * groups.size)
    plans = [planned_mechanisms(manifest, thresholds(size, groups.colluders)) for size in sizes]
    rungs = []
    for colluders in range(groups.colluders, 2 * groups.size - 1):
        possible = [plan for plan in plans if plan[0].members > colluders]
        worst = min(possible, key=lambda plan: plan[0].against(colluders))
        rungs.append((colluders, epsilon(worst, manifest.privacy.delta, colluders)))
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
