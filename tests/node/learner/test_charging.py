"""What a learner hands out: charged for first, noised, finite, once, and within the budget."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from learner.members import FOUR, IDENTITIES, PEERS, ROUNDS, Make, manifest, one_round, ringed

from p2pfl.crypto.ring import decode
from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.gossip.events import Completed, Contribute, Skipped
from p2pfl.gossip.manifest import (
    Column,
    TabularTask,
)
from p2pfl.node.privacy import calibrated, stage_plan
from p2pfl.node.storage.store import Store
from p2pfl.node.training.table import Table


@pytest.mark.parametrize("mode", ["distributed", "local", "organisation", "none"])
def test_what_is_charged_for_is_noised(make: Make, mode: str) -> None:
    learners = make(manifest(mode))
    noised, charged = {}, []
    for round in range(ROUNDS + 2):
        prepared = [learner.prepare(round) for learner in learners]
        added = [learner.contribute(Contribute(round, 0, PEERS, FOUR)) for learner in learners]
        assert prepared[0] is not None
        stage = prepared[0].stage
        plan, rows = learners[0]._plan(stage), [each[:] for each in added]
        total = np.add.reduce(rows, dtype=rows[0].dtype)
        assert {each.sigma for each in added} == {0.0 if mode == "none" else plan.sigma(FOUR)}
        noised[stage] = added[0].sigma > 0
        charged.append(len(learners[0]._store.mechanisms()))
        for learner in learners:
            learner.completed(Completed(round, stage, total, PEERS, PEERS, FOUR))
    own = mode == "local"  # every step of the training has noise of its own by then
    everything = mode != "none"
    assert noised == {"statistics": everything, "training": everything and not own, "evaluation": everything}
    assert charged == ([*range(1, ROUNDS + 3)] if everything else [0] * (ROUNDS + 2))


@pytest.mark.parametrize("mode", ["distributed", "local", "organisation", "none"])
def test_statistics_of_nothing_are_a_constant_and_free(make: Make, mode: str) -> None:
    """Without numeric columns the first round only says when training begins."""
    agreed = manifest(mode)
    column = Column("x", "categorical", levels=("0", "1"))
    privacy = agreed.privacy if mode == "none" else agreed.privacy.with_mode(mode)
    assert isinstance(agreed.task, TabularTask)
    agreed = calibrated(replace(agreed, task=replace(agreed.task, columns=(column,)), privacy=privacy))
    learners = make(agreed)
    for number, learner in enumerate(learners):
        size = 20 + number
        learner._trainer._train = Table(np.zeros((size, agreed.task.features)), np.zeros(size), 0)
        learner.warm_up()()
        monitored = learner._budget
        monitored.allows = lambda plan, releases=None: not plan.charged  # type: ignore[method-assign]
        prepared = learner.prepare(0)
        assert prepared is not None
        assert (prepared.dim, prepared.spent) == (1, False)
    assert one_round(learners, 0) == "statistics"
    for learner in learners:
        assert learner.released is not None
        assert learner.released.statistics == [1.0]
        assert learner._store.mechanisms() == []
        assert [charge.mechanism for charge in learner._store.charges()] == [None]


def test_the_ledger_is_charged_before_anything_is_handed_out(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make(manifest())[0]
    learner.prepare(0)

    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Store, "charge", full)
    with pytest.raises(OSError, match="disk full"):
        learner.contribute(Contribute(0, 0, PEERS, FOUR))
    with pytest.raises(LocalProtocolError):
        learner.contribute(Contribute(0, 0, PEERS, FOUR))


def test_what_is_not_finite_is_charged_to_nobody(make: Make) -> None:
    learner = make(manifest())[0]
    learner.prepare(0)
    assert learner._pending is not None
    learner._pending.values[1] = np.nan
    with pytest.raises(ValueError, match="value 1 of 3 is not finite"):
        learner.contribute(Contribute(0, 0, PEERS, FOUR))
    assert learner._store.mechanisms() == []


def test_parameters_beyond_the_limit_are_counted_and_said(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    learners = make(ringed("none", 32, 1e-3))
    one_round(learners, 0)
    assert not caplog.records
    for round in (1, 2):
        learners[0].prepare(round)
        learners[0].contribute(Contribute(round, 0, PEERS, FOUR))[:]
        learners[0].skipped(Skipped(round, "training", "too few survivors", True))
    learners[0].prepare(3)
    learners[0].skipped(Skipped(3, "training", "nobody came", False))
    assert [outcome.saturated for outcome in learners[0]._store.rounds()] == [0, 2, 2, 0]
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2
    assert said[0].startswith("round 1: 2 of our 2 parameters were beyond 0.001 and were cut")
    assert "a larger training.parameter_limit" in said[0]


def test_gradients_that_are_not_finite_are_counted_and_said(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    agreed = manifest("none")
    learner, *others = make(replace(agreed, training=replace(agreed.training, sampling_rate=1.0)))
    learner._trainer._train.labels[3:5] = np.nan
    for round in range(3):
        assert one_round([learner, *others], round)
    learner.prepare(3)
    learner.skipped(Skipped(3, "training", "nobody came", False))
    assert [outcome.left_out for outcome in learner._store.rounds()] == [0, 2, 2, 2]
    assert [outcome.left_out for outcome in others[0]._store.rounds()] == [0, 0, 0]
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 3
    assert said[0].startswith("round 1: 2 gradients of our records were not finite")


def test_one_preparation_is_one_contribution(make: Make) -> None:
    learner = make(manifest())[0]
    with pytest.raises(LocalProtocolError):
        learner.contribute(Contribute(0, 0, PEERS, FOUR))
    learner.prepare(0)
    learner.contribute(Contribute(0, 0, PEERS, FOUR))
    with pytest.raises(LocalProtocolError):
        learner.contribute(Contribute(0, 0, PEERS, FOUR))


def test_a_skipped_round_keeps_the_model_and_stays_charged(make: Make, tmp_path: Path) -> None:
    learners = make(manifest())
    one_round(learners, 0)
    learner = learners[0]
    before = learner.released
    learner.prepare(1)
    learner.contribute(Contribute(1, 0, PEERS, FOUR))
    learner.skipped(Skipped(1, "training", "too few survivors", True))
    assert learner.released is before
    with Store.open(tmp_path / "0", IDENTITIES[0], readonly=True) as store:
        assert store.last_contribution() == 1
        assert [mechanism.stage for mechanism in store.mechanisms()] == ["statistics", "training"]
        assert [(outcome.stage, outcome.completed) for outcome in store.rounds()] == [
            ("statistics", True),
            ("training", False),
        ]


def test_budget_spent_adds_no_training_but_still_its_noise(make: Make) -> None:
    agreed = manifest()
    learners = make(agreed)
    one_round(learners, 0)
    for round in range(1, 40):  # every round lost after masking: charged, and nothing learnt
        for learner in learners:
            learner.prepare(round if round <= ROUNDS else ROUNDS)
            learner.contribute(Contribute(round if round <= ROUNDS else ROUNDS, 0, PEERS, FOUR))
    for learner in learners:
        assert learner._budget.spent.pld <= agreed.privacy.epsilon
    released = learners[0].released
    assert released is not None
    learners[0].prepare(ROUNDS)
    assert learners[0]._pending is not None
    assert np.array_equal(learners[0]._pending.values, released.parameters)
    assert not learners[0]._pending.charged
    exact = learners[0]._plan("training").encoding
    row = learners[0].contribute(Contribute(ROUNDS, 0, PEERS, FOUR))[:]
    assert np.abs(row.view(np.int32) - np.round(np.ldexp(released.parameters, exact.fraction_bits))).max() > 1


def test_a_budget_spent_elsewhere_keeps_records_out_of_the_statistics(make: Make, tmp_path: Path) -> None:
    agreed = manifest()
    learner = make(agreed)[0]
    plan = stage_plan(agreed, "statistics", 3)
    assert plan.charged
    learner._budget.spend(replace(plan.mechanism(FOUR), noise_multiplier=0.3))
    prepared = learner.prepare(0)
    assert prepared is not None
    assert (prepared.stage, prepared.spent) == ("statistics", True)
    assert learner._pending is not None
    assert not learner._pending.values.any()
    learner.contribute(Contribute(0, 0, PEERS, FOUR))
    assert learner._store.mechanisms() == []


def test_a_spent_budget_is_told_and_nobody_counts_on_the_noise(make: Make) -> None:
    learners = make(manifest())
    one_round(learners, 0)
    for _ in range(40):
        learners[0].prepare(1)
        learners[0].contribute(Contribute(1, 0, PEERS, FOUR))
    told = [prepared.spent for learner in learners if (prepared := learner.prepare(1)) is not None]
    assert told == [True, False, False, False]
    plan = learners[1]._plan("training")
    contribution = learners[1].contribute(Contribute(1, 0, PEERS, FOUR, sum(told)))
    assert contribution.sigma == plan.sigma(FOUR, 1) == pytest.approx(math.sqrt(2) * plan.sigma(FOUR))
    last = learners[1]._store.charges()[-1]
    assert last.recipients == PEERS
    assert last.mechanism == plan.mechanism(FOUR, 1)


def test_records_stay_out_where_too_many_budgets_are_spent(make: Make) -> None:
    learner, *_ = learners = make(manifest())
    one_round(learners, 0)
    before = learner._store.mechanisms()
    learner.prepare(1)
    row = learner.contribute(Contribute(1, 0, PEERS, FOUR, 2))[:]
    assert learner._store.mechanisms() == before
    assert learner._store.charges()[-1].mechanism is None
    assert learner.released is not None
    plan = learner._plan("training")
    off = decode(row, plan.encoding) - learner.released.parameters
    assert 0 < np.abs(off).max() < 6 * plan.sigma(FOUR) * 2.0**-plan.encoding.fraction_bits


def test_killed_after_charging_it_never_takes_part_in_that_round_again(make: Make) -> None:
    agreed = manifest()
    learners = make(agreed)
    one_round(learners, 0)
    learners[0].prepare(1)
    learners[0].contribute(Contribute(1, 0, PEERS, FOUR))
    again = make(agreed)
    assert again[0].released is not None
    assert again[0].released.round == 0
    assert [learner.next_round for learner in again] == [2, 1, 1, 1]
