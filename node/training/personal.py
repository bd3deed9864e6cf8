"""Fitting the released model to one organisation's own records: plain SGD, whose result never leaves it.

Neither clipped nor noised, with the organisation's own number of records as a denominator: nothing of this is
told to anybody, so nothing of it is charged.
"""

import math

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.randomness import RandomBytes
from p2pfl.node.errors import UsageError
from p2pfl.node.training.trainer import Trainer


def personalised(
    trainer: Trainer,
    start: NDArray[np.float64],
    statistics: NDArray[np.float64],
    epochs: int,
    learning_rate: float,
    random: RandomBytes,
) -> NDArray[np.float64]:
    """``start``, a :meth:`~.trainer.Trainer.whole` vector, after ``epochs`` passes over the training records,
    in batches as large as the federation's steps expect them to be.

    Raises UsageError if it diverged.
    """
    records = trainer.records
    batches = max(1, math.ceil(records / max(1.0, trainer.sampling_rate * records)))
    shuffle = np.random.default_rng(int.from_bytes(random(16), "little"))
    vector = start.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(epochs):
            for batch in np.array_split(shuffle.permutation(records), batches):
                chosen = np.zeros(records, np.bool_)
                chosen[batch] = True
                vector -= learning_rate * trainer.mean_gradient(vector, statistics, chosen)
    if not np.isfinite(vector).all():
        raise UsageError("--learning-rate: the fit diverged", f"give one well below {learning_rate:g}")
    return vector
