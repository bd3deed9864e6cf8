"""Which of an organisation's records are kept aside to measure on, when the config names only a share.

A record's side follows from the record alone, so equal records are on one side, nobody changes sides when
rows are reordered, added or removed, and nothing is drawn. One record more or less changes one of the two
parts, by that record: what they promise is what it would be of two files.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.labels import HELD_OUT
from p2pfl.gossip.wire import digest
from p2pfl.node.training.table import Table

_BLOCK = 1 << 18
"""Numbers made canonical at a time."""
_BYTES = 8
"""Of a digest, that are compared with the share."""


def record_digests(table: Table) -> list[bytes]:
    """SHA-256 of each record, under a label of its own: of its inputs, then its label, as float64,
    little-endian. Minus zero counts as zero, and every value that is not a number as the same.
    """
    step = max(1, _BLOCK // (1 + math.prod(table.features.shape[1:])))
    found: list[bytes] = []
    for start in range(0, len(table), step):
        parts = (table.features[start : start + step], table.labels[start : start + step])
        found += (digest(HELD_OUT, record.data) for record in np.hstack([_canonical(part) for part in parts]))
    return found


def parted(table: Table, share: float) -> tuple[Table, Table]:
    """The records of ``table`` to learn from, and those held out: about ``share`` of all, in (0, 1). Either
    may be empty. What the table counts as dropped stays with the first.
    """
    limit = share * 2.0 ** (8 * _BYTES)
    kept = np.array([int.from_bytes(one[:_BYTES]) < limit for one in record_digests(table)], bool)
    return (
        Table(table.features[~kept], table.labels[~kept], table.dropped),
        Table(table.features[kept], table.labels[kept]),
    )


def _canonical(part: NDArray[Any]) -> NDArray[np.float64]:
    """One row a record."""
    rows = part.reshape(len(part), math.prod(part.shape[1:])).astype("<f8")
    rows[np.isnan(rows)] = np.nan
    rows += 0.0  # makes zero of minus zero
    return rows
