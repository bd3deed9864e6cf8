"""The oracle: what a round comes to, for all nodes at once and without a protocol.

Sums in Z_2^32 do not depend on order, so machines, simulation and this agree bit for bit.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray


def group_sums(
    values: NDArray[np.uint32], groups: Sequence[Sequence[int]], survivors: Collection[int]
) -> NDArray[np.uint32]:
    """The sum over the survivors of each group: uint32, shape (len(groups), d).

    Args:
        values: encoded contributions, uint32, shape (n, d); row i belongs to node i.
        groups: disjoint groups of nodes.
        survivors: the nodes whose contribution counts, of whichever group.
    """
    chosen = np.zeros((len(groups), len(values)), np.uint32)
    for number, group in enumerate(groups):
        chosen[number, [node for node in group if node in survivors]] = 1
    return chosen @ values
