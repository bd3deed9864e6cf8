"""A daemon's learner goes on from its ledger, and nobody can foresee what it draws."""

from pathlib import Path

import numpy as np
import pytest
from learner.members import FOUR, IDENTITIES, PEERS, manifest, table

from p2pfl.gossip.events import Contribute
from p2pfl.node.accountant import epsilon
from p2pfl.node.learner import Learner
from p2pfl.node.own_learner import learner_of, trainer_of
from p2pfl.node.privacy import stage_plan
from p2pfl.node.start import Records
from p2pfl.node.storage.store import Store
from p2pfl.node.training.trainer import Trainer

RECORDS = Records(table(0), table(10), None)


def trainer(mode: str, directory: Path) -> Trainer:
    return trainer_of(manifest(mode), RECORDS, directory)


def learner(directory: Path) -> Learner:
    made, _ = learner_of(manifest(), trainer("distributed", directory), Store.open(directory, IDENTITIES[0]))
    return made


def test_what_was_paid_before_a_restart_counts_after_it(tmp_path: Path) -> None:
    agreed = manifest()
    plan = stage_plan(agreed, "training", trainer("distributed", tmp_path).dimension("training"))
    with Store.open(tmp_path, IDENTITIES[0]) as store:
        for round in range(3):
            store.charge(round, plan.mechanism(FOUR), PEERS)
    with Store.open(tmp_path, IDENTITIES[0]) as store:
        _, budget = learner_of(agreed, trainer("distributed", tmp_path), store)
        assert budget.spent == epsilon([plan.mechanism(FOUR)] * 3, agreed.privacy.delta)


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_samples_and_the_noise_of_steps_are_drawn_anew(tmp_path: Path, mode: str) -> None:
    own = trainer(mode, tmp_path)
    statistics = own.statistics()
    start = own.initial_parameters(statistics)
    assert not np.array_equal(own.contribution(start, statistics), own.contribution(start, statistics))


def test_the_noise_of_a_sum_is_drawn_anew(tmp_path: Path) -> None:
    sent = []
    for name in ("one", "another"):
        made = learner(tmp_path / name)
        made.prepare(0)
        sent.append(made.contribute(Contribute(0, 0, PEERS, FOUR))[:])
    assert not np.array_equal(sent[0], sent[1])
