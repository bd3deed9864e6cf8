"""The result of a sweep as one tidy table: a row for each outcome, a column for each thing varied or
measured.
"""

import csv
from collections.abc import Sequence
from importlib.util import find_spec
from io import BytesIO, StringIO
from pathlib import Path

from p2pfl.node.storage.atomic_file import write_atomically
from p2pfl.simulation.running import Row


def write(rows: Sequence[Row], directory: Path) -> list[Path]:
    """``results.csv``, and ``results.parquet`` where pyarrow is installed. Raises StorageError."""
    written = [directory / "results.csv"]
    write_atomically(written[0], _csv(rows), 0o644)
    if find_spec("pyarrow") is not None:
        written.append(directory / "results.parquet")
        write_atomically(written[1], _parquet(rows), 0o644)
    return written


def columns(rows: Sequence[Row]) -> list[str]:
    """All columns, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _csv(rows: Sequence[Row]) -> bytes:
    text = StringIO()
    writer = csv.DictWriter(text, columns(rows), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _parquet(rows: Sequence[Row]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    data = BytesIO()
    named = {name: [_cell(row.get(name)) for row in rows] for name in columns(rows)}
    parquet.write_table(pyarrow.table(named), data)
    return data.getvalue()


def _cell(value: object) -> object:
    """Lists, such as widths of hidden layers, as text: a column has one type."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
