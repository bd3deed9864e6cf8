"""Four hospitals' patients: the data of `p2pfl demo` and of benchmarks/heart_disease.py, prepared as in
published work.

UCI Heart Disease (Janosi, Steinbrunn, Pfisterer, Detrano 1988), split by hospital and into training and test
records exactly like FLamby's Fed-Heart-Disease (Ogier du Terrail et al. 2022), so that accuracies compare.
data/heart_disease/README.md has the source, the licence and how the split was made.
"""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from p2pfl.node.storage.atomic_file import write_atomically

_DATA: Final = files("p2pfl") / "data" / "heart_disease"

FEDERATION_TOML: Final = _DATA / "federation.toml"
"""The manifest of the four hospitals for people to read; ISSUER stands for the peer id of whoever issues
tickets.
"""
HOSPITALS: Final = ("cleveland", "hungarian", "switzerland", "va")
HEADER: Final = (
    "age",
    "sex",
    "cp",
    "trestbps",
    "chol",
    "fbs",
    "restecg",
    "thalach",
    "exang",
    "oldpeak",
    "num",
)
"""Columns kept; ``num`` is the label, 0 for no disease, 1 to 4 for its severity."""


@dataclass(frozen=True, slots=True)
class Published:
    """Accuracy of one method on this split: ``each`` hospital's test records in the order of HOSPITALS,
    ``pooled`` all of them.
    """

    each: tuple[float, float, float, float]
    mean: float
    pooled: float


PUBLISHED: Final = {
    "pooled": Published((0.783, 0.764, 0.750, 0.644), 0.735, 0.795),
    "federated averaging": Published((0.731, 0.719, 0.650, 0.640), 0.685, 0.748),
}
"""FLamby's run of its own baselines on Fed-Heart-Disease (Ogier du Terrail et al., NeurIPS 2022; owkin/FLamby
at edacf54, flamby/results), means of five seeds, no privacy.
"""

Rows = tuple[tuple[str, ...], ...]

_DROPPED_COLUMNS: Final = (10, 11, 12)  # slope, ca, thal: mostly unknown in three of the hospitals
_UNKNOWN: Final = "?"


@cache
def hospital_tables() -> Mapping[str, tuple[Rows, Rows]]:
    """Training and test rows of every hospital, cells as text in the order of :data:`HEADER`.

    Rows with an unknown cell in a kept column are left out. Whole numbers are written without a fraction in
    all files.
    """
    test_rows: dict[str, list[int]] = json.loads((_DATA / "test_rows.json").read_text(encoding="utf-8"))
    tables = {}
    for name in HOSPITALS:
        rows, chosen = _complete_rows(name), set(test_rows[name])
        train = tuple(row for number, row in enumerate(rows) if number not in chosen)
        test = tuple(row for number, row in enumerate(rows) if number in chosen)
        tables[name] = train, test
    return tables


def write_hospital(directory: Path, name: str) -> None:
    """Write ``train.csv`` and ``test.csv`` of the hospital ``name`` into ``directory``, which must be there.

    Files are readable by the owner only, as patients' data should be. Raises StorageError if they cannot be
    written.
    """
    for file_name, rows in zip(("train.csv", "test.csv"), hospital_tables()[name], strict=True):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows((HEADER, *rows))
        write_atomically(directory / file_name, text.getvalue().encode(), 0o600)


def _complete_rows(name: str) -> list[tuple[str, ...]]:
    text = (_DATA / f"processed.{name}.data").read_text(encoding="ascii")
    rows = []
    for row in csv.reader(text.splitlines()):
        kept = [cell for position, cell in enumerate(row) if position not in _DROPPED_COLUMNS]
        if _UNKNOWN not in kept:
            rows.append(tuple(f"{float(cell):g}" for cell in kept))
    return rows
