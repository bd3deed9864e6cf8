"""Partitions deal every record once, and as unevenly as they say."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfl.simulation.partitions import PartitionError, Positions, by_value, dirichlet, iid, shards

LABELS = np.arange(400) % 10


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(nodes=st.integers(1, 20), seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_every_record_is_dealt_once(nodes: int, seed: int) -> None:
    for parts in (
        iid(400, nodes, rng(seed)),
        dirichlet(LABELS, nodes, 1.0, rng(seed)),
        shards(LABELS, nodes, 2, rng(seed)),
        by_value(LABELS.tolist()),
    ):
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(400))
        assert all(len(part) for part in parts)


def classes_held(parts: list[np.ndarray]) -> float:
    return float(np.mean([len(np.unique(LABELS[part])) for part in parts]))


def test_alpha_says_how_uneven() -> None:
    few, many = dirichlet(LABELS, 10, 0.05, rng()), dirichlet(LABELS, 10, 1e4, rng())
    assert classes_held(few) < 4
    assert classes_held(many) == 10
    assert {len(part) for part in many} <= set(range(35, 46))


def test_a_node_with_two_shards_sees_two_classes_or_four_at_most() -> None:
    parts = shards(LABELS, 20, 2, rng())
    assert {len(part) for part in parts} == {20}
    assert max(len(np.unique(LABELS[part])) for part in parts) <= 4
    assert classes_held(parts) <= 2.5


def test_iid_parts_differ_by_one_record_at_most() -> None:
    assert {len(part) for part in iid(401, 20, rng())} == {20, 21}


def test_a_node_for_each_value() -> None:
    assert [part.tolist() for part in by_value(["b", "a", "b"])] == [[1], [0, 2]]


@pytest.mark.parametrize(
    ("deal", "reason"),
    [
        (lambda: iid(3, 4, rng()), "3 records are too few, 4 are needed"),
        (lambda: dirichlet(LABELS, 4, 0.0, rng()), "alpha must be above 0"),
        (lambda: dirichlet(LABELS, 100, 0.01, rng()), "100 nodes do not all get 1 of 400"),
        (lambda: shards(LABELS, 4, 0, rng()), "a node needs a shard"),
        (lambda: by_value(list("abc"), 2), "the column has 3 values"),
    ],
)
def test_what_cannot_be_dealt_is_refused(deal: Callable[[], object], reason: str) -> None:
    with pytest.raises(PartitionError, match=reason):
        deal()


def test_the_same_seed_deals_the_same() -> None:
    ways: list[Callable[[int], list[Positions]]] = [
        lambda seed: iid(400, 7, rng(seed)),
        lambda seed: dirichlet(LABELS, 7, 0.5, rng(seed)),
    ]
    for deal in ways:
        one, same, other = deal(1), deal(1), deal(2)
        assert all(np.array_equal(*pair) for pair in zip(one, same, strict=True))
        assert not all(np.array_equal(*pair) for pair in zip(one, other, strict=True))
