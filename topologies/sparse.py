"""Mixing matrices that hold their non-zero entries only, for thousands of nodes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def totals(places: ArrayLike, values: ArrayLike, count: int) -> Floats:
    """The sum of the ``values`` at each of the places 0 to ``count`` − 1, shape (count,)."""
    sums = np.bincount(np.asarray(places, np.int64), np.asarray(values, np.float64), count)
    return sums.astype(np.float64)


@dataclass(frozen=True, eq=False, slots=True)
class Weights:
    """W in compressed rows: row i, a receiver, gives ``data[s:e]`` to the senders ``indices[s:e]``, where
    s, e = ``indptr[i]``, ``indptr[i + 1]``.

    Shapes (n + 1,), (m,), (m,); columns ascend in each row and the diagonal is always there, even if 0. The
    names are those of SciPy and PyTorch, whose constructors take the three arrays as they are.
    """

    indptr: Ints
    indices: Ints
    data: Floats

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @classmethod
    def of_entries(cls, count: int, rows: ArrayLike, columns: ArrayLike, values: ArrayLike) -> "Weights":
        """From triplets, each of shape (m,); those at the same place are added. Everything else is 0."""
        diagonal = np.arange(count)
        row = np.concatenate([np.asarray(rows, np.int64), diagonal])
        column = np.concatenate([np.asarray(columns, np.int64), diagonal])
        value = np.concatenate([np.asarray(values, np.float64), np.zeros(count)])
        place, inverse = np.unique(row * count + column, return_inverse=True)
        data = totals(inverse, value, len(place))
        starts = np.searchsorted(place, np.arange(count + 1) * count)
        return cls(starts.astype(np.int64), place % max(count, 1), data)

    @classmethod
    def of_edges(cls, count: int, receivers: ArrayLike, senders: ArrayLike, values: ArrayLike) -> "Weights":
        """From the entries off the diagonal, which gets what each row lacks to 1."""
        received = totals(receivers, values, count)
        itself = np.arange(count)
        return cls.of_entries(
            count,
            np.concatenate([np.asarray(receivers, np.int64), itself]),
            np.concatenate([np.asarray(senders, np.int64), itself]),
            np.concatenate([np.asarray(values, np.float64), 1 - received]),
        )

    @classmethod
    def of_matrix(cls, matrix: ArrayLike) -> "Weights":
        """From a dense matrix, shape (n, n)."""
        dense = np.asarray(matrix, np.float64)
        rows, columns = np.nonzero(dense)
        return cls.of_entries(len(dense), rows, columns, dense[rows, columns])

    @property
    def rows(self) -> Ints:
        """The row of every entry, shape (m,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.indptr))

    @property
    def off_diagonal(self) -> NDArray[np.bool_]:
        """Which entries are between two nodes and not 0, shape (m,)."""
        between: NDArray[np.bool_] = (self.rows != self.indices) & (self.data != 0)
        return between

    @property
    def transposed(self) -> "Weights":
        """Senders become receivers."""
        return Weights.of_entries(len(self), self.indices, self.rows, self.data)

    @property
    def dense(self) -> Floats:
        """float64, shape (n, n)."""
        matrix = np.zeros((len(self), len(self)))
        matrix[self.rows, self.indices] = self.data
        return matrix

    def apply(self, values: Floats) -> Floats:
        """W x for ``values`` of shape (n,) or (n, d)."""
        weighted = values[self.indices] * self.data.reshape(-1, *[1] * (values.ndim - 1))
        mixed: Floats = np.add.reduceat(weighted, self.indptr[:-1], axis=0)
        return mixed

    def is_symmetric(self, tolerance: float = 1e-12) -> bool:
        """Whether W = Wᵀ."""
        other = self.transposed
        return np.array_equal(self.indices, other.indices) and bool(
            np.allclose(self.data, other.data, rtol=0, atol=tolerance)
        )

    def keeps_mean(self, tolerance: float = 1e-9) -> bool:
        """Whether every column adds up to 1, so that W x has the mean of x."""
        sums = totals(self.indices, self.data, len(self))
        return bool(np.allclose(sums, 1, rtol=0, atol=tolerance))

    def row_sums(self) -> Floats:
        """Shape (n,): all 1 where a node takes a weighted mean."""
        return totals(self.rows, self.data, len(self))
