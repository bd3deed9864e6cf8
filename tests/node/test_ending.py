"""How a federation ends before its last round: evaluations between stretches of training, votes, and members
that miss some of it.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from learner.members import FOUR, IDENTITIES, PEERS, manifest, one_round, table

from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.events import Completed, Contribute, Skipped
from p2pfl.gossip.manifest import EvaluationSpec, Manifest, PrivacySpec
from p2pfl.node.accountant import epsilon
from p2pfl.node.evaluations import why_over
from p2pfl.node.learner import Learner
from p2pfl.node.outlook import planned_mechanisms
from p2pfl.node.privacy import Budget
from p2pfl.node.programme import vote_rounds
from p2pfl.node.storage.store import Store
from p2pfl.node.training.trainer import Trainer

NEVER, AT_ONCE = 1.0, 1e-6
STRETCH = ["training", "training", "evaluation", "vote"]


def ending(target: float, **more: int) -> Manifest:
    """Six training rounds, an evaluation after every two."""
    spec = EvaluationSpec(2, metric="accuracy", target=target, **more)
    return replace(manifest("none"), evaluation=spec)


def private(target: float, metric: str = "accuracy") -> Manifest:
    """The same in mode distributed, with room for five evaluations: one too many for the programme."""
    privacy = PrivacySpec("distributed", 2.0, 1e-4, 1.0, 9.0, 9.0, 4.3)
    spec = EvaluationSpec(2, metric=metric, target=target)
    return replace(manifest("none"), privacy=privacy, evaluation=spec)


def members(directory: Path, agreed: Manifest) -> list[Learner]:
    made = []
    for number, identity in enumerate(IDENTITIES):
        random = seeded_random(bytes([number]) * 32)
        store = Store.open(directory / str(number), identity)
        trainer = Trainer(agreed, table(number), table(number + 10), random)
        made.append(Learner(agreed, trainer, store, Budget(agreed.privacy, store.mechanisms()), random))
    return made


def lost(learners: list[Learner], round: int) -> None:
    """A round that completes at nobody, after everybody has sent its vector."""
    for learner in learners:
        prepared = learner.prepare(round)
        assert prepared is not None
        learner.contribute(Contribute(round, 0, PEERS, FOUR))
        learner.skipped(Skipped(round, prepared.stage, "too few survivors", True))


def digests(learners: list[Learner]) -> set[bytes]:
    return {learner.released.digest for learner in learners if learner.released is not None}


# -- the programme
@pytest.mark.parametrize("mode", ["distributed", "none"])
def test_without_a_majority_it_goes_on_to_its_last_round(tmp_path: Path, mode: str) -> None:
    agreed = ending(NEVER) if mode == "none" else private(1e-9, "mean_loss")
    learners = members(tmp_path, agreed)
    stages = [one_round(learners, round) for round in range(13)]
    last = ["training", "training", "evaluation", None]
    assert stages == ["statistics", *STRETCH, *STRETCH, *last]
    assert len(learners[0].evaluations) == 3
    assert len(digests(learners)) == 1
    assert learners[0].done
    store = learners[0]._store
    assert why_over(agreed, store.place, store.rounds()) == "all 6 training rounds are over"
    if mode != "none":  # all that it cost was planned for, and a vote costs nothing
        charged = learners[0]._store.mechanisms()
        assert [entry.subject for entry in charged if entry.stage == "evaluation"] == ["test"] * 3
        assert {entry.stage for entry in charged} == {"statistics", "training", "evaluation"}
        test = [entry for entry in charged if entry.subject == "test"]
        planned = planned_mechanisms(agreed)
        assert sum(entry.count for entry in planned if entry.subject == "test") == len(test) + 1
        assert epsilon(test, 1e-4).pld < epsilon(planned, 1e-4).pld <= agreed.privacy.epsilon


def test_a_majority_ends_it_for_all_at_once(tmp_path: Path) -> None:
    agreed = ending(AT_ONCE)
    learners = members(tmp_path, agreed)
    stages = [one_round(learners, round) for round in range(6)]
    assert stages == ["statistics", *STRETCH, None]
    assert all(learner.done and learner.trained for learner in learners)
    released = learners[0].released
    assert released is not None
    assert (released.round, released.votes) == (4, 1.0)
    why = why_over(agreed, released.place, learners[0]._store.rounds())
    assert why == "100% of the members voted to end after 2 training rounds; accuracy has reached 1e-06"
    again = members(tmp_path, agreed)
    assert all(learner.done for learner in again)
    assert digests(again) == digests(learners)


def test_a_training_round_after_a_vote_holds_no_votes(tmp_path: Path) -> None:
    learners = members(tmp_path, ending(NEVER))
    learners[0].evaluations = []
    for round in range(5):
        one_round(learners, round)
    one_round(learners, 5)
    assert learners[0].released is not None
    assert learners[0].released.votes == 0


def test_momentum_goes_on_over_a_vote(tmp_path: Path) -> None:
    agreed = ending(NEVER)
    learners = members(tmp_path, replace(agreed, training=replace(agreed.training, momentum=0.5)))
    for round in range(5):
        one_round(learners, round)
    still = learners[0].released.parameters  # type: ignore[union-attr]
    assert not np.array_equal(learners[0]._with_momentum(still), still)


# -- who votes what
@pytest.mark.parametrize(("blind", "ended"), [(1, True), (2, False)])
def test_who_missed_the_evaluation_votes_to_go_on(tmp_path: Path, blind: int, ended: bool) -> None:
    """Half is no majority."""
    learners = members(tmp_path, ending(AT_ONCE))
    for round in range(4):
        one_round(learners, round)
    for learner in learners[:blind]:
        learner.evaluations = []
    assert one_round(learners, 4) == "vote"
    assert one_round(learners, 5) == (None if ended else "training")


def test_an_evaluation_of_too_few_records_decides_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agreed = ending(AT_ONCE, least_records=801)
    learners = members(tmp_path, agreed)
    with caplog.at_level(logging.WARNING):
        stages = [one_round(learners, round) for round in range(12)]
    assert stages == ["statistics", *STRETCH, *STRETCH, "training", "training", "evaluation"]
    assert learners[0].federation_evaluation is None
    assert [one.evaluation for one in learners[0].evaluations] == [None] * 3
    assert learners[0]._store.rounds()[3].evaluation is None
    assert "round 3: the evaluation does not count" in caplog.text
    assert one_round(learners, 12) is None
    assert learners[0].done
    enough = members(tmp_path / "enough", ending(AT_ONCE, least_records=800))
    assert [one_round(enough, round) for round in range(6)][-1] is None


def test_an_evaluation_that_nothing_hides_decides_nothing(tmp_path: Path) -> None:
    learners = members(tmp_path, private(AT_ONCE))
    for round in range(3):
        one_round(learners, round)
    learners[0].prepare(3)
    row = learners[0].contribute(Contribute(3, 0, PEERS, FOUR, 2))[:]
    learners[0].completed(Completed(3, "evaluation", row, PEERS, PEERS, FOUR))
    assert learners[0].evaluations[-1].evaluation is None


def test_who_may_evaluate_no_more_adds_zeros_and_goes_on(tmp_path: Path) -> None:
    learner = members(tmp_path, private(NEVER))[0]
    assert learner.released is None
    others = members(tmp_path / "others", private(NEVER))
    for round in range(3):
        one_round(others, round)
    assert others[0].released is not None
    learner.adopt(others[0].released)
    for _ in range(20):
        learner.prepare(3)
        learner.contribute(Contribute(3, 0, PEERS, FOUR))
    prepared = learner.prepare(3)
    assert prepared is not None
    assert prepared.spent
    assert learner._pending is not None
    assert not learner._pending.values.any()


# -- what may be lost
def test_a_vote_that_failed_is_not_repeated(tmp_path: Path) -> None:
    learners = members(tmp_path, ending(AT_ONCE))
    for round in range(4):
        one_round(learners, round)
    lost(learners, 4)
    assert not any(learner.done for learner in learners)
    stages = [one_round(learners, round) for round in range(5, 10)]
    assert stages == [*STRETCH, None]


def test_an_evaluation_that_failed_decides_nothing(tmp_path: Path) -> None:
    learners = members(tmp_path, ending(AT_ONCE))
    for round in range(3):
        one_round(learners, round)
    lost(learners, 3)
    assert [one_round(learners, round) for round in (4, 5)] == ["vote", "training"]


@pytest.mark.parametrize("ended", [True, False])
def test_who_missed_the_vote_takes_it_over_as_a_release(tmp_path: Path, ended: bool) -> None:
    learner, *others = members(tmp_path, ending(AT_ONCE if ended else NEVER))
    for round in range(4):
        one_round([learner, *others], round)
    if not ended:
        for other in others:
            other.evaluations = []
    assert one_round(others, 4) == "vote"
    assert not learner.behind(4)
    assert learner.behind(5)
    newest = others[0].released
    assert newest is not None
    assert learner.plausible(newest, 5)
    learner.adopt(newest)
    assert not learner.behind(5)
    assert (learner.prepare(5) is None) is ended
    assert learner.trained is ended


def test_nobody_is_behind_because_of_an_evaluation(tmp_path: Path) -> None:
    learners = members(tmp_path, ending(NEVER))
    for round in range(12):
        assert not learners[0].behind(round)
        one_round(learners, round)


def test_a_member_that_was_away_when_it_ended_needs_nothing_but_the_last_release(tmp_path: Path) -> None:
    agreed = ending(AT_ONCE)
    away, *others = members(tmp_path, agreed)
    for round in range(5):
        one_round(others, round)
    newest = others[0].released
    assert newest is not None
    assert away.plausible(newest, None)
    away.adopt(newest)
    assert away.trained
    assert away.done
    assert members(tmp_path, agreed)[0].done


# -- several groups
def test_several_groups_average_their_votes_before_they_compare(tmp_path: Path) -> None:
    agreed = ending(AT_ONCE)
    learners = members(tmp_path, agreed)
    for learner in learners:
        learner.population = 8
    length = vote_rounds(agreed, 8)
    start = 0
    while one_round(learners, start) in ("statistics", "mixing"):
        start += 1
    assert learners[0].released is not None
    assert learners[0].released.vote_rounds == length > 1
    first = start + 3
    for round in range(start + 1, first):
        one_round(learners, round)
    learners[0].skipped(Skipped(first, "vote", "too few", False))  # it mixes its own vote from the next on
    one_round(learners[1:], first)
    for round in range(first + 1, first + length):
        assert one_round(learners, round) == "vote"
        # The other three have divided their sum by four.
        assert learners[0].released.votes == pytest.approx((1 + 3 * 0.75) / 4)
    assert one_round(learners, first + length) is None


def test_a_federation_that_has_outgrown_one_group_goes_on(tmp_path: Path) -> None:
    """Every group would decide by itself."""
    learners = members(tmp_path, ending(AT_ONCE))
    for round in range(4):
        one_round(learners, round)
    for learner in learners:
        learner.population = 8
    assert [one_round(learners, round) for round in (4, 5)] == ["vote", "training"]
