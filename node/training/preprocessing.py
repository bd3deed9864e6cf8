"""Standardisation: from the securely summed statistics of everybody's records to inputs of unit size.

Nobody learns another organisation's means; all use the same scale, which on the hospital data is worth more
than any optimiser. Numeric columns only: whether a record has a level is 0 or 1 already, and statistics of it
would cost noise in all the others. A missing number counts as the middle of its declared range in the
statistics, and is their mean in the inputs; what its absence means is learnt by its indicator.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.gossip.manifest import ImageTask, Manifest, TabularTask
from p2pfl.node.training.table import Table

INPUT_LIMIT = 8.0
"""Standard deviations from the mean at which an input is cut: one odd record cannot swamp a gradient."""
MEAN: Final = "preprocessing.mean"
SCALE: Final = "preprocessing.scale"
"""Names of the tensors of a :class:`Scaling` among those of a model."""
_LEAST_COUNT = 1e-6
_LEAST_VARIANCE_EXACT = 1e-6
_LEAST_VARIANCE_NOISED = 1e-2


@dataclass(frozen=True, slots=True, eq=False)
class Standardiser:
    """Maps a table's features to the model's inputs. ``mean`` and ``scale``: float64, shape (features,)."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def from_statistics(
        cls, task: TabularTask, statistics: NDArray[np.float64], *, noised: bool
    ) -> "Standardiser":
        """Read ``statistics``, a sum of :func:`statistics_of` over members, or any multiple of it.

        Noise can make any of it absurd, so: without a positive count, every column counts as uniform over its
        declared range; means are cut to that range; a variance is at least 10^-6 of the squared half-width of
        the range (10^-2 if ``noised``: a tenth of it in standard deviation, where noise is all that a smaller
        value would show).
        """
        count, sums, squares = statistics[0], *np.split(statistics[1:], 2)
        if count > _LEAST_COUNT:
            mean = np.clip(sums / count, -1.0, 1.0)
            variance = squares / count + 0.5 - mean**2
        else:
            mean, variance = np.zeros_like(sums), np.full_like(sums, 1 / 3)
        least = _LEAST_VARIANCE_NOISED if noised else _LEAST_VARIANCE_EXACT
        deviation = np.sqrt(np.clip(variance, least, 1.0))
        middle, half = _ranges(task)
        numeric = numeric_features(task)
        # A level is off by half from the middle, either way: 0 and 1 become -1/2 and 1/2.
        means, scales = np.full(task.features, 0.5), np.ones(task.features)
        means[numeric] = middle + half * mean
        scales[numeric] = half * deviation
        return cls(means, scales)

    def inputs(self, table: Table) -> NDArray[np.float64]:
        """What the model sees of ``table``: float64, shape (n, features), within ±INPUT_LIMIT."""
        inputs = (table.features.astype(np.float64) - self.mean) / self.scale
        np.nan_to_num(inputs, copy=False, nan=0.0)
        return np.clip(inputs, -INPUT_LIMIT, INPUT_LIMIT, out=inputs)


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """An input of the model is (number - ``mean``) / ``scale``, 0 if the number is missing, cut to
    ±``limit``. Of tables ``mean`` and ``scale`` are float64 (inputs,), of pictures (1,).
    """

    mean: NDArray[np.float64] = field(repr=False)
    scale: NDArray[np.float64] = field(repr=False)
    limit: float

    @property
    def tensors(self) -> dict[str, NDArray[np.float64]]:
        """As they lie in a file."""
        return {MEAN: self.mean, SCALE: self.scale}


def scaling(manifest: Manifest, statistics: NDArray[np.float64]) -> Scaling | None:
    """What numbers in a record are scaled by, with ``statistics`` as released; None if they are not, in text
    and where the task's code is not ours.
    """
    match manifest.task:
        case TabularTask() as task:
            noised = manifest.privacy.mode != "none"
            found = Standardiser.from_statistics(task, statistics, noised=noised)
            return Scaling(found.mean, found.scale, INPUT_LIMIT)
        case ImageTask(low=low, high=high):
            return Scaling(np.array([(low + high) / 2]), np.array([(high - low) / 2]), 1.0)
        case _:
            return None


def statistics_of(task: TabularTask, table: Table) -> NDArray[np.float64]:
    """Σ over records of (1, u_1…u_m, u_1² - ½…u_m² - ½), with u in [-1, 1] the numeric columns over their
    declared ranges.

    float64, shape (1 + 2m,). Squares are centred because that makes the longest possible record shorter,
    sqrt(1 + 1.25 m) instead of sqrt(1 + 2 m), and the noise with it.
    """
    middle, half = _ranges(task)
    scaled = (table.features[:, numeric_features(task)].astype(np.float64) - middle) / half
    np.nan_to_num(scaled, copy=False, nan=0.0)
    return np.concatenate([[float(len(table))], scaled.sum(axis=0), (scaled**2 - 0.5).sum(axis=0)])


def numeric_features(task: TabularTask) -> NDArray[np.bool_]:
    """Which features are the values of numeric columns: bool, shape (features,)."""
    features = [np.arange(column.features) == 0 for column in task.columns]
    numeric = [column.kind == "numeric" for column in task.columns]
    return np.concatenate([first & found for first, found in zip(features, numeric, strict=True)])


def _ranges(task: TabularTask) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle and half-width of every numeric column's declared range."""
    low, high = (
        np.array(
            [(column.low, column.high) for column in task.columns if column.kind == "numeric"], np.float64
        )
        .reshape(-1, 2)
        .T
    )
    return (low + high) / 2, (high - low) / 2
