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

from p2pfl.topologies.sparse import Weights


class Averaging(Protocol):
    """What takes the rows of ``parameters`` (n, d) to their averages."""

    def __call__(self, parameters: Tensor, spare: Tensor) -> Tensor:
        """The averages, written into ``spare``, which has the same shape, and returned."""


@dataclass(frozen=True, slots=True, eq=False)
class Mixing:
    """x ← W x. ``matrix``: sparse CSR, float32 (n, n), row = receiver."""

    matrix: Tensor

    @classmethod
    def of(cls, weights: Weights, device: torch.device) -> "Mixing":
        """The same matrix on ``device``."""
        return cls(_sparse(weights.indptr, weights.indices, weights.data, len(weights)).to(device))

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
        starts = np.concatenate([[0], sizes.cumsum()])
        means = _sparse(starts, members, (1 / sizes)[group_of], count)
        where = torch.from_numpy(members).to(device), torch.from_numpy(group_of).to(device)
        return cls(means.to(device), *where, len(members) == count)

    def __call__(self, parameters: Tensor, spare: Tensor) -> Tensor:
        """See :class:`Averaging`."""
        means = self.means @ parameters
        if not self.everybody:
            spare.copy_(parameters)
        spare[self.members] = means[self.group_of]
        return spare


def without(weights: Weights, absent: NDArray[np.bool_]) -> Weights:
    """W among those who are not ``absent``, bool (n,): what a receiver would give to somebody absent it gives
    to itself, and who is absent keeps what it has.
    """
    between = weights.off_diagonal
    receivers, senders = weights.rows[between], weights.indices[between]
    heard = ~(absent[receivers] | absent[senders])
    return Weights.of_edges(len(weights), receivers[heard], senders[heard], weights.data[between][heard])


def _sparse(starts: NDArray[Any], columns: NDArray[Any], values: NDArray[Any], count: int) -> Tensor:
    """A matrix of ``count`` columns in compressed rows, float32."""
    parts = torch.from_numpy(starts), torch.from_numpy(columns), torch.from_numpy(values).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls the format a beta
        return torch.sparse_csr_tensor(*parts, (len(starts) - 1, count))
