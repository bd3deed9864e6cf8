"""``p2pfl predict``: the federation's model applied to a file."""

import argparse
import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.backbone_option import add_backbone

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from p2pfl.gossip.manifest import Manifest

Cells = Sequence[Sequence[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl predict``."""
    parser.description = (
        "Apply the federation's model to a table (CSV or Parquet, no label column needed) and write its rows"
        " as CSV with more columns: positive (1 or 0) and its probability for two classes; class and its"
        " probability for several; value for a number. A model of kind svm gives a margin instead of a"
        " probability. A name that the file has already gets predicted_ before it. The new cells stay empty"
        " in a row with a missing one. Of pictures, a row for each is written. Nothing leaves this machine."
    )
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the node's TOML")
    add_backbone(parser)
    parser.add_argument(
        "--model", metavar="FILE", type=Path, help="a model file (default: the node's latest)"
    )
    parser.add_argument("--data", metavar="FILE", type=Path, required=True, help="the records")
    parser.add_argument("--out", metavar="CSV", type=Path, help="write there (default: standard output)")


def run(options: argparse.Namespace) -> int:
    """Write the predictions."""
    from p2pfl.applied import AppliedModel
    from p2pfl.node.storage.atomic_file import write_output
    from p2pfl.node.training.unlabelled import load_unlabelled
    from p2pfl.opened import opened_state

    with opened_state(options.config, options.backbone) as state:
        model = AppliedModel.load(state, options.model)
        records = load_unlabelled(options.data, state.manifest.task)
        names, predictions = _told(state.manifest, model.predict(records.table))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*records.header, *(_unused(name, records.header) for name in names)])
    each = iter(predictions)
    for row, whole in zip(records.rows, records.whole, strict=True):
        writer.writerow([*row, *(next(each) if whole else [""] * len(names))])
    if options.out is None:
        print(text.getvalue(), end="")
    else:
        write_output(options.out, text.getvalue().encode(), 0o600)
    return 0


def _told(manifest: "Manifest", predicted: "NDArray[np.float64]") -> tuple[tuple[str, ...], Cells]:
    """Names of the columns to add, and their cells for every prediction."""
    from p2pfl.gossip.manifest import OutsideTask, PluginTask, TabularTask, TextTask

    task, certain = manifest.task, "margin" if manifest.model.kind == "svm" else "probability"
    if isinstance(task, TextTask | OutsideTask):
        raise AssertionError("no predictions of their own")  # load_unlabelled has refused them
    if isinstance(task, PluginTask):
        from p2pfl.node.training.plugins import column_names

        return column_names(task, predicted.shape[1]), [
            [f"{value:.6g}" for value in row] for row in predicted
        ]
    if isinstance(task, TabularTask) and task.is_regression:
        return ("value",), [[f"{value:.6g}"] for value in predicted]
    if task.outputs == 1:
        least = 0.0 if certain == "margin" else 0.5
        return (certain, "positive"), [[f"{value:.6f}", str(int(value > least))] for value in predicted]
    best = predicted.argmax(axis=1)
    cells = [[task.classes[k], f"{row[k]:.6f}"] for k, row in zip(best, predicted, strict=True)]
    return ("class", certain), cells


def _unused(name: str, taken: Collection[str]) -> str:
    """``name``, or what it becomes if the data, or a prediction made earlier, has that column already."""
    while name in taken:
        name = f"predicted_{name}"
    return name
