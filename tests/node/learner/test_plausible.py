"""Which releases of others a learner believes: those that this federation can have made."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from learner.members import FOUR, PEERS, ROUNDS, Make, manifest, one_round, ringed

from p2pfl.gossip.events import Completed
from p2pfl.node.learner import Learner
from p2pfl.node.programme import most_mixing_rounds
from p2pfl.node.released import Released


def edges(learner: Learner, good: Released) -> dict[str, tuple[Released, Released]]:
    """For each bound, the last release within it and the first beyond."""
    size = learner._manifest.groups.size
    latest = good.round + 1 + most_mixing_rounds(size)
    start, last = good.training_start, good.training_start + ROUNDS - 1

    def vectors(field: str, stage: str) -> tuple[Released, Released]:
        encoding = learner._plan(stage).encoding
        most = 2.0 ** (encoding.ring.bits - 1 - encoding.fraction_bits)
        values = getattr(good, field).copy()
        inside, beyond = values.copy(), values.copy()
        inside[-1], beyond[-1] = -most, -np.nextafter(most, np.inf)
        return replace(good, **{field: inside}), replace(good, **{field: beyond})

    return {
        "the first training round": (replace(good, training_start=1), replace(good, training_start=0)),
        "mixing": (replace(good, training_start=latest), replace(good, training_start=latest + 1)),
        "the last round": (replace(good, round=last), replace(good, round=last + 1)),
        "statistics": vectors("statistics", "statistics"),
        "parameters": vectors("parameters", "training"),
        "far away": (
            replace(good, round=start + 1),
            replace(good, round=(1 << 39) + 1, training_start=1 << 39),
        ),
    }


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_only_what_this_federation_can_release_is_plausible(make: Make, bits: Literal[16, 32, 64]) -> None:
    learners = make(ringed("distributed", bits))
    for round in range(3):
        one_round(learners, round)
    good = learners[0].released
    assert good is not None
    learner = learners[1]
    for bound, (inside, beyond) in edges(learner, good).items():
        assert learner.plausible(inside, 1000), bound
        assert not learner.plausible(beyond, 1000), bound


def test_nobody_can_have_released_the_round_that_we_are_in(make: Make) -> None:
    learners = make(manifest())
    for round in range(3):
        one_round(learners, round)
    good = learners[0].released
    assert good is not None
    assert good.round == 2
    assert learners[1].plausible(good, 3)
    assert not learners[1].plausible(good, 2)
    assert learners[1].plausible(good, None)


@pytest.mark.parametrize("mode", ["distributed", "none"])
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_what_a_sum_can_decode_to_is_plausible(make: Make, mode: str, bits: Literal[16, 32, 64]) -> None:
    """A model that drifted, or statistics of the largest tables with all their noise, are still ours."""
    learner, *others = make(ringed(mode, bits, 64.0 if bits != 16 else 1.0))
    one_round([learner, *others], 0)
    ahead = learner.released
    assert ahead is not None
    learner.prepare(1)
    ring = learner._manifest.training.ring
    total = np.full(len(ahead.parameters), 2 ** (ring.bits - 1) - 1, ring.dtype)
    learner.completed(Completed(1, "training", total, PEERS[:1], PEERS, FOUR))
    assert learner.released is not None
    assert np.abs(learner.released.parameters).max() > learner._manifest.training.parameter_limit
    assert others[0].plausible(learner.released, 2)
