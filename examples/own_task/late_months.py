"""How many of the last three months a client paid late: a count, learnt by Poisson regression."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import poisson_nll_loss

from p2pfl.tasks import Task


class LateMonths(Task):
    unit = 2.0  # nats that count as a loss of 1 in evaluations
    columns = ("expected_months",)  # in `p2pfl predict`

    def __init__(self, hidden: int) -> None:  # [task.arguments] of the manifest
        self.hidden = hidden

    def load(self, path: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        rows = np.genfromtxt(path, delimiter=",", names=True)
        late = [rows[f"PAY_{month}"] > 0 for month in (0, 2, 3, 4, 5, 6)]  # the latest first
        inputs = np.stack([*late[3:], rows["LIMIT_BAL"] / 500_000, rows["AGE"] / 50], axis=1)
        return inputs, np.sum(late[:3], axis=0)

    def module(self) -> nn.Module:
        return nn.Sequential(nn.Linear(5, self.hidden), nn.Tanh(), nn.Linear(self.hidden, 1))

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return poisson_nll_loss(outputs[:, 0], targets, full=True, reduction="none")

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs[:, 0].exp().round() == targets

    def predicted(self, outputs: Tensor) -> Tensor:
        return outputs.exp()
