"""Plain text as records of characters."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.gossip.manifest import TextTask
from p2pfl.gossip.records import shown
from p2pfl.node.errors import DataError, reason_of
from p2pfl.node.storage.regular_file import regular_only

PADDING: Final = -1
"""The target of a place in a record that has no character."""

Characters = NDArray[np.int16]


def load_text(path: Path, task: TextTask, most: int) -> tuple[Characters, Characters, int]:
    """Characters, those that follow them, and how many were left out: int16, shape (records, window) twice.

    What is beyond a record's window, or alone in a record, is left out, and so is what the alphabet lacks if
    ``task`` says so. Raises DataError if the file cannot be read, has other characters, or less than one
    record or more than ``most``.
    """
    places = {character: place for place, character in enumerate(task.alphabet)}
    lines = _read(path).split("\n")
    records: list[list[int]] = []
    left_out = 0
    for first_line, text in _pieces(lines, task):
        known = [places[character] for character in text if character in places]
        if len(known) < len(text) and task.unknown == "refuse":
            _refuse(path, first_line, text, task.alphabet)
        kept = known[: task.window + 1]
        left_out += len(text) - len(kept)
        if len(kept) > 1:
            records.append(kept)
        else:
            left_out += len(kept)
        if len(records) > most:
            raise DataError(f"{path}: more than {most} records", "give this node less text")
    if not records:
        raise DataError(f"{path}: no record of two characters or more", "a node needs at least one record")
    return *_stacked(records, task.window), left_out


def _stacked(records: list[list[int]], window: int) -> tuple[Characters, Characters]:
    inputs = np.zeros((len(records), window), np.int16)
    targets = np.full((len(records), window), PADDING, np.int16)
    for row, record in enumerate(records):
        inputs[row, : len(record) - 1] = record[:-1]
        targets[row, : len(record) - 1] = record[1:]
    return inputs, targets


def _pieces(lines: list[str], task: TextTask) -> Iterator[tuple[int, str]]:
    """The records' texts, each with the number of the line that it begins in."""
    if task.record == "line":
        yield from ((number, line) for number, line in enumerate(lines, 1) if line)
    elif task.record == "document":
        start, gathered = 1, list[str]()
        for number, line in enumerate([*lines, ""], 1):
            if line.strip():
                gathered.append(line)
                continue
            if gathered:
                yield start, "\n".join(gathered)
            start, gathered = number + 1, []
    else:
        text, size, number = "\n".join(lines), task.window + 1, 1
        for start in range(0, len(text), size):
            piece = text[start : start + size]
            yield number, piece
            number += piece.count("\n")


def _read(path: Path) -> str:
    try:
        with open(path, encoding="utf-8-sig", opener=regular_only) as file:
            return file.read()
    except OSError as error:
        hint = "check the path and its permissions"
        raise DataError(f"{path}: cannot be read: {reason_of(error)}", hint) from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file in UTF-8", "save it as plain text in UTF-8") from None


def _refuse(path: Path, first_line: int, text: str, alphabet: str) -> None:
    position = next(at for at, character in enumerate(text) if character not in alphabet)
    line = first_line + text[:position].count("\n")
    hint = 'replace it; or a federation whose manifest has task.unknown = "skip" passes over such characters'
    raise DataError(f"{path}, line {line}: {shown(text[position])} is not in the declared alphabet", hint)
