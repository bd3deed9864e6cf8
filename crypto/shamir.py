"""Shamir's secret sharing of 32 bytes: any ``threshold`` holders recover them, fewer learn nothing at all.

Over the field of the smallest prime above 2^256: the secret is the value at 0 of a random polynomial of
degree threshold - 1, and holder i, counted from 0, gets its value at i + 1 (Shamir, CACM 22(11), 1979). The
arithmetic is that of Python integers, whose time depends on the operands: right for secrets that serve
once, against peers that cannot time this process.
"""

from collections.abc import Mapping
from functools import lru_cache
from math import lcm, prod
from typing import Final

from p2pfl.crypto.randomness import RandomBytes

PRIME: Final = 2**256 + 297
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33
MAX_HOLDERS: Final = 255


def split(secret: bytes, holders: int, threshold: int, random: RandomBytes) -> list[bytes]:
    """Shares of 33 bytes of a 32-byte ``secret``: element i is for holder i.

    Raises :class:`ValueError` unless 2 <= threshold <= holders <= 255: were one share enough, it would be
    the secret.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a shared secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if not 2 <= threshold <= holders <= MAX_HOLDERS:
        raise ValueError(f"cannot share among {holders} holders with threshold {threshold}")
    polynomial = [_element(random) for _ in range(threshold - 1)]
    polynomial.append(int.from_bytes(secret, "big"))
    return [_evaluate(polynomial, holder + 1).to_bytes(SHARE_BYTES, "big") for holder in range(holders)]


def combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The 32-byte secret from ``shares`` by holder; of more than ``threshold``, the lowest holders' are used.

    Raises :class:`ValueError` for too few shares, for a holder or a share that :func:`split` cannot have
    made (used or not), and where no 32-byte secret fits. Otherwise a wrong share gives a wrong secret and
    no error: check the secret against something public, and try other holders' shares if it fails.
    """
    if threshold < 2:
        raise ValueError(f"there is no threshold {threshold}")
    if len(shares) < threshold:
        raise ValueError(f"{len(shares)} shares are not enough for threshold {threshold}")
    values = {holder: _parse(holder, share) for holder, share in shares.items()}
    holders = tuple(sorted(values)[:threshold])
    weights = _weights(holders)
    secret = sum(weight * values[holder] for holder, weight in zip(holders, weights, strict=True)) % PRIME
    if secret >= 1 << (8 * SECRET_BYTES):
        raise ValueError("the shares do not belong together")
    return secret.to_bytes(SECRET_BYTES, "big")


def _element(random: RandomBytes) -> int:
    """A uniform element of the field: rejects the few 33-byte numbers above the prime's last multiple."""
    end = (1 << (8 * SHARE_BYTES)) // PRIME * PRIME
    while (number := int.from_bytes(random(SHARE_BYTES), "big")) >= end:
        pass
    return number % PRIME


def _evaluate(polynomial: list[int], point: int) -> int:
    """Horner's rule; the coefficient of the highest power comes first."""
    value = 0
    for coefficient in polynomial:
        value = (value * point + coefficient) % PRIME
    return value


def _parse(holder: int, share: bytes) -> int:
    if not 0 <= holder < MAX_HOLDERS:
        raise ValueError(f"no share has holder {holder}")
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise ValueError(f"the share of holder {holder} is not an element of the field")
    return value


@lru_cache(maxsize=256)
def _weights(holders: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's coefficients at 0; public, and the same for every secret that a group puts together."""
    points = [holder + 1 for holder in holders]
    whole = prod(points)
    below = [prod(other - point for other in points if other != point) for point in points]
    common = lcm(*below)  # of small numbers, so that one inverse in the field serves for all
    inverse = pow(common, -1, PRIME)
    return tuple(
        whole // point * (common // each) * inverse % PRIME for point, each in zip(points, below, strict=True)
    )
