"""Parquet files as rows of text cells, so that the manifest's rules mean the same as in CSV.

Null and not-a-number are the empty cell; whole numbers have no decimal point whatever their type (pandas
makes reals of them when one is missing); true and false are ``true`` and ``false``.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from p2pfl.node.errors import DataError

PARQUET: Final = b"PAR1"
"""What such a file begins with."""

_EXACT: Final = 2.0**53


def parquet_rows(path: Path) -> Iterator[tuple[str, Sequence[str]]]:
    """The names of the columns, then every row, each with its place in the file at ``path``.

    Raises DataError if it is damaged, or if what reads it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        hint = "install it (pip install 'p2pfl-node[parquet]'), or save the table as CSV"
        raise DataError(f"{path}: reading Parquet needs pyarrow, which is not installed", hint) from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield "the header", file.schema_arrow.names
            number = 0
            for batch in file.iter_batches():
                for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield f"row {number}", [_text(value) for value in row]
    except pyarrow.ArrowException as error:
        first = (str(error).splitlines() or ["damaged"])[0].lower()
        raise DataError(f"{path}: not valid Parquet ({ascii(first)[1:-1][:80]})", "save it again") from None


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float() if math.isnan(value):
            return ""
        case float() if abs(value) < _EXACT and value == int(value):
            return str(int(value))
        case _:
            return str(value)
