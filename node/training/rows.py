"""CSV files, read by the manifest's rules; whatever breaks one is refused with file, line, column and remedy.

Strict on purpose: a cell that is quietly taken for something else would be found in nobody's logs.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TextIO

from p2pfl.gossip.manifest import Column
from p2pfl.gossip.records import shown
from p2pfl.node.errors import DataError, reason_of


class Rows:
    """The rows below the header, in order, each once; see :func:`open_rows`."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path = path
        self._reader = csv.reader(file, strict=True)
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
        return tuple(cell.strip() for cell in next(filter(None, self._reader), ()))

    def position(self, name: str) -> int:
        """Where in a row the cell of column ``name`` is. Raises DataError unless the header has it once."""
        if self.header.count(name) != 1:
            where = "missing from" if name not in self.header else "there more than once in"
            hint = "name the columns as in the manifest: `p2pfl federation show`"
            raise DataError(f"{self._path}, column {name}: {where} the header", hint)
        return self.header.index(name)

    def features(self, columns: Sequence[Column], cells: Sequence[str]) -> list[float]:
        """The features of the row read last, from its ``cells`` for ``columns``: see :class:`Table`."""
        row: list[float] = []
        for column, cell in zip(columns, cells, strict=True):
            if column.kind == "numeric":
                row.append(min(max(self._number(column, cell), column.low), column.high))
            elif cell in column.levels:
                row.extend(float(cell == level) for level in column.levels[1:])
            else:
                hint = f"the manifest declares: {', '.join(column.levels)}"
                self.refuse(f"{shown(cell)} is not a declared level", hint, column.name)
        return row

    def _number(self, column: Column, cell: str) -> float:
        try:
            number = math.nan if "_" in cell else float(cell)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            hint = "write numbers with a decimal point; task.missing of the manifest lists what means unknown"
            self.refuse(f"{shown(cell)} is not a number", hint, column.name)
        return number

    def refuse(self, reason: str, hint: str, column: str = "") -> NoReturn:
        """Raise DataError about the row read last."""
        where = f", column {column}" if column else ""
        raise DataError(f"{self._path}, line {self._reader.line_num}{where}: {reason}", hint)


@contextmanager
def open_rows(path: Path) -> Iterator[Rows]:
    """Read the CSV file at ``path``: UTF-8, comma-separated, the names of its columns in the first line.

    Raises DataError, also inside the block, if it cannot be read or is not that.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield Rows(path, file)
    except OSError as error:
        hint = "check the path and its permissions"
        raise DataError(f"{path}: cannot be read: {reason_of(error)}", hint) from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file in UTF-8", "save the table as CSV in UTF-8") from None
    except csv.Error as error:
        hint = "save the table as plain comma-separated text"
        raise DataError(f"{path}: not valid CSV ({error})", hint) from None
