"""Four learners in one process: the programme from nothing to an evaluation, with restarts and absences."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from learner.members import FOUR, PEERS, ROUNDS, Make, manifest, one_round, ringed
from numpy.typing import NDArray

from p2pfl.crypto.ring import decode
from p2pfl.gossip.events import Completed, Contribute, Skipped
from p2pfl.node.programme import EVALUATION_TRIES, mixing_rounds, most_mixing_rounds


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
