"""Who holds which records, and which of them enter a step: for all nodes at once.

Records are kept once, side by side; node i owns ``counts[i]`` of them from ``starts[i]`` on. A node draws a
Poisson sample, as `p2pfl node` does: every record enters a step with probability q, independently. Batches
therefore differ in length, and are filled up, to the longest or a little more, with records that count for
nothing. Batches of a fixed length save that; they are for questions where privacy plays no part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p2pfl.simulation.stacks import Batch

_EVEN = 8
"""Poisson samples are filled up to a multiple of it: products of other lengths take a fifth longer."""


@dataclass(frozen=True, slots=True, eq=False)
class Records:
    """``inputs`` (m, …) and ``targets`` (m, …) of all nodes, the records of one behind those of another."""

    inputs: Tensor
    targets: Tensor
    starts: Tensor
    counts: Tensor

    @classmethod
    def of(cls, parts: Sequence[tuple[NDArray[Any], NDArray[Any]]], device: torch.device) -> "Records":
        """Of nodes with these inputs and targets each. Reals become float32, whole numbers int64."""
        counts = torch.tensor([len(targets) for _, targets in parts], device=device)
        return cls(
            _tensor(np.concatenate([inputs for inputs, _ in parts]), device),
            _tensor(np.concatenate([targets for _, targets in parts]), device),
            counts.cumsum(0) - counts,
            counts,
        )

    def of_nodes(self, chosen: slice) -> "Records":
        """What the ``chosen`` nodes hold; nothing is copied."""
        return Records(self.inputs, self.targets, self.starts[chosen], self.counts[chosen])

    def poisson(self, rate: float, generator: torch.Generator, active: Tensor | None = None) -> Batch:
        """Every record with probability ``rate``; none of a node that is not ``active``, bool (n,)."""
        counts = self.counts if active is None else self.counts * active
        places = torch.arange(int(self.counts.max()), device=self.counts.device)
        drawn = torch.rand((len(self.counts), len(places)), generator=generator, device=self.counts.device)
        chosen = (drawn < rate) & (places < counts.unsqueeze(1))
        lengths = chosen.sum(1)
        nodes, records = chosen.nonzero(as_tuple=True)
        longest = max(_EVEN, -(-int(lengths.max()) // _EVEN) * _EVEN)
        where = (
            nodes * longest
            + torch.arange(len(nodes), device=nodes.device)
            - (lengths.cumsum(0) - lengths)[nodes]
        )
        indices = torch.zeros(len(lengths) * longest, dtype=torch.int64, device=nodes.device)
        indices[where] = self.starts[nodes] + records
        present = torch.arange(longest, device=nodes.device) < lengths.unsqueeze(1)
        return self._batch(indices.view(len(lengths), longest), present)

    def fixed(self, length: int, generator: torch.Generator, active: Tensor | None = None) -> Batch:
        """``length`` records of each node, drawn with replacement; none of a node that has none, or is not
        ``active``.
        """
        there = self.counts > 0 if active is None else (self.counts > 0) & active
        drawn = torch.rand((len(self.counts), length), generator=generator, device=self.counts.device)
        offsets = (
            (drawn * self.counts.unsqueeze(1)).long().clamp_max_((self.counts - 1).clamp_min(0).unsqueeze(1))
        )
        present = there.unsqueeze(1).expand(-1, length)
        return self._batch((self.starts.unsqueeze(1) + offsets).clamp_max_(len(self.targets) - 1), present)

    def _batch(self, indices: Tensor, present: Tensor) -> Batch:
        return Batch(
            self.inputs.index_select(0, indices.flatten()).view(*indices.shape, *self.inputs.shape[1:]),
            self.targets.index_select(0, indices.flatten()).view(*indices.shape, *self.targets.shape[1:]),
            present.to(torch.float32),
        )


def _tensor(values: NDArray[Any], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.to(device, torch.float32 if tensor.is_floating_point() else torch.int64)
