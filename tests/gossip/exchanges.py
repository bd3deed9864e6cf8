"""The two exchanges, both of them for vectors however short."""

from collections.abc import Callable, Mapping
from typing import Final

from p2pfl.gossip.chunks import Chunks

Cut = Callable[[int, int, int], Chunks]


def scattered(dim: int, members: int, element_bytes: int) -> Chunks:
    """Two chunks for everybody."""
    return Chunks(dim, members, 2 * members)


CUTS: Final[Mapping[str, Cut]] = {"broadcast": Chunks.of, "scatter": scattered}
