"""What a member of a group sends in one secure sum."""

from p2pfl.gossip.chunks import BROADCAST_BYTES


def sent_bytes(members: int, vector: int) -> float:
    """By each of so many ``members`` in a round without losses, on average; ``vector``: bytes of one vector.

    The vectors are those of the exchange that members of this size choose. What comes with them (readies,
    sealed shares, ballots, reveals, results; digests and words of the check where vectors go in chunks) is
    fitted to what the protocol's machines were measured to send, from 4 members to 16, to within 5 %.
    """
    others = members - 1
    if vector * others <= BROADCAST_BYTES:
        return others * (vector + 2200 + 70 * members)
    return 2 * others / members * vector + others * (3800 + 330 * members)
