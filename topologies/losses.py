"""Averaging over links that lose messages: what happens to the mean, and push-sum, which keeps it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from p2pfl.topologies.sparse import Floats, Weights


def lose(weights: Weights, probability: float, draws: np.random.Generator, *, pairs: bool = False) -> Weights:
    """The matrix of a round in which messages are lost: a receiver takes its own value for a missing one.

    Rows still add up to 1. With ``pairs`` both directions of an edge are lost together, so that a symmetric
    matrix stays so and the mean is kept; else each alone, and the mean drifts, in either direction alike.
    """
    count, between = len(weights), weights.off_diagonal
    rows, columns = weights.rows[between], weights.indices[between]
    if pairs:
        edge = np.minimum(rows, columns) * count + np.maximum(rows, columns)
        _, number = np.unique(edge, return_inverse=True)
        kept = (draws.random(int(number.max(initial=-1)) + 1) >= probability)[number]
    else:
        kept = draws.random(len(rows)) >= probability
    return Weights.of_edges(count, rows[kept], columns[kept], weights.data[between][kept])


@dataclass(slots=True)
class PushSum:
    """Ratio consensus with running sums, which keeps the mean whatever is lost.

    A node mixes a weight, at first 1, along with its values, both with columns that add up to 1, and reads
    off their ratio (Kempe, Dobra and Gehrke, "Gossip-based computation of aggregate information", 2003). Each
    link carries the sum of all that was ever sent over it, so the next message that arrives brings what the
    lost ones did not (Hadjicostis, Vaidya and Domínguez-García, "Robust distributed average consensus via
    exchange of running sums", 2016).

    ``values``: shape (n, d). Links are remembered: for a graph that stays the same.
    """

    values: Floats
    weight: Floats = field(init=False)
    _sent: Floats | None = None
    _arrived: Floats | None = None

    def __post_init__(self) -> None:
        self.values = np.array(self.values, np.float64)
        self.weight = np.ones(len(self.values))

    def step(self, weights: Weights, arrived: NDArray[np.bool_] | None = None) -> Floats:
        """One round with ``weights`` whose columns add up to 1 (scheme ``push``); the estimates (n, d).

        ``arrived``: for each entry of ``weights`` whether that message arrives; None: all do. A node's
        message to itself always does.
        """
        mass = np.concatenate([self.values, self.weight[:, None]], axis=1)
        moved = mass[weights.indices] * weights.data[:, None]
        if self._sent is None or self._arrived is None:
            self._sent, self._arrived = np.zeros_like(moved), np.zeros_like(moved)
        self._sent = self._sent + moved
        here = np.ones(len(moved), bool) if arrived is None else arrived | (weights.rows == weights.indices)
        fresh = np.where(here[:, None], self._sent - self._arrived, 0.0)
        self._arrived = self._arrived + fresh
        mass = np.add.reduceat(fresh, weights.indptr[:-1], axis=0)
        self.values, self.weight = mass[:, :-1], mass[:, -1]
        return self.estimates

    @property
    def estimates(self) -> Floats:
        """Values over weights, shape (n, d)."""
        return self.values / self.weight[:, None]
