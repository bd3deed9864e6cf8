"""What a manifest will cost before anybody runs it."""

from p2pfl.gossip.manifest import Manifest
from p2pfl.node.accountant import EVALUATIONS, Mechanism, epsilon
from p2pfl.node.errors import PrivacyError


def planned_mechanisms(manifest: Manifest) -> list[Mechanism]:
    """A node's ledger after a whole run of ``manifest`` in full groups; empty in mode none."""
    privacy, training, thresholds = manifest.privacy, manifest.training, manifest.groups.thresholds
    if privacy.mode == "none":
        return []
    group = (thresholds.members, thresholds.minimum_survivors, thresholds.colluders)
    steps = training.rounds * training.local_steps
    statistics, evaluation = privacy.statistics_noise_multiplier, privacy.evaluation_noise_multiplier
    return [
        Mechanism("statistics", "train", privacy.mode, statistics, 1.0, 1, *group),
        Mechanism(
            "training", "train", privacy.mode, privacy.noise_multiplier, training.sampling_rate, steps, *group
        ),
        Mechanism("evaluation", "test", privacy.mode, evaluation, 1.0, EVALUATIONS, *group),
    ]


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
