"""One round of averaging, for all nodes at once: x ← W x for a sparse mixing matrix, or means of groups.

A group's mean is what a secure sum gives its members, up to the ring's grid (float32 is coarser).
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Averaging(Protocol):
    """What takes the rows of ``parameters`` (n, d) to their averages."""

    def __call__(self, parameters: Tensor, spare: Tensor) -> Tensor:
        """The averages, written into ``spare``, which has the same shape, and returned."""


@dataclass(frozen=True, slots=True, eq=False)
class Mixing:
    """x ← W x. ``matrix``: sparse CSR, float32 (n, n), row = receiver."""

    matrix: Tensor

    @classmethod
    def of(cls, matrix: NDArray[Any], device: torch.device) -> "Mixing":
        """``matrix`` (n, n), of which only what is not zero is kept."""
        rows, columns = np.nonzero(matrix)
        return cls.of_entries(len(matrix), rows, columns, matrix[rows, columns], device)

    @classmethod
    def of_entries(
        cls,
        count: int,
        rows: NDArray[Any],
        columns: NDArray[Any],
        weights: NDArray[Any],
        device: torch.device,
    ) -> "Mixing":
        """The matrix over ``count`` nodes with these entries."""
        indices = torch.from_numpy(np.stack([rows, columns]).astype(np.int64))
        values = torch.from_numpy(np.asarray(weights, np.float32))
        sparse = torch.sparse_coo_tensor(indices, values, (count, count), check_invariants=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch calls the format a beta
            return cls(sparse.coalesce().to_sparse_csr().to(device))

    def __call__(self, parameters: Tensor, spare: Tensor) -> Tensor:
        """See :class:`Averaging`."""
        return torch.addmm(parameters, self.matrix, parameters, beta=0, out=spare)


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """The mean of each group, at each of its members; whoever is in none keeps what it has.

    ``means``: sparse CSR (groups, n); ``members``, ``group_of``: the nodes in groups, and the group of each.
    """

    means: Tensor
    members: Tensor
    group_of: Tensor
    everybody: bool

    @classmethod
    def of(cls, groups: Sequence[Sequence[int]], count: int, device: torch.device) -> "Groups":
        """Disjoint ``groups`` of ``count`` nodes."""
        members = np.concatenate([np.asarray(group, np.int64) for group in groups])
        sizes = np.array([len(group) for group in groups])
        group_of = np.repeat(np.arange(len(groups)), sizes)
        weights = torch.from_numpy((1 / sizes).astype(np.float32)[group_of])
        starts = torch.from_numpy(np.concatenate([[0], sizes.cumsum()]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch calls the format a beta
            means = torch.sparse_csr_tensor(starts, torch.from_numpy(members), weights, (len(groups), count))
        where = torch.from_numpy(members).to(device), torch.from_numpy(group_of).to(device)
        return cls(means.to(device), *where, len(members) == count)

    def __call__(self, parameters: Tensor, spare: Tensor) -> Tensor:
        """See :class:`Averaging`."""
        means = self.means @ parameters
        if not self.everybody:
            spare.copy_(parameters)
        spare[self.members] = means[self.group_of]
        return spare
