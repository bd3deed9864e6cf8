"""Per-record gradients of one parameter, in the form that makes their norms and weighted sums cheap.

B records, P positions (of a sequence or an image, or calls of a layer that is used again), n entries. Norms
must not come out below those of the numbers that are summed, or a record would get more weight than it may.
Where cancellation could hide some of one, the largest rounding error possible is added to it: with u the unit
of rounding, k additions are off by at most k u times the sum of magnitudes. So rounding can only clip harder.
For :class:`Outer` that covers the rounding of a weighted sum over a record's positions as well: they are
fewer than the additions in the products that its norm is made of. Where a tiny factor meets a huge one, the
tiny one's square may underflow though the product's does not: see :func:`padded`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def squares(vectors: Tensor) -> Tensor:
    """Sums of squares along the last dimension."""
    size = vectors.shape[-1]
    if not 512 <= size <= 1 << 16:
        return vectors.square().sum(-1)
    # Twice as quick, but it adds in eight lanes from one end to the other.
    error = size / 8 * torch.finfo(vectors.dtype).eps
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return norms.square_().mul_(1 + error)


def padded(vectors: Tensor) -> Tensor:
    """:func:`squares` in float64, for products: at least the true ones, by more than underflow can hide."""
    return squares(vectors).double().add_(vectors.shape[-1] * torch.finfo(vectors.dtype).tiny)


class Term(Protocol):
    """B gradients of one parameter of n entries."""

    def squared_norms(self) -> Tensor:
        """The square of each gradient's L2 norm, shape (B,)."""

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        """``total`` += Σ factor · gradient; shapes (n,) and (B,), both of the dtype to add in."""

    def some(self, records: slice) -> "Term":
        """Those of some of the records."""

    def explicit(self) -> "Explicit":
        """The same gradients, written out."""

    @property
    def nbytes(self) -> int:
        """Memory that they take."""

    def outer(self) -> "Outer | None":
        """The same as sums of products, if they are any."""


@dataclass(frozen=True)
class Explicit:
    """The gradients themselves, shape (B, n)."""

    gradients: Tensor

    def squared_norms(self) -> Tensor:
        return squares(self.gradients)

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        total.addmv_(self.gradients.T.to(total.dtype), factors)

    def some(self, records: slice) -> "Explicit":
        return Explicit(self.gradients[records])

    def explicit(self) -> "Explicit":
        return self

    @property
    def nbytes(self) -> int:
        return self.gradients.nbytes

    def outer(self) -> None:
        return None


@dataclass(frozen=True)
class Product:
    """left ⊗ right; shapes (B, L) and (B, R), n = L R."""

    left: Tensor
    right: Tensor

    def squared_norms(self) -> Tensor:
        return padded(self.left).mul_(padded(self.right)).to(self.left.dtype)

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        left = self.left * factors[:, None]
        right = self.right.to(total.dtype)
        total.view(left.shape[1], right.shape[1]).addmm_(left.T, right)

    def some(self, records: slice) -> "Product":
        return Product(self.left[records], self.right[records])

    def explicit(self) -> Explicit:
        return self.outer().explicit()

    @property
    def nbytes(self) -> int:
        return self.left.nbytes + self.right.nbytes

    def outer(self) -> "Outer":
        """The same, at its only position."""
        return Outer(self.left[:, None, None], self.right[:, None, None])


@dataclass(frozen=True)
class Outer:
    """Σ over P positions of left ⊗ right, for each of N groups; shapes (B, N, P, L), (B, N, P, R), n = N L R.

    Norms without gradients (Li et al. 2021): |Σ_p l_p ⊗ r_p|² = Σ_pq (l_p · l_q)(r_p · r_q).
    """

    left: Tensor
    right: Tensor

    def squared_norms(self) -> Tensor:
        lefts, rights = padded(self.left), padded(self.right)
        crossed = (self.left @ self.left.mT).mul_(self.right @ self.right.mT).sum((1, 2, 3))
        largest = lefts.mul_(rights).sqrt_().sum(2).square_().sum(1).to(crossed.dtype)
        additions = self.left.shape[3] + self.right.shape[3] + 64
        return crossed.clamp_(min=0).add_(largest, alpha=additions * torch.finfo(largest.dtype).eps)

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        left = (self.left * factors[:, None, None, None]).transpose(0, 1).flatten(1, 2)
        right = self.right.transpose(0, 1).flatten(1, 2)
        # In float32 so many more additions than records would be off by more than sums of records may be.
        total += (left.mT.double() @ right.double()).flatten()

    def some(self, records: slice) -> "Outer":
        return Outer(self.left[records], self.right[records])

    def explicit(self) -> Explicit:
        return Explicit((self.left.mT @ self.right).flatten(1))

    @property
    def nbytes(self) -> int:
        return self.left.nbytes + self.right.nbytes

    def outer(self) -> "Outer":
        return self


@dataclass(frozen=True)
class Turned:
    """Gradients of ``shape`` each, by a term that has the last two axes the other way round."""

    term: Term
    shape: tuple[int, int, int]

    def squared_norms(self) -> Tensor:
        return self.term.squared_norms()

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        part = torch.zeros_like(total)
        self.term.add_to(part, factors)
        total.view(self.shape).mT.add_(part.view_as(total.view(self.shape).mT))

    def some(self, records: slice) -> "Turned":
        return Turned(self.term.some(records), self.shape)

    def explicit(self) -> Explicit:
        first, second, third = self.shape
        turned = self.term.explicit().gradients.view(-1, first, third, second)
        return Explicit(turned.mT.flatten(1))

    @property
    def nbytes(self) -> int:
        return self.term.nbytes

    def outer(self) -> None:
        return None


@dataclass(frozen=True)
class Scattered:
    """Row ``indices[b, p]`` of a table of ``rows`` gets ``values[b, p]``; shapes (B, P) and (B, P, D)."""

    indices: Tensor
    values: Tensor
    rows: int

    @cached_property
    def _touched(self) -> tuple[Tensor, Tensor, Tensor]:
        """Record, row, and what the row gets, for every row that a record touches."""
        records = torch.arange(len(self.indices), device=self.indices.device)
        keys, place = torch.unique(self.indices + self.rows * records[:, None], return_inverse=True)
        sums = self.values.new_zeros(len(keys), self.values.shape[2])
        sums.index_add_(0, place.flatten(), self.values.flatten(0, 1))
        return keys // self.rows, keys % self.rows, sums

    def squared_norms(self) -> Tensor:
        records, _, sums = self._touched
        return sums.new_zeros(len(self.indices)).index_add_(0, records, squares(sums))

    def add_to(self, total: Tensor, factors: Tensor) -> None:
        records, touched, sums = self._touched
        total.view(self.rows, -1).index_add_(0, touched, sums * factors[records, None])

    def some(self, records: slice) -> "Scattered":
        return Scattered(self.indices[records], self.values[records], self.rows)

    def explicit(self) -> Explicit:
        return self.outer().explicit()

    @property
    def nbytes(self) -> int:
        return 2 * self.values.nbytes

    def outer(self) -> Outer:
        """The same, with indices as rows of one 1 each."""
        ones = one_hot(self.indices, self.rows).to(self.values.dtype)
        return Outer(ones[:, None], self.values[:, None])


def merged(terms: Sequence[Term]) -> Term:
    """The sum of ``terms``, the gradients of a parameter by each of its uses, in the form that suits it."""
    return suited(terms[0] if len(terms) == 1 else _joined(terms))


def suited(term: Term) -> Term:
    """The same gradients, written out if that is better."""
    if not isinstance(term, Outer):
        return term
    _, groups, positions, lefts = term.left.shape
    return term if compact(groups, positions, lefts, term.right.shape[3]) else term.explicit()


def compact(groups: int, positions: int, lefts: int, rights: int) -> bool:
    """Whether gradients are better left as :class:`Outer`: that takes less memory (Bu et al. 2022), and less
    time unless they are small. (How many multiplications it is worth not to write, square and sum an entry
    was measured.)
    """
    entries, pairs = lefts * rights, positions * positions
    quicker = pairs * (lefts + rights) <= 12 * entries
    return 2 * pairs <= entries and (quicker or groups * entries > 1 << 16)


def _joined(terms: Sequence[Term]) -> Term:
    tables = [term for term in terms if isinstance(term, Scattered)]
    if len(tables) == len(terms):
        indices, values = (
            torch.cat([getattr(each, name) for each in tables], 1) for name in ("indices", "values")
        )
        return Scattered(indices, values, tables[0].rows)
    outers = [outer for outer in (term.outer() for term in terms) if outer is not None]
    if len(outers) == len(terms) and len({outer.left.shape[1] for outer in outers}) == 1:
        left, right = (torch.cat([getattr(each, name) for each in outers], 2) for name in ("left", "right"))
        return Outer(left, right)
    return Explicit(reduce(torch.add, (term.explicit().gradients for term in terms)))
