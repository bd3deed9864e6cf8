"""What every round is for: the formulas against a programme that is written down round by round."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import EvaluationSpec, Manifest, from_toml
from p2pfl.node.programme import (
    END_ABOVE,
    EVALUATION_TRIES,
    Programme,
    in_programme,
    mixing_rounds,
    most_mixing_rounds,
    stage_of,
    vote_rounds,
    voted_to_end,
)
from p2pfl.node.released import Place
from p2pfl.topologies.schedule import groups


def manifest(rounds: int = 10, every: int = 3, target: float = 0.9) -> Manifest:
    draft = from_toml(
        f"""
        name = "hearts"
        issuers = ["{Identity.from_seed(bytes(32)).peer_id}"]
        task.label = "y"
        task.positive = ["1"]
        task.columns = [{{ name = "x", kind = "numeric", low = 0, high = 1 }}]
        model.kind = "logistic"
        training = {{ rounds = {rounds}, learning_rate = 0.5, sampling_rate = 0.25, expected_batch = 40 }}
        privacy = {{ mode = "none" }}
        """
    )
    ends = {"metric": "accuracy", "target": target} if target else {}
    return replace(draft, evaluation=EvaluationSpec(every, **ends))  # type: ignore[arg-type]


def at(round: int, votes: float = 0.0, start: int = 1, length: int = 1) -> Place:
    return Place(round, start, length, votes)


def written_out(start: int, rounds: int, every: int, vote: int) -> Iterator[str]:
    """The stages from round 0 on, one after the other."""
    yield from ["mixing"] * start
    for number in range(1, rounds + 1):
        yield "training"
        if number < rounds and number % every == 0:
            yield from ["evaluation", *["vote"] * vote]
    yield from ["evaluation"] * EVALUATION_TRIES


@pytest.mark.parametrize("vote", [0, 1, 3])
@pytest.mark.parametrize("start", [1, 4])
def test_every_round_of_every_small_programme(start: int, vote: int) -> None:
    for rounds, every in product(range(1, 10), range(1, 10)):
        programme = Programme(start, rounds, min(every, rounds), vote)
        stages = list(written_out(start, rounds, every, vote))
        assert [programme.stage(round) for round in range(len(stages) + 2)] == [*stages, None, None]
        trained = [round for round, stage in enumerate(stages) if stage == "training"]
        assert programme.last_training == trained[-1]
        for round in range(start + 1, len(stages) + 3):
            before = [number for number, stage in enumerate(stages[:round]) if stage != "evaluation"]
            assert programme.last_release(round) == before[-1]
            assert programme.training_before(round) == sum(number < round for number in trained)
        for round, stage in enumerate(stages):
            if stage == "vote":
                first, last = programme.first_of_vote(round), programme.last_of_vote(round)
                assert first <= round <= last
                assert stages[first - 1 : last + 1] == ["evaluation", *["vote"] * vote]


def test_nothing_is_interleaved_unless_the_manifest_asks() -> None:
    agreed = manifest(rounds=4, every=0, target=0)
    stages = [stage_of(agreed, at(0, length=0), round) for round in range(1, 9)]
    assert stages == ["training"] * 4 + ["evaluation"] * 3 + [None]
    assert stage_of(agreed, None, 7) == "statistics"
    assert vote_rounds(agreed, 100) == 0


def test_above_the_threshold_the_vote_was_the_end() -> None:
    agreed = manifest()  # rounds 1 to 3, evaluation in 4, vote in 5
    more, less = np.nextafter(END_ABOVE, 1), END_ABOVE
    assert voted_to_end(agreed, at(5, more))
    assert stage_of(agreed, at(5, more), 6) is None
    assert not voted_to_end(agreed, at(5, less))
    assert stage_of(agreed, at(5, less), 6) == "training"
    assert not voted_to_end(agreed, at(6, 1.0))


def test_before_its_last_round_a_vote_is_not_over() -> None:
    agreed = manifest()
    last = 4 + 1 + most_mixing_rounds(4)
    for round in range(5, last + 1):
        assert stage_of(agreed, at(5, 1.0, length=last - 4), round) == "vote"
    assert stage_of(agreed, at(5, 1.0, length=last - 4), last + 1) is None


@given(st.integers(1, 256))
def test_no_share_of_votes_is_near_the_threshold(members: int) -> None:
    shares = np.arange(members + 1) / members
    assert np.abs(shares - END_ABOVE).min() > 0.9e-3
    assert ((shares > END_ABOVE) == (2 * np.arange(members + 1) > members)).all()


@pytest.mark.parametrize("members", [8, 16, 33, 256])
def test_groups_that_average_their_votes_all_come_to_the_same_end(members: int) -> None:
    """In the groups of the schedule, with one vote more or less than half."""
    graph = nx.complete_graph([str(number) for number in range(members)])
    rounds = vote_rounds(manifest(), members)
    assert rounds == 1 + most_mixing_rounds(4) > mixing_rounds(members, 4)
    for seed, stop in product(range(3), (members // 2, members // 2 + 1)):
        votes = np.random.default_rng(seed).permutation(np.arange(members) < stop).astype(np.float64)
        for round in range(rounds):
            for group in groups(graph, 4, 3, bytes([seed]) * 32, round):
                inside = [int(member) for member in group]
                votes[inside] = votes[inside].mean()
        assert ((votes > END_ABOVE) == (2 * stop > members)).all()


@pytest.mark.parametrize(
    ("state", "possible"),
    [
        (at(5, 0.75), True),
        (at(5, 1.0), True),
        (at(5, 1.1), False),
        (at(5, -0.1), False),
        (at(3, 0.0), True),
        (at(3, 0.5), False),  # votes in a round of training
        (at(4), False),  # evaluations release no model
        (at(5, 0.5, length=2), False),
        (at(5, 0.5, length=1 + most_mixing_rounds(4)), True),
        (at(5, 0.0, length=0), False),
        (at(5, 0.0, length=1 << 39), False),
        (at(0), True),  # of the statistics
    ],
)
def test_what_a_federation_can_have_come_to(state: Place, possible: bool) -> None:
    assert in_programme(manifest(), state) is possible


@given(st.integers(1, 100_000), st.integers(3, 16))
def test_mixing_is_bounded_for_every_population(population: int, size: int) -> None:
    assert 0 <= mixing_rounds(population, size) <= most_mixing_rounds(size) < 20
