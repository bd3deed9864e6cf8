"""Adding up what many records contribute, so that rounding stays small beside the clip norm C.

What a record changes when it comes or goes is more than its part: every partial sum after it rounds anew.
With u the unit of rounding (2^-24 in float32, 2^-53 in float64), adding N parts of norm C or less in any
order is off by at most u C N² / 2. Where blocks of b parts are added up by themselves, and then their sums,
it is u C times what these come to: b² / 2 for every block, and for every block but the first how many parts
there are in the sum by then. :func:`block` keeps that below MOST. Between two sums of neighbours it is twice
that: in float32 3 2^-10 C. Beyond FEW records a sum is float64, where it is 2^-13 C for 2^20 records, the
most there are.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Final

import torch
from torch import Tensor

from p2pfl.node.training.clipping.parameters import Slot
from p2pfl.node.training.clipping.terms import Term

FEW: Final = 512
"""Records whose parts may be added up in float32."""
MOST: Final = 3 << 13
_WITHIN: Final = 11 << 11
"""Of MOST, what may go into blocks; the rest is for adding these."""


def block(calls: Sequence[int]) -> int | None:
    """How many records' parts are added up by themselves in float32, of a batch that comes in ``calls`` of
    these sizes; None if float32 is not enough.
    """
    records = sum(calls)
    if records > FEW:
        return None
    most = max(1, 2 * _WITHIN // max(1, records))
    sizes = [part.stop - part.start for call in calls for part in even(call, most)]
    off = sum(size * size for size in sizes) / 2 + sum(list(accumulate(sizes))[1:])
    return most if off <= MOST else None


def even(records: int, most: int) -> Iterator[slice]:
    """As few blocks as can be, of at most so many records each, and of about the same size."""
    count = -(-records // most)
    for number in range(count):
        yield slice(records * number // count, records * (number + 1) // count)


class Sum:
    """``total``, zero, and what is added to it in blocks of at most ``most`` records; None: all at once."""

    def __init__(self, total: Tensor, most: int | None) -> None:
        self.total = total.zero_()
        self._most, self._begun = most, False

    def add(self, terms: Sequence[tuple[Slot, Term]], factors: Tensor) -> None:
        """Σ over records of factor · gradient; ``factors`` of shape (B,)."""
        factors = factors.to(self.total.dtype)
        if self._most is None:
            _add(terms, factors, self.total)
            return
        for part in even(len(factors), self._most):
            some = (
                terms if part == slice(0, len(factors)) else [(slot, term.some(part)) for slot, term in terms]
            )
            if self._begun:
                _add(some, factors[part], self._scratch.zero_())
                self.total.add_(self._scratch)
            else:
                _add(some, factors[part], self.total)
                self._begun = True

    @cached_property
    def _scratch(self) -> Tensor:
        return torch.empty_like(self.total)


def _add(terms: Sequence[tuple[Slot, Term]], factors: Tensor, total: Tensor) -> None:
    for slot, term in terms:
        term.add_to(total[slot.start : slot.stop], factors)
