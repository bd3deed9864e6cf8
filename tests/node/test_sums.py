"""Blocks in which clipped gradients are added up: what rounding may come to, and that they are kept to."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.node.training.clipping.parameters import Slot
from p2pfl.node.training.clipping.sums import FEW, MOST, Sum, block, even
from p2pfl.node.training.clipping.terms import Explicit, Outer, Product, Scattered, Term, Turned


@given(st.integers(0, 2000), st.integers(1, 600))
def test_blocks_are_even_few_and_all(records: int, most: int) -> None:
    parts = list(even(records, most))
    assert [at for part in parts for at in range(part.start, part.stop)] == list(range(records))
    sizes = [part.stop - part.start for part in parts]
    assert len(sizes) == -(-records // most)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


@given(st.lists(st.integers(1, 200), max_size=40))
def test_what_rounding_may_come_to_stays_within_what_is_kept_for_it(calls: list[int]) -> None:
    most, records = block(calls), sum(calls)
    if most is None:
        assert records > 256 or len(calls) > 2
        return
    worst, there = 0.0, 0
    for call in calls:
        for part in even(call, most):
            size = part.stop - part.start
            worst += sum(range(1, size))  # each addition is off by a unit of what is there by then, at most
            worst += there + size if there else 0
            there += size
    assert worst <= MOST
    assert 2 * MOST * 2.0**-24 + 2.0**-10 == 2.0**-8


def test_a_batch_in_one_call_fits_up_to_the_largest() -> None:
    assert all(block([records]) is not None for records in range(FEW + 1))
    assert block([FEW + 1]) is None
    assert block([1] * FEW) is None


@dataclass
class Noted:
    """Asserts that every block is added up by itself."""

    sizes: list[int] = field(default_factory=list)

    def some(self, records: slice) -> "Noted":
        return self

    def add_to(self, total: torch.Tensor, factors: torch.Tensor) -> None:
        assert not total.any()
        self.sizes.append(len(factors))
        total += factors.sum()


@pytest.mark.parametrize("most", [3, 10])
def test_blocks_are_added_up_by_themselves(most: int) -> None:
    term: Any = Noted()
    total = Sum(torch.full((2,), torch.nan), most)
    total.add([(Slot("", 0, (2,)), term)], torch.arange(8.0))
    total.add([(Slot("", 0, (2,)), term)], torch.arange(4.0))
    assert total.total.tolist() == [34, 34]
    assert max(term.sizes) <= most


def test_some_of_a_term_are_the_gradients_of_some_records() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(5, 1, 3, size, generator=generator) for size in (4, 6))
    indices = torch.randint(7, (5, 3), generator=generator)
    outer = Outer(left, right)
    terms: list[Term] = [
        outer,
        Explicit(left.flatten(1)),
        Product(left[:, 0, 0], right[:, 0, 0]),
        Turned(outer, (4, 3, 2)),
        Scattered(indices, right[:, 0], 7),
    ]
    for term in terms:
        whole = term.explicit().gradients
        assert torch.equal(term.some(slice(1, 4)).explicit().gradients, whole[1:4])


def test_positions_are_added_up_more_exactly_than_records_are() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(64, 1, 32, size, generator=generator) for size in (3, 5))
    total = torch.zeros(15)
    Outer(left, right).add_to(total, torch.ones(64))
    exact = (left.double().flatten(0, 2).T @ right.double().flatten(0, 2)).flatten()
    assert ((total.double() - exact).abs() <= 2.0**-24 * exact.abs()).all()
