"""Tables in files, read by the manifest's rules; whatever breaks one is refused with file, line, column and
remedy.

Strict on purpose: a cell that is quietly taken for something else would be found in nobody's logs.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TextIO

from p2pfl.gossip.manifest import Column, TabularTask
from p2pfl.gossip.records import shown
from p2pfl.node.errors import DataError, reason_of
from p2pfl.node.storage.regular_file import regular_only
from p2pfl.node.training.parquet import PARQUET, parquet_rows


class Rows:
    """The rows below the header, in order, each once; see :func:`open_rows`."""

    def __init__(self, path: Path, numbered: Iterator[tuple[str, Sequence[str]]]) -> None:
        """Every row, the header first, comes with what to call its place: ``line 3``."""
        self._path = path
        self._numbered = numbered
        self._place = ""
        self.header = self._next()
        if not self.header:
            raise DataError(f"{path}: the file is empty", "the first line must name the columns")
        if len(self.header) == 1:
            self._refuse_other_separators(self.header[0])

    def _refuse_other_separators(self, line: str) -> None:
        for name, separator in (("semicolons", ";"), ("tabs", "\t")):
            if separator in line:
                hint = "save it as CSV with commas between the cells, and points in decimal numbers"
                raise DataError(f"{self._path}: the columns are separated by {name}, not commas", hint)

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        """Cells without spaces around, as many as the header has; empty lines are passed over."""
        while row := self._next():
            if len(row) != len(self.header):
                reason = f"{len(row)} cells, but the header has {len(self.header)}"
                self.refuse(reason, "give every row one cell for each column")
            yield row

    def _next(self) -> tuple[str, ...]:
        """The next row that is not empty; an empty one at the end."""
        for place, row in self._numbered:
            if row:
                self._place = place
                return tuple(cell.strip() for cell in row)
        return ()

    def position(self, name: str) -> int:
        """Where in a row the cell of column ``name`` is. Raises DataError unless the header has it once."""
        if self.header.count(name) != 1:
            where = "missing from" if name not in self.header else "there more than once in"
            hint = "name the columns as in the manifest: `p2pfl federation show`"
            raise DataError(f"{self._path}, column {name}: {where} the header", hint)
        return self.header.index(name)

    def features(self, task: TabularTask, cells: Sequence[str]) -> list[float] | None:
        """The features of the row read last, from its ``cells`` for the task's columns: see :class:`Table`.

        None if a cell is missing in a column where that means to leave out the row.
        """
        columns = list(zip(task.columns, cells, strict=True))
        if any(cell in task.missing and column.missing == "drop" for column, cell in columns):
            return None
        row: list[float] = []
        for column, cell in columns:
            found = self._features(column, cell, cell in task.missing)
            if found is None:
                return None
            row.extend(found)
        return row

    def _features(self, column: Column, cell: str, missing: bool) -> list[float] | None:
        numeric = column.kind == "numeric"
        if not (numeric or missing or cell in column.levels):
            if column.unknown == "refuse":
                self.refuse_level(cell, column.levels, column.name)
            missing = True
        if missing and column.missing == "drop":
            return None
        if not numeric:
            named = [float(cell == level and not missing) for level in column.levels[1:]]
        elif missing:
            named = [math.nan]
        else:
            named = [min(max(self.number(column.name, cell), column.low), column.high)]
        return named if column.missing == "drop" else [*named, float(missing)]

    def number(self, column: str, cell: str) -> float:
        """The finite number in ``cell``, of ``column`` of the row read last."""
        try:
            number = math.nan if "_" in cell else float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            hint = "write numbers with a decimal point; task.missing of the manifest lists what means unknown"
            self.refuse(f"{shown(cell)} is not a number", hint, column)
        return number

    def require_present(self, cell: str, column: str) -> None:
        """Raise DataError if ``cell``, which may hold any name, plainly holds none."""
        if cell.lower() in ("", "nan"):
            hint = "fill it in or leave out the row; task.missing of the manifest lists what means unknown"
            self.refuse(f"{shown(cell)} is a missing label", hint, column)

    def refuse_level(self, cell: str, levels: Sequence[str], column: str) -> NoReturn:
        """Raise DataError: ``cell`` is none of ``levels``."""
        hint = f"the manifest declares: {', '.join(levels)}"
        self.refuse(f"{shown(cell)} is not a declared level", hint, column)

    def refuse(self, reason: str, hint: str, column: str = "") -> NoReturn:
        """Raise DataError about the row read last."""
        where = f", column {column}" if column else ""
        raise DataError(f"{self._path}, {self._place}{where}: {reason}", hint)


@contextmanager
def open_rows(path: Path) -> Iterator[Rows]:
    """Read the table at ``path``: Parquet, or else CSV, which is UTF-8, comma-separated, with the names of
    its columns in the first line.

    Raises DataError, also inside the block, if it cannot be read or is neither.
    """
    try:
        if _starts_with(path, PARQUET):
            yield Rows(path, parquet_rows(path))
            return
        with open(path, encoding="utf-8-sig", newline="", opener=regular_only) as file:
            yield Rows(path, _csv_rows(file))
    except OSError as error:
        hint = "check the path and its permissions"
        raise DataError(f"{path}: cannot be read: {reason_of(error)}", hint) from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file in UTF-8", "save the table as CSV in UTF-8") from None
    except csv.Error as error:
        hint = "save the table as plain comma-separated text"
        raise DataError(f"{path}: not valid CSV ({error})", hint) from None


def _csv_rows(file: TextIO) -> Iterator[tuple[str, list[str]]]:
    reader = csv.reader(file, strict=True)
    for row in reader:
        yield f"line {reader.line_num}", row


def _starts_with(path: Path, magic: bytes) -> bool:
    with open(path, "rb", opener=regular_only) as file:
        return file.read(len(magic)) == magic
