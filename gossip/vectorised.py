"""The oracle: what a round comes to, for all nodes at once and without a protocol.

Sums in a ring do not depend on order, so machines, simulation and this agree bit for bit.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def group_sums(
    values: NDArray[Any], groups: Sequence[Sequence[int]], survivors: Collection[int]
) -> NDArray[Any]:
    """The sum over the survivors of each group: over the ring of ``values``, shape (len(groups), d).

    Args:
        values: encoded contributions, of a ring's dtype, shape (n, d); row i belongs to node i.
        groups: disjoint groups of nodes.
        survivors: the nodes whose contribution counts, of whichever group.
    """
    chosen = np.zeros((len(groups), len(values)), values.dtype)
    for number, group in enumerate(groups):
        chosen[number, [node for node in group if node in survivors]] = 1
    sums: NDArray[Any] = chosen @ values
    return sums
