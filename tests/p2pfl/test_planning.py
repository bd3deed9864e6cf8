"""What a manifest will cost is what its nodes' ledgers will say."""

from dataclasses import replace

import pytest

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import Manifest, from_toml
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.accountant import epsilon
from p2pfl.node.errors import PrivacyError
from p2pfl.node.privacy import calibrated, stage_plan
from p2pfl.planning import check_promise, planned_ladder, planned_mechanisms


def draft(mode: str, promise: str = "") -> Manifest:
    return from_toml(
        f"""
        name = "hearts"
        issuers = ["{Identity.from_seed(bytes(32)).peer_id}"]
        task.label = "y"
        task.positive = ["1"]
        task.columns = [{{ name = "x", kind = "numeric", low = 0, high = 1 }}]
        model.kind = "logistic"
        training = {{ rounds = 12, learning_rate = 0.5, sampling_rate = 0.25, expected_batch = 40 }}
        privacy = {{ mode = "{mode}" {promise} }}
        """
    )


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_the_plan_is_the_ledger_of_a_whole_run(mode: str) -> None:
    manifest = calibrated(draft(mode, ", epsilon = 2, delta = 1e-4"))
    group = manifest.groups.thresholds
    rounds = {"statistics": 1, "training": 12, "evaluation": 2}
    written = [stage_plan(manifest, stage, 3).mechanism(group) for stage in rounds]
    whole = [replace(entry, count=entry.count * rounds[entry.stage]) for entry in written]
    assert planned_mechanisms(manifest) == whole
    check_promise(manifest)


def test_too_little_noise_is_refused() -> None:
    manifest = calibrated(draft("distributed", ", epsilon = 2, delta = 1e-4"))
    for name in ("noise_multiplier", "statistics_noise_multiplier", "evaluation_noise_multiplier"):
        less = replace(manifest.privacy, **{name: 0.4 * getattr(manifest.privacy, name)})
        with pytest.raises(PrivacyError, match="more than the 2 that is promised"):
            check_promise(replace(manifest, privacy=less))


def test_no_privacy_costs_nothing_that_could_be_counted() -> None:
    assert planned_mechanisms(draft("none")) == []
    assert planned_ladder(draft("none")) == []


def test_the_planned_ladder_is_for_the_worst_roster_that_may_form() -> None:
    """Groups of four may be of three to seven: even six may collude, and two are worst among six."""
    manifest = calibrated(draft("distributed", ", epsilon = 2, delta = 1e-4"))
    delta = manifest.privacy.delta
    rosters = [planned_mechanisms(manifest, thresholds(size, 1)) for size in (3, 4, 5, 6, 7)]
    for colluders, cost in planned_ladder(manifest):
        every = [epsilon(plan, delta, colluders).pld for plan in rosters if plan[0].members > colluders]
        assert cost.pld == max(every)
    ladder = planned_ladder(manifest)
    assert [colluders for colluders, _ in ladder] == [1, 2, 3, 4, 5, 6]
    assert ladder[0][1].pld <= 2 < ladder[1][1].pld
