"""``p2pfl predict``: the federation's model applied to a file."""

import argparse
import csv
import io
from collections.abc import Collection
from pathlib import Path

_ADDED = ("probability", "positive")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl predict``."""
    parser.description = (
        "Apply the federation's model to a CSV file, which needs no label column, and write its rows with"
        " two more columns: probability (of being positive) and positive (1 or 0), with predicted_ before"
        " the name if the file has such a column. Both stay empty in a row with a missing cell. Nothing"
        " leaves this machine."
    )
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the node's TOML")
    parser.add_argument(
        "--model", metavar="FILE", type=Path, help="a model file (default: the node's latest)"
    )
    parser.add_argument("--data", metavar="CSV", type=Path, required=True, help="the records")
    parser.add_argument("--out", metavar="CSV", type=Path, help="write there (default: standard output)")


def run(options: argparse.Namespace) -> int:
    """Write the predictions."""
    from p2pfl.applied import AppliedModel
    from p2pfl.node.atomic_file import write_output
    from p2pfl.node.training.unlabelled import load_unlabelled
    from p2pfl.opened import opened_state

    with opened_state(options.config) as state:
        model = AppliedModel.load(state, options.model)
        records = load_unlabelled(options.data, state.manifest.task)
        probabilities = iter(model.predict(records.table))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*records.header, *(_unused(name, records.header) for name in _ADDED)])
    for row, whole in zip(records.rows, records.whole, strict=True):
        probability = next(probabilities) if whole else None
        added = ("", "") if probability is None else (f"{probability:.6f}", int(probability > 0.5))
        writer.writerow([*row, *added])
    if options.out is None:
        print(text.getvalue(), end="")
    else:
        write_output(options.out, text.getvalue().encode(), 0o600)
    return 0


def _unused(name: str, taken: Collection[str]) -> str:
    """``name``, or what it becomes if the data, or a prediction made earlier, has that column already."""
    while name in taken:
        name = f"predicted_{name}"
    return name
