"""``p2pfl export``: the federation's model as a file that needs no p2pfl, and a card that says what it is."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.backbone_option import add_backbone

if TYPE_CHECKING:
    from p2pfl.applied import AppliedModel
    from p2pfl.node.training.metrics import Evaluation
    from p2pfl.node.training.preprocessing import Scaling

FORMATS = (".safetensors", ".pt2", ".onnx")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl export``."""
    parser.description = (
        "Write the node's latest model to FILE, and what it is, promises and needs to FILE.md. The end of the"
        " name is the format: .safetensors has the tensors by name, the scales of the inputs among them; .pt2"
        " (for torch.export.load) and .onnx are programs from the record to the answer. Prints the SHA-256 of"
        " FILE, by which a manifest can name a .safetensors file as initial values. Nothing is overwritten."
    )
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the node's TOML")
    add_backbone(parser)
    parser.add_argument(
        "--out", metavar="FILE", type=Path, required=True, help=f"the model file: {', '.join(FORMATS)}"
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="also what is this organisation's own: how good the model is on records kept aside, not noised,"
        " and private layers if the model has any",
    )


def run(options: argparse.Namespace) -> int:
    """Write both files; print the digest of the first."""
    import hashlib

    from p2pfl.applied import AppliedModel
    from p2pfl.model_card import card_of, markdown
    from p2pfl.node.errors import StorageError, UsageError
    from p2pfl.node.storage.atomic_file import write_output
    from p2pfl.node.training.preprocessing import scaling
    from p2pfl.opened import opened_state
    from p2pfl.terminal import note

    out: Path = options.out
    if out.suffix not in FORMATS:
        raise UsageError(f"--out {out}: no format is called so", f"end the name in {', '.join(FORMATS)}")
    card_file = out.with_name(f"{out.name}.md")
    for path in (out, card_file):
        if path.exists():
            hint = "choose another name, or remove it first"
            raise StorageError(f"{path} exists already, and is never overwritten", hint)
    with opened_state(options.config, options.backbone) as state:
        model = AppliedModel.load(state, None)
        released = state.store.released()
        assert released is not None  # AppliedModel.load has refused
        _require_shared(model, options.private)
        scaled = scaling(state.manifest, released.statistics)
        own = _own_evaluation(model) if options.private else None
        card = card_of(state, released, own, None if scaled is None else scaled.limit)
        data = _contents(out.suffix, model, scaled, json.dumps(card, sort_keys=True, allow_nan=False))
    write_output(out, data, 0o600)
    write_output(card_file, markdown(card, state.manifest, out.name).encode(), 0o600)
    print(hashlib.sha256(data).hexdigest())
    note(f"this is the SHA-256 of {out}; what it is and how to use it is in {card_file}")
    return 0


def _require_shared(model: "AppliedModel", private: bool) -> None:
    """Raises UsageError if the model has private layers and nobody said that they may leave."""
    from p2pfl.node.errors import UsageError

    layers = model.state.manifest.model.private
    if layers and not private:
        what = f"the model's private layers ({', '.join(layers)}) are this organisation's own"
        hint = "add --private to export them all the same, and keep the file to yourselves"
        raise UsageError(what, hint)


def _own_evaluation(model: "AppliedModel") -> "Evaluation | None":
    """On the records that the config keeps aside, if there are any."""
    from p2pfl.node.start import load_test

    table = load_test(model.state.config, model.state.manifest.task, model.state.store)
    return None if table is None else model.evaluate(table)


def _contents(suffix: str, model: "AppliedModel", scaled: "Scaling | None", card: str) -> bytes:
    """The bytes of the model's file."""
    from p2pfl.model_card import uncovered_layers
    from p2pfl.node.storage.model_file import exported_model, told_of
    from p2pfl.node.training.exported import Program, onnx_program, torch_program

    trainer = model.trainer()
    parameters = trainer.whole(model.parameters)
    told = told_of(card, bool(uncovered_layers(model.state.manifest)))
    if suffix == ".safetensors":
        scales = {} if scaled is None else scaled.tensors
        return exported_model(trainer.model.tensors(parameters) | scales, told)
    program = Program(trainer.model.network(parameters), scaled, trainer.objective)
    write = torch_program if suffix == ".pt2" else onnx_program
    return write(program, model.state.manifest, told)
