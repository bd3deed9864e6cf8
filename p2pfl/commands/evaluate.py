"""``p2pfl evaluate``: how good the federation's model is on a file of one's own."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from p2pfl.gossip.manifest import Manifest
    from p2pfl.node.training.trainer import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl evaluate``."""
    parser.description = (
        "Measure the federation's model on labelled records of your own. Nothing leaves this machine."
    )
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the node's TOML")
    parser.add_argument(
        "--model", metavar="FILE", type=Path, help="a model file (default: the node's latest)"
    )
    parser.add_argument(
        "--data", metavar="FILE", type=Path, help="the records (default: data.test of the config)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print how right and how wrong it is."""
    from p2pfl.applied import AppliedModel
    from p2pfl.node.errors import UsageError
    from p2pfl.node.training.objectives import objective
    from p2pfl.node.training.table import load_table
    from p2pfl.opened import opened_state

    with opened_state(options.config) as state:
        path = options.data or state.config.data_test
        if path is None:
            raise UsageError("--data: missing, and the config has no data.test", "name a file with --data")
        manifest = state.manifest
        model = AppliedModel.load(state, options.model)
        table = load_table(path, manifest.task)
        result = model.evaluate(table)
    unit = objective(manifest.task, manifest.model).unit
    if options.json:
        found = {
            "round": model.round,
            "dropped": table.dropped,
            "mean_loss": unit * result.loss / result.total,
        }
        print(json.dumps(result.as_dict() | found, indent=1))
        return 0
    for line in _lines(manifest, result, unit):
        print(line)
    if table.dropped:
        print(f"left out: {table.dropped} {manifest.task.left_out}")
    print(f"model: {options.model if model.round is None else f'of round {model.round}'}")
    return 0


def _lines(manifest: "Manifest", result: "Evaluation", unit: float) -> list[str]:
    """How good the model is, in the task's own terms."""
    from p2pfl.gossip.manifest import TabularTask, TextTask

    task, loss = manifest.task, unit * result.loss / result.total
    if isinstance(task, TabularTask) and task.is_regression:
        error = (1 - result.accuracy) * (task.high - task.low)
        return [
            f"mean absolute error: {error:.6g} ({result.total:.0f} records)",
            f"root mean squared error: {math.sqrt(loss):.6g}",
        ]
    if isinstance(task, TextTask):
        foreseen = f"characters foreseen: {result.accuracy:.4f} of each of {result.total:.0f} records"
        return [foreseen, f"mean loss: {loss:.4f} nats, {loss / math.log(2):.4f} bits a character"]
    counts = f"{result.correct:.0f} of {result.total:.0f} records"
    measure = "hinge" if manifest.model.kind == "svm" else "nats"
    return [f"accuracy: {result.accuracy:.4f} ({counts})", f"mean loss: {loss:.4f} {measure}"]
