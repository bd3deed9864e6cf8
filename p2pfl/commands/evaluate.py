"""``p2pfl evaluate``: how good the federation's model is on a file of one's own."""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.backbone_option import add_backbone

if TYPE_CHECKING:
    from p2pfl.gossip.manifest import Manifest
    from p2pfl.node.training.metrics import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl evaluate``."""
    parser.description = (
        "Measure the federation's model on labelled records of your own. Nothing leaves this machine."
    )
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the node's TOML")
    add_backbone(parser)
    parser.add_argument(
        "--model", metavar="FILE", type=Path, help="a model file (default: the node's latest)"
    )
    parser.add_argument(
        "--data",
        metavar="FILE",
        type=Path,
        help="the records (default: those that the config keeps aside: data.test, data.held_out)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print how right and how wrong it is."""
    from p2pfl.applied import AppliedModel
    from p2pfl.node.errors import UsageError
    from p2pfl.node.start import load_test
    from p2pfl.node.training.table import load_table
    from p2pfl.opened import opened_state

    with opened_state(options.config, options.backbone) as state:
        manifest = state.manifest
        if options.data is None:
            table = load_test(state.config, manifest.task, state.store)
        else:
            table = load_table(options.data, manifest.task)
        if table is None:
            what = "--data: missing, and the config has neither data.test nor data.held_out"
            raise UsageError(what, "name a file with --data")
        model = AppliedModel.load(state, options.model)
        result = model.evaluate(table)
        own = AppliedModel.personal(state) if options.model is None else None
        personal = None if own is None else own.evaluate(table)
    if options.json:
        found = {"round": model.round, "dropped": table.dropped}
        beside = {} if personal is None else {"personal": personal.as_dict()}
        print(json.dumps(result.as_dict() | found | beside, indent=1))
        return 0
    for line in _lines(manifest, result):
        print(line)
    if table.dropped:
        print(f"left out: {table.dropped} {manifest.task.left_out}")
    print(f"model: {options.model if model.round is None else f'of round {model.round}'}")
    for line in () if personal is None else _lines(manifest, personal):
        print(f"personal {line}")
    return 0


def _lines(manifest: "Manifest", result: "Evaluation") -> list[str]:
    """How good the model is, in the task's own terms."""
    from p2pfl.gossip.manifest import TextTask

    figures, count = result.figures, f"{result.total:.0f} records"
    if isinstance(manifest.task, TextTask):
        loss = figures["mean_loss"]
        foreseen = f"characters foreseen: {result.accuracy:.4f} of each of {count}"
        return [foreseen, f"mean loss: {loss:.4f} nats, {loss / math.log(2):.4f} bits a character"]
    (first, found), *others = figures.items()
    if first == "accuracy":
        count = f"{found * result.total:.0f} of {count}"
    lines = [f"{named(first, found)} ({count})", *(named(name, figure) for name, figure in others)]
    if "mean_loss" in figures:
        lines[-1] += " hinge" if manifest.model.kind == "svm" else " nats"
    return lines


def named(name: str, figure: float) -> str:
    """A figure of an evaluation for people: errors are in units of what is predicted, all else about 1."""
    words = {"auc": "AUC", "r2": "R²"}.get(name, name.replace("_", " "))
    return f"{words}: {figure:.6g}" if name.endswith("_error") else f"{words}: {figure:.4f}"
