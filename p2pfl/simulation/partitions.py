"""How one data set is dealt to nodes: the ways of published work, and those that data brings along.

A partition is a list of positions of records, one array for each node; no record is dealt twice.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.int64]
_TRIES = 100


class PartitionError(ValueError):
    """These records cannot be dealt like that; the message says why, and what to change."""


def iid(count: int, nodes: int, rng: np.random.Generator) -> list[Positions]:
    """``count`` records, shuffled, in parts as equal as can be. Raises PartitionError for too few."""
    _require_enough(count, nodes)
    return _sorted(np.array_split(rng.permutation(count), nodes))


def dirichlet(
    labels: NDArray[Any], nodes: int, alpha: float, rng: np.random.Generator, least: int = 1
) -> list[Positions]:
    """Every class is dealt in shares drawn from a symmetric Dirichlet distribution of ``alpha``: small, and a
    node sees few classes; large, and it is :func:`iid` but for the sizes.

    Hsu, Qi and Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification" (2019). Drawn again until every node has ``least`` records. Raises PartitionError if that
    never happens.
    """
    if not alpha > 0:
        raise PartitionError(f"alpha must be above 0, not {alpha:g}")
    _require_enough(len(labels), nodes * least)
    for _ in range(_TRIES):
        parts: list[list[Positions]] = [[] for _ in range(nodes)]
        for label in np.unique(labels):
            records = rng.permutation(np.flatnonzero(labels == label))
            cuts = np.cumsum(rng.dirichlet(np.full(nodes, alpha)))[:-1] * len(records)
            for part, some in zip(parts, np.split(records, np.rint(cuts).astype(np.int64)), strict=True):
                part.append(some)
        dealt = [np.concatenate(part) for part in parts]
        if min(map(len, dealt)) >= least:
            return _sorted(dealt)
    raise PartitionError(
        f"{nodes} nodes do not all get {least} of {len(labels)} records at alpha {alpha:g}; take fewer nodes"
        " or a larger alpha"
    )


def shards(labels: NDArray[Any], nodes: int, each: int, rng: np.random.Generator) -> list[Positions]:
    """Records sorted by class, cut into ``nodes`` · ``each`` shards, of which every node gets ``each`` at
    random: about ``each`` classes a node.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (2017), with
    ``each`` = 2.
    """
    if each < 1:
        raise PartitionError(f"a node needs a shard, not {each}")
    _require_enough(len(labels), nodes * each)
    cut = np.array_split(_by_class(labels, rng), nodes * each)
    drawn = rng.permutation(nodes * each).reshape(nodes, each)
    return _sorted([np.concatenate([cut[shard] for shard in own]) for own in drawn])


def by_value(values: Sequence[object], nodes: int | None = None) -> list[Positions]:
    """A node for each value of a column, in the order of the values as text; ``nodes``, if given, must be as
    many.
    """
    names = sorted({str(value) for value in values})
    if nodes is not None and nodes != len(names):
        raise PartitionError(
            f"the column has {len(names)} values, so there are {len(names)} nodes, not {nodes}"
        )
    texts = np.array([str(value) for value in values])
    return [np.flatnonzero(texts == name) for name in names]


def _require_enough(count: int, least: int) -> None:
    if count < least:
        raise PartitionError(f"{count} records are too few, {least} are needed; take fewer nodes")


def _sorted(parts: Sequence[NDArray[np.int64]]) -> list[Positions]:
    return [np.sort(part) for part in parts]


def _by_class(labels: NDArray[Any], rng: np.random.Generator) -> Positions:
    """Positions sorted by label, in random order within one."""
    shuffled = rng.permutation(len(labels))
    return shuffled[np.argsort(labels[shuffled], kind="stable")]
