"""What models that are not p2pfl's own are trained for and measured by."""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from p2pfl.node.errors import ManifestProblem
from p2pfl.node.training.plugins import Task

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PluginObjective:
    """That of a plug-in."""

    task: Task

    @property
    def unit(self) -> float:
        """The plug-in's."""
        return self.task.unit

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The plug-in's."""
        return self.task.losses(outputs, targets)

    def slopes(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """By autograd: nobody has them in closed form."""
        with torch.enable_grad():
            given = outputs.detach().requires_grad_()
            (slopes,) = torch.autograd.grad(self.task.losses(given, targets).sum(), given)
        return slopes

    def measured(self, outputs: Array, targets: NDArray[Any]) -> tuple[Array, Array]:
        """The plug-in's; who sums them holds them to their bounds."""
        given, wanted = torch.from_numpy(outputs), torch.from_numpy(targets)
        wanted = wanted.double() if wanted.is_floating_point() else wanted.long()
        with torch.no_grad():
            correct = self.task.correct(given, wanted).double()
            losses = self.task.losses(given, wanted).double() / self.unit
        return correct.numpy(), losses.numpy()

    def predicted(self, outputs: Array) -> Array:
        """The plug-in's, (n, columns)."""
        with torch.no_grad():
            told: Array = self.task.predicted(torch.from_numpy(outputs)).double().numpy()
        return told.reshape(len(outputs), -1)


class OutsideObjective:
    """That of a training loop elsewhere: nobody here knows it."""

    unit = 1.0

    def losses(self, outputs: Tensor, targets: Tensor) -> NoReturn:
        """Raises ManifestProblem."""
        _elsewhere()

    def slopes(self, outputs: Tensor, targets: Tensor) -> NoReturn:
        """Raises ManifestProblem."""
        _elsewhere()

    def measured(self, outputs: Array, targets: NDArray[Any]) -> NoReturn:
        """Raises ManifestProblem."""
        _elsewhere()

    def predicted(self, outputs: Array) -> NoReturn:
        """Raises ManifestProblem."""
        _elsewhere()


def _elsewhere() -> NoReturn:
    what = 'the manifest\'s task is "outside": only your own training loop knows what its model computes'
    raise ManifestProblem(what, "measure and use the model there; p2pfl hands it over at the end")
