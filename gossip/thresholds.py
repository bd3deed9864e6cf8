"""How many members of a roster must take part, so that colluders cannot unmask two sums.

With k members of which c collude, a set of survivors can be unmasked only by t members, and an honest member
helps to unmask one set per round. Two sets need 2t helpers, of which the colluders are counted twice:
2t <= (k - c) + 2c. Requiring 2t > k + c therefore leaves at most one (Bonawitz et al. 2017, against active
adversaries).
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The numbers that follow from the size of a roster and the colluders it must withstand."""

    members: int
    """k, members of the roster."""
    colluders: int
    """c, members that may pool everything they see; the curious observer counts as one of them."""
    threshold: int
    """t, shares that reconstruct a secret, and signatures that settle the survivors."""
    minimum_survivors: int
    """Fewest contributions that are ever summed: t. At least t - c >= 2 of them are honest."""
    tolerated_drops: int
    """k - t, members that may vanish at any moment while the others still complete."""


def thresholds(members: int, colluders: int) -> Thresholds:
    """The smallest t with 2t > k + c, and what follows from it.

    Raises:
        ValueError: a roster this small cannot hide a member from that many colluders.
    """
    if members < 1 or colluders < 0:
        raise ValueError(f"{members} members and {colluders} colluders make no group")
    threshold = (members + colluders) // 2 + 1
    if threshold > members or threshold - colluders < 2:
        raise ValueError(f"{members} members cannot hide anyone from {colluders} colluders")
    return Thresholds(members, colluders, threshold, threshold, members - threshold)
