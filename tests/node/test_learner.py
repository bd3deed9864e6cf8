"""Four learners in one process, their sums taken by the vectorised oracle: the programme from nothing to an
evaluation.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.crypto.ring import decode
from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.gossip.events import Completed, Contribute, Skipped
from p2pfl.gossip.manifest import (
    Column,
    DenseModel,
    GroupSpec,
    Manifest,
    PrivacySpec,
    TabularTask,
    TimingSpec,
    TrainingSpec,
)
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.learner import Learner
from p2pfl.node.privacy import Budget, calibrated, stage_plan
from p2pfl.node.programme import EVALUATION_TRIES, mixing_rounds, most_mixing_rounds
from p2pfl.node.released import Released
from p2pfl.node.storage.store import Store
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer

ROUNDS = 6
IDENTITIES = [Identity.from_seed(bytes([number + 1]) * 32) for number in range(4)]
PEERS = tuple(identity.peer_id for identity in IDENTITIES)
FOUR = thresholds(4, 1)


@cache
def manifest(mode: str = "distributed") -> Manifest:
    private = {"epsilon": 4.0, "delta": 1e-4} if mode != "none" else {}
    return calibrated(
        Manifest(
            name="test",
            issuers=PEERS[:1],
            members=(),
            task=TabularTask("tabular", "y", ("1",), (Column("x", "numeric", -3.0, 3.0),)),
            model=DenseModel("logistic"),
            training=TrainingSpec(ROUNDS, 1.0, 0.5, 100.0),
            privacy=PrivacySpec(mode, **private),  # type: ignore[arg-type]
            groups=GroupSpec(),
            timing=TimingSpec(),
        )
    )


def ringed(mode: str, bits: Literal[16, 32, 64], limit: float = 1.0) -> Manifest:
    agreed = manifest(mode)
    return replace(agreed, training=replace(agreed.training, ring_bits=bits, parameter_limit=limit))


def table(seed: int, count: int = 200) -> Table:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 1))
    return Table(x, (x[:, 0] + 0.3 * rng.normal(size=count) > 0).astype(np.float64), 0)


Make = Callable[[Manifest], list[Learner]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def learners(agreed: Manifest) -> list[Learner]:
        made = []
        for number, identity in enumerate(IDENTITIES):
            random = seeded_random(bytes([number]) * 32)
            store = Store.open(tmp_path / str(number), identity)
            trainer = Trainer(agreed, table(number), table(number + 10), random)
            made.append(Learner(agreed, trainer, store, Budget(agreed.privacy, store.mechanisms()), random))
        return made

    return learners


def one_round(learners: list[Learner], round: int) -> str | None:
    """A round that completes at everybody; the stage that it was."""
    prepared = [learner.prepare(round) for learner in learners]
    if prepared[0] is None:
        assert prepared == [None] * len(learners)
        return None
    stages = {each.stage for each in prepared if each is not None}
    assert len(stages) == 1
    stage = stages.pop()
    rows = [learner.contribute(Contribute(round, 0, PEERS, FOUR))[:] for learner in learners]
    total = np.add.reduce(rows, dtype=rows[0].dtype)
    for learner in learners:
        learner.completed(Completed(round, stage, total, PEERS, PEERS, FOUR))
    return stage


@pytest.mark.parametrize("mode", ["distributed", "local", "none"])
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_the_whole_programme(make: Make, mode: str, bits: Literal[16, 32, 64]) -> None:
    learners = make(ringed(mode, bits))
    stages = [one_round(learners, round) for round in range(ROUNDS + 3)]
    assert stages == ["statistics", *["training"] * ROUNDS, "evaluation", None]
    assert len({learner.released.digest for learner in learners if learner.released}) == 1
    evaluation = learners[0].federation_evaluation
    assert evaluation is not None
    assert evaluation.total == pytest.approx(800, abs=60 if mode != "none" else 0.01)
    own = learners[0].own_evaluation()
    assert own is not None
    assert own.accuracy > 0.85


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


def test_restarted_from_its_directory_it_goes_on_where_it_was(make: Make) -> None:
    agreed = manifest()
    learners = make(agreed)
    for round in range(4):
        one_round(learners, round)
    again = make(agreed)
    assert again[0].released is not None
    assert again[0].next_round == 4
    assert again[0].released.digest == learners[0].released.digest  # type: ignore[union-attr]
    assert [one_round(again, round) for round in range(4, ROUNDS + 2)] == ["training"] * 3 + ["evaluation"]


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


def test_mixing_only_where_one_group_is_too_small() -> None:
    assert mixing_rounds(4, 4) == 0
    assert mixing_rounds(7, 4) == 0
    assert mixing_rounds(8, 4) > 0
    assert mixing_rounds(100, 4) <= 25


def test_statistics_are_mixed_until_training_starts(make: Make) -> None:
    learners = make(manifest())
    for learner in learners:
        learner.population = 8
    stages = [one_round(learners, round) for round in range(1 + mixing_rounds(8, 4) + 1)]
    assert stages == ["statistics", *["mixing"] * mixing_rounds(8, 4), "training"]


def test_behind_and_adopt(make: Make) -> None:
    learners = make(manifest())
    assert not learners[0].behind(0)
    assert learners[0].behind(3)
    for round in range(3):
        one_round(learners[1:], round)
    newer = learners[1].released
    assert newer is not None
    learners[0].adopt(newer)
    assert learners[0].released is newer
    assert not learners[0].behind(3)
    learners[0].adopt(replace(newer, round=1))
    assert learners[0].released is newer


def test_who_lost_its_model_takes_over_that_of_the_others(make: Make) -> None:
    agreed = manifest()
    learners = make(agreed)
    for round in range(3):
        one_round(learners, round)
    path = learners[0]._store.model_path
    assert path is not None
    charges = learners[0]._store.charges()
    path.unlink()
    learners = make(agreed)
    assert learners[0].released is None
    assert learners[0].behind(3)
    assert learners[0].next_round == 3
    newest = learners[1].released
    assert newest is not None
    learners[0].adopt(newest)
    assert learners[0]._store.charges() == charges
    assert one_round(learners, 3) == "training"
    assert len({learner.released.digest for learner in learners if learner.released}) == 1
    assert path.with_name("model-00000003.safetensors").is_file()


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


@given(st.integers(1, 100_000), st.integers(3, 16))
def test_mixing_is_bounded_for_every_population(population: int, size: int) -> None:
    assert 0 <= mixing_rounds(population, size) <= most_mixing_rounds(size) < 20


def test_with_a_dropped_member_the_mean_is_over_the_survivors(make: Make) -> None:
    learners = make(manifest("none"))
    for stage in ("statistics", "training"):
        round = 0 if stage == "statistics" else 1
        for learner in learners:
            learner.prepare(round)
        rows = [learner.contribute(Contribute(round, 0, PEERS, FOUR))[:] for learner in learners[:3]]
        total: NDArray[np.uint32] = np.sum(rows, axis=0, dtype=np.uint32)
        mean = decode(total, learners[0]._plan(stage).encoding) / 3
        for learner in learners:  # the one that was dropped learns the same sum
            learner.completed(Completed(round, stage, total, PEERS[:3], PEERS, FOUR))
            assert learner.released is not None
            values = learner.released.statistics if round == 0 else learner.released.parameters
            assert np.array_equal(values, mean)
    assert learners[0].released is not None
    assert learners[0].released.statistics[0] == 200  # records of one member


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


@pytest.mark.parametrize("mode", ["distributed", "none"])
def test_who_has_evaluated_is_done_after_a_restart_and_charges_nothing_more(make: Make, mode: str) -> None:
    agreed = manifest(mode)
    learners = make(agreed)
    for round in range(ROUNDS + 1):
        one_round(learners, round)
        assert not learners[0].done
    assert not make(agreed)[0].done
    learners = make(agreed)
    assert one_round(learners, ROUNDS + 1) == "evaluation"
    evaluation = learners[0].federation_evaluation
    assert evaluation is not None
    again = make(agreed)
    assert again[0].done
    assert again[0].federation_evaluation == evaluation
    assert again[0].next_round == ROUNDS + 2
    assert again[0].prepare(again[0].next_round) is None
    assert len(again[0]._store.mechanisms()) == (ROUNDS + 2 if mode != "none" else 0)


def test_who_may_evaluate_no_more_is_done_after_a_restart(make: Make) -> None:
    agreed = manifest("none")
    learners = make(agreed)
    for round in range(ROUNDS + 1):
        one_round(learners, round)
    for round in range(ROUNDS + 1, ROUNDS + 1 + EVALUATION_TRIES):
        assert not learners[0].done
        learners[0].prepare(round)
        learners[0].contribute(Contribute(round, 0, PEERS, FOUR))
        learners[0].skipped(Skipped(round, "evaluation", "too few survivors", True))
    assert make(agreed)[0].done


# -- momentum
def least_squares(momentum: float, mode: str = "none") -> Manifest:
    """A quadratic: every record enters every step, and nothing is noised."""
    agreed = manifest(mode)
    column = Column("x", "numeric", -3.0, 3.0)
    training = TrainingSpec(ROUNDS, 0.3, 1.0, 200.0, momentum=momentum, ring_bits=64)
    task = TabularTask("tabular", "y", columns=(column,), low=-1.0, high=1.0)
    return replace(agreed, task=task, model=DenseModel("linear"), training=training)


def released_parameters(learners: list[Learner]) -> list[NDArray[np.float64]]:
    """Of every training round."""
    found = []
    for round in range(ROUNDS + 1):
        one_round(learners, round)
        assert learners[0].released is not None
        found.append(learners[0].released.parameters)
    return found


def test_without_momentum_nothing_changes(make: Make, tmp_path: Path) -> None:
    plain = manifest("none")
    without = replace(plain, training=replace(plain.training, momentum=0.0))
    first = released_parameters(make(plain))[-1]
    for number in range(len(IDENTITIES)):
        (tmp_path / str(number)).rename(tmp_path / f"plain {number}")
    assert released_parameters(make(without))[-1].tobytes() == first.tobytes()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_momentum_on_a_quadratic_is_heavy_ball(make: Make, momentum: float) -> None:
    """x ← x - lr · gradient + β (x - the one before), of the mean of the members' losses."""
    learners = make(least_squares(momentum))
    found = released_parameters(learners)
    statistics = learners[0].released.statistics  # type: ignore[union-attr]
    inputs = [np.column_stack([each._trainer._train_inputs(statistics, np.ones(200, bool)), np.ones(200)])
              for each in learners]  # fmt: skip
    labels = [each._trainer._train.labels for each in learners]
    hessian = sum(one.T @ one for one in inputs) / 800
    slope = sum(one.T @ wanted for one, wanted in zip(inputs, labels, strict=True)) / 800
    before = last = np.zeros(2)
    for parameters in found[1:]:
        before, last = last, last - 0.3 * (hessian @ last - slope) + momentum * (last - before)
        assert parameters == pytest.approx(last, abs=1e-9)
    assert np.linalg.norm(last) > 0.1


@pytest.mark.parametrize("mode", ["distributed", "local", "organisation"])
def test_momentum_is_added_to_what_is_clipped_and_noised(make: Make, mode: str) -> None:
    """Whoever trains nothing contributes the same momentum: it is of what was released, and costs nothing."""
    agreed = manifest(mode)
    agreed = replace(agreed, training=replace(agreed.training, momentum=0.9, sampling_rate=1e-9))
    learner, *others = make(agreed)
    for round in range(3):
        one_round([learner, *others], round)
    assert learner.released is not None
    way = learner.released.parameters - learner.recent[1].parameters
    learner.prepare(3)
    assert learner._pending is not None
    pending = learner._pending
    off = pending.values - learner.released.parameters - 0.9 * way
    if mode != "local":
        assert np.abs(off).max() < 1e-12
    assert np.abs(way).max() > 0
    spent = learner._without_records(pending, 2).values
    assert spent == pytest.approx(learner.released.parameters + 0.9 * way)


def test_who_was_away_adds_no_momentum(make: Make) -> None:
    agreed = replace(manifest("none"), training=replace(manifest("none").training, momentum=0.9))
    learner, *others = make(agreed)
    for round in range(3):
        one_round([learner, *others], round)
    assert learner.released is not None
    still = learner.released.parameters
    assert not np.array_equal(learner._with_momentum(still), still)
    [again, *_] = make(agreed)
    assert np.array_equal(again._with_momentum(still), still)
    learner.adopt(replace(learner.released, round=5))
    assert np.array_equal(learner._with_momentum(still), still)


def test_a_federation_with_momentum_learns(make: Make) -> None:
    agreed = manifest()
    slow = replace(agreed.training, learning_rate=0.2, momentum=0.8)
    learners = make(replace(agreed, training=slow))
    for round in range(ROUNDS + 2):
        one_round(learners, round)
    own = learners[0].own_evaluation()
    assert own is not None
    assert own.accuracy > 0.85
