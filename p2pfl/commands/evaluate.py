"""``p2pfl evaluate``: how good the federation's model is on a file of one's own."""

import argparse
import json
from pathlib import Path


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
        "--data", metavar="CSV", type=Path, help="the records (default: data.test of the config)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print accuracy and loss."""
    from p2pfl.applied import AppliedModel
    from p2pfl.node.errors import UsageError
    from p2pfl.node.training.table import load_table
    from p2pfl.opened import opened_state

    with opened_state(options.config) as state:
        path = options.data or state.config.data_test
        if path is None:
            raise UsageError(
                "--data: missing, and the config has no data.test", "name a CSV file with --data"
            )
        model = AppliedModel.load(state, options.model)
        table = load_table(path, state.manifest.task)
        result = model.evaluate(table)
    if options.json:
        found = {"round": model.round, "dropped": table.dropped, "mean_loss": result.loss / result.total}
        print(json.dumps(result.as_dict() | found, indent=1))
        return 0
    print(f"accuracy: {result.accuracy:.4f} ({result.correct:.0f} of {result.total:.0f} records)")
    print(f"mean loss: {result.loss / result.total:.4f} nats")
    if table.dropped:
        print(f"left out: {table.dropped} rows with missing cells")
    print(f"model: {options.model if model.round is None else f'of round {model.round}'}")
    return 0
