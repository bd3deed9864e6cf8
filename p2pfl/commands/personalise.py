"""``p2pfl personalise``: the federation's model, fitted to this organisation's own records."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.backbone_option import add_backbone

if TYPE_CHECKING:
    from p2pfl.personal_model import Fitted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl personalise``."""
    parser.description = (
        "Train the federation's latest model further on this node's own training records, into a file of its"
        " own in the state directory, and measure both on the held-out records. It costs no epsilon because"
        " nothing leaves this machine: no noise covers your records in that file, so keep it to yourself."
        " The node may be running meanwhile, and goes on with the shared model."
    )
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the node's TOML")
    add_backbone(parser)
    parser.add_argument(
        "--epochs", metavar="N", type=int, default=5, help="passes over the training records (default: 5)"
    )
    parser.add_argument(
        "--learning-rate", metavar="RATE", type=float, help="of each step (default: the federation's)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Fit it, keep it, and print how good shared and personal model are."""
    from p2pfl.node.errors import UsageError
    from p2pfl.opened import opened_state
    from p2pfl.personal_model import fit

    if not 1 <= options.epochs <= 1_000_000:
        raise UsageError("--epochs: must be a whole number from 1 to 1000000", "5 is usual")
    rate = options.learning_rate
    if rate is not None and not 0 < rate <= 1e6:
        raise UsageError(
            "--learning-rate: must be above 0 and at most 1e6", "leave it out for the federation's"
        )
    with opened_state(options.config, options.backbone) as state:
        fitted = fit(state, options.epochs, rate)
    if options.json:
        print(json.dumps(fitted.as_dict(), indent=1))
        return 0
    _print(fitted)
    return 0


def _print(fitted: "Fitted") -> None:
    from p2pfl.terminal import note

    if fitted.shared is None or fitted.personal is None:
        note("the config has no data.test and no data.held_out: keep records aside to see what it brought")
    else:
        personal = fitted.personal.figures
        print(f"{f'on {fitted.shared.total:.0f} held-out records':32}{'shared':>10}{'personal':>10}")
        for name, figure in fitted.shared.figures.items():
            print(f"{name.replace('_', ' '):32}{figure:10.4g}{personal[name]:10.4g}")
    note(f"written to {fitted.file}: your own records are in it without noise, so it must stay here")
