"""A model for use without p2pfl: its tensors by name, and as a program that takes records as they are.

A program has everything between a record and an answer in it: the scales, the cut at their end, the network,
and what makes a probability of a score. It is written by torch.export, which replaces TorchScript (deprecated
in torch), or by way of that as ONNX.
"""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch
from torch import Tensor, nn

from p2pfl.gossip.manifest import ImageTask, Manifest, TabularTask, TextTask
from p2pfl.node.errors import UsageError
from p2pfl.node.training.objectives import Classes, NextCharacter, Number, Objective, TwoClasses
from p2pfl.node.training.preprocessing import Scaling

_ONNX_PACKAGES: Final = ("onnx", "onnxscript")


class Program(nn.Module):
    """From records to answers.

    Takes, of n records: of a table float64 (n, inputs), every number in the column's own unit, nan where it
    is missing, levels as 0 and 1; pictures float64 (n, channels, height, width), their numbers as in the
    files; of text int64 (n, window), positions in the alphabet. Gives what
    :meth:`.trainer.Trainer.predict` says.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, scaled: Scaling | None, objective: Objective) -> None:
        super().__init__()
        self._network, self._objective, self._scaled = network, objective, scaled
        self._dtype = next(network.parameters()).dtype
        if scaled is not None:
            self.register_buffer("mean", torch.from_numpy(scaled.mean))
            self.register_buffer("scale", torch.from_numpy(scaled.scale))

    def forward(self, records: Tensor) -> Tensor:
        """Answers, float64: (n,), (n, classes), or (n, window, alphabet)."""
        if self._scaled is not None:
            inputs = (records - self.mean) / self.scale
            inputs = torch.where(inputs.isnan(), torch.zeros_like(inputs), inputs)
            records = inputs.clamp(-self._scaled.limit, self._scaled.limit).to(self._dtype)
        return _answers(self._network(records).double(), self._objective)


def _answers(outputs: Tensor, objective: Objective) -> Tensor:
    """What :meth:`.objectives.Objective.predicted` gives, in torch."""
    match objective:
        case TwoClasses(hinge=False):
            return torch.sigmoid(outputs)
        case Classes(hinge=False) | NextCharacter():
            return torch.softmax(outputs, -1)
        case Number(low=low, high=high):
            return (low + high) / 2 + outputs.clamp(-1, 1) * ((high - low) / 2)
        case _:
            return outputs


def _example(manifest: Manifest) -> Tensor:
    """Two records as a :class:`Program` takes them, all zero. Raises UsageError if the task's code is not
    ours.
    """
    match manifest.task:
        case TabularTask(features=features):
            return torch.zeros(2, features, dtype=torch.float64)
        case ImageTask(channels=channels, height=height, width=width):
            return torch.zeros(2, channels, height, width, dtype=torch.float64)
        case TextTask(window=window):
            return torch.zeros(2, window, dtype=torch.int64)
    what = f"a model of kind {manifest.model.kind} runs with code of its members' own, which is not exported"
    raise UsageError(what, "export its tensors: give --out a name that ends in .safetensors")


def torch_program(program: Program, manifest: Manifest, told: Mapping[str, str]) -> bytes:
    """``program`` as torch.export.load reads it, for any number of records, and with what is to be ``told``
    of it, each in an extra file of its name. Raises UsageError.
    """
    buffer = io.BytesIO()
    torch.export.save(_exported(program, manifest), buffer, extra_files=dict(told))
    return buffer.getvalue()


def onnx_program(program: Program, manifest: Manifest, told: Mapping[str, str]) -> bytes:
    """``program`` as ONNX, for any number of records: input ``records``, output ``answers``; what is to be
    ``told`` of it is in the model's metadata.

    Raises UsageError, also if the packages that write it are not installed.
    """
    if any(find_spec(package) is None for package in _ONNX_PACKAGES):
        hint = "pip install 'p2pfl-node[onnx]', or export as .pt2, which needs nothing more"
        raise UsageError("ONNX files need the packages onnx and onnxscript", hint)
    exported = _exported(program, manifest)
    with TemporaryDirectory() as directory, _quiet():
        path = Path(directory) / "model.onnx"
        written = torch.onnx.export(exported, dynamo=True, input_names=["records"], output_names=["answers"])
        assert written is not None  # it is, by dynamo
        written.model.metadata_props.update(told)
        written.save(path, external_data=False)
        return path.read_bytes()


def _exported(program: Program, manifest: Manifest) -> torch.export.ExportedProgram:
    records = torch.export.Dim("count", min=1)
    with _quiet():
        return torch.export.export(
            program.eval(), (_example(manifest),), dynamic_shapes={"records": {0: records}}
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from telling its progress, and what it has deprecated in itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
