"""Models that are not p2pfl's own: a plug-in's module, and one of which only the shapes are known."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Final, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from p2pfl.gossip.manifest import Manifest, OutsideModel, PluginModel, PluginTask
from p2pfl.node.errors import ManifestProblem
from p2pfl.node.training.models import Model
from p2pfl.node.training.objectives import Objective, objective
from p2pfl.node.training.plugins import installed, network_of
from p2pfl.node.training.table import Table

Vector = NDArray[np.float64]
Numbers = NDArray[Any]

_BLOCK: Final = 256
"""Records at a time: what a plug-in's module makes of one is not declared."""
_TRIED: Final = 4
_MANY: Final = 64
"""Records of the trial of a whole batch: some code mixes large ones only."""
_SAME: Final = 1e-6
"""How far, relatively, a record's outputs may move when another takes a neighbour's place: nothing is summed
in another order.
"""
_CLOSE: Final = 1e-3
"""How far a record's outputs may move, relatively, with the rest of its batch: more than by rounding."""


def own_model(manifest: Manifest) -> Model | None:
    """The model of a manifest whose task is not p2pfl's own; None if it is.

    Raises ManifestProblem if the plug-in cannot be used here, PrivacyError if a layer of its mixes records.
    """
    aim = objective(manifest.task, manifest.model)
    if isinstance(manifest.task, PluginTask) and isinstance(manifest.model, PluginModel):
        return InstalledModel(manifest.task, manifest.model, aim)
    return DeclaredModel(manifest.model, aim) if isinstance(manifest.model, OutsideModel) else None


def asked(task: PluginTask) -> PluginModel:
    """What a manifest says of the plug-in's model. Raises as :func:`own_model` does."""
    draft = PluginModel("plugin")
    model = InstalledModel(task, draft, objective(task, draft))
    return PluginModel("plugin", model.dimension, installed(task).outputs)


def try_out(manifest: Manifest, table: Table) -> None:
    """Have a plug-in work on a few records, so that what is wrong with it shows before anything begins.

    Raises ManifestProblem, also if what a record gives depends on others.
    """
    model = own_model(manifest)
    if isinstance(model, InstalledModel):
        model.try_out(table)


class InstalledModel(Model):
    """The module of an installed plug-in."""

    def __init__(self, task: PluginTask, spec: PluginModel, aim: Objective) -> None:
        module, self._drawn = network_of(task)
        super().__init__(spec, 0, aim, torch.float32, module=module)
        self.block = _BLOCK
        self._task, self._spec, self._aim = task, spec, aim
        self._made = self._gradient.read().double().numpy()
        if spec.known and (self.dimension, installed(task).outputs) != (spec.size, spec.outputs):
            agreed = f"the manifest says {spec.size} parameters and {spec.outputs} outputs"
            found = f"plug-in {task.name!r} has {self.dimension} and {installed(task).outputs}"
            hint = "install the package that the members agreed on, or found another federation"
            raise ManifestProblem(f"model.size: {agreed}, but {found}", hint)

    def initial(self, seed: bytes) -> NDArray[np.float64]:
        """As of any model, but for parameters that the module makes the same every time: they stay."""
        parameters = super().initial(seed)
        for slot in self.layout:
            if slot.name not in self._drawn:
                parameters[slot.start : slot.stop] = self._made[slot.start : slot.stop]
        return parameters

    def outputs(self, parameters: NDArray[np.float64], inputs: NDArray[np.generic]) -> NDArray[np.float64]:
        """What the module, in evaluation mode, gives for each of n inputs."""
        with _evaluating(self._module):
            return super().outputs(parameters, inputs)

    def try_out(self, table: Table) -> None:
        """See :func:`try_out`."""
        inputs, targets = table.features[:_TRIED], table.labels[:_TRIED]
        parameters = np.random.default_rng(0).normal(0.0, 0.1, self.dimension)
        before = {name: value.clone() for name, value in self._module.named_buffers()}
        try:
            together = self._answers(parameters, inputs, targets)
            each = zip(inputs, targets, strict=True)
            alone = [self._answers(parameters, one[None], target[None]) for one, target in each]
            mixes = any(self._mixes(table, training) for training in (True, False))
            if not mixes:
                self.summed_gradient(parameters, inputs, targets, 1.0)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            said = " ".join(f"{type(error).__name__}: {error}".split())
            self._refuse(f"fails on the first {len(inputs)} records: {said}")
        outputs, correct, losses, told = together
        shapes = {correct.shape, losses.shape, told.shape[:1]}
        if shapes != {(len(inputs),)} or outputs.size != len(inputs) * self._spec.outputs:
            self._refuse(f"gives {outputs.shape} outputs for {len(inputs)} records, losses {losses.shape}")
        if not np.isfinite(losses).any():
            self._refuse(f"gives losses that are no numbers on the first {len(inputs)} records")
        for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
            mixes |= not np.allclose(whole, np.concatenate(parts), _CLOSE, _CLOSE, equal_nan=True)
        if mixes:
            self._refuse("mixes records: what it gives for one depends on the others, of its batch or before")
        if any(not torch.equal(value, before[name]) for name, value in self._module.named_buffers()):
            self._refuse("changes buffers while it learns: what they hold of records has no noise")

    def _mixes(self, table: Table, training: bool) -> bool:
        """Whether, in this mode, replacing half of a batch, the larger records, changes what the others give;
        or a batch gives something else than before: then the module, or the losses, remember.
        """
        rows = np.arange(_MANY) % len(table)
        inputs, targets = self._tensor(table.features[rows]), self._tensor(table.labels[rows])
        ranked = inputs.flatten(1).double().abs().sum(1).argsort()
        others, larger = ranked[: _MANY // 2], ranked[_MANY // 2 :]
        changed, changed_targets = inputs.clone(), targets.clone()
        changed[larger], changed_targets[larger] = 0, 0
        with nullcontext() if training else _evaluating(self._module), torch.random.fork_rng(devices=[]):
            first = self._given(inputs, targets, training)
            replaced = self._given(changed, changed_targets, training)
            again = self._given(inputs, targets, training)
        close = partial(torch.allclose, rtol=_SAME, atol=_SAME, equal_nan=True)
        neighbours = zip(first, replaced, strict=True)
        return not (
            all(close(one[others], other[others]) for one, other in neighbours)
            and all(close(one, other) for one, other in zip(first, again, strict=True))
        )

    def _given(self, inputs: Tensor, targets: Tensor, training: bool) -> tuple[Tensor, Tensor]:
        """Outputs and losses, by the same draws every time."""
        torch.manual_seed(0)
        with torch.set_grad_enabled(training):
            outputs = self._module(inputs)
            return outputs.detach(), self._aim.losses(outputs, targets).detach()

    def _answers(self, parameters: Vector, inputs: Numbers, targets: Numbers) -> tuple[Vector, ...]:
        """Of these records, together: outputs, how right, losses, and what people are told."""
        outputs = self.outputs(parameters, inputs)
        return outputs, *self._aim.measured(outputs, targets), self._aim.predicted(outputs)

    def _refuse(self, what: str) -> NoReturn:
        hint = "its author has to correct it; for running statistics, use torch.nn.GroupNorm"
        raise ManifestProblem(f"task.name: plug-in {self._task.name!r} {what}", hint)


class DeclaredModel(Model):
    """Arrays of declared names and shapes, and nothing that computes with them."""

    def __init__(self, spec: OutsideModel, aim: Objective) -> None:
        super().__init__(spec, 0, aim, torch.float32, module=_Arrays(spec))
        self._starts = {tensor.name: tensor.start for tensor in spec.tensors}

    def initial(self, seed: bytes) -> NDArray[np.float64]:
        """As of any model, but for arrays that are declared to start as zeros or ones."""
        parameters = super().initial(seed)
        for slot in self.layout:
            start = self._starts[slot.name]
            if start != "drawn":
                parameters[slot.start : slot.stop] = start == "ones"
        return parameters


class _Arrays(nn.Module):
    def __init__(self, spec: OutsideModel) -> None:
        super().__init__()
        self._names = [tensor.name for tensor in spec.tensors]
        self._held = nn.ParameterList(torch.zeros(tensor.shape) for tensor in spec.tensors)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """By their declared names, in the declared order."""
        yield from zip(self._names, self._held, strict=True)

    def forward(self, _: Tensor) -> Tensor:
        """Only the members' own training loops know."""
        raise NotImplementedError


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Dropout and the like are out meanwhile."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training
