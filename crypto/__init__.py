"""Keys, signatures, seals, shares, masks, the ring, and noise: pure functions of bytes and arrays.

Nothing here knows of rounds, networks or files, and nothing draws randomness that was not handed in.
"""
