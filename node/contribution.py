"""What a node adds to a sum: encoded and noised piece by piece, while earlier pieces are masked and sent."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.discrete_gaussian import Samples
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.crypto.ring import Encoder, RingVector
from p2pfl.gossip.thresholds import Thresholds
from p2pfl.node.privacy import StagePlan, noise_source


class LazyContribution:
    """``values`` as ``plan`` encodes and noises them in ``group``, in which ``spent`` members have no budget
    left; without noise if ``group`` is None.

    Shaped like the vector over the ring that it stands for, and gives it out in slices, in order: the same
    elements however it is cut. ``values`` must stay as they are until the last slice. Raises ValueError for a
    nan or an infinity before it draws anything.
    """

    def __init__(
        self,
        values: NDArray[np.float64],
        plan: StagePlan,
        group: Thresholds | None,
        random: RandomBytes,
        spent: int = 0,
    ) -> None:
        self._encoder = Encoder(values, plan.encoding, random)
        self.sigma = 0.0 if group is None else plan.sigma(group, spent)
        """Standard deviation of the noise, in grid steps."""
        self._noise: Samples | None = None if group is None else noise_source(plan, group, random, spent)

    def __len__(self) -> int:
        return len(self._encoder)

    @property
    def shape(self) -> tuple[int]:
        """(dimension,)."""
        return self._encoder.shape

    @property
    def dtype(self) -> "np.dtype[np.unsignedinteger[Any]]":
        """The ring's."""
        return self._encoder.dtype

    @property
    def saturated(self) -> int:
        """How many values were cut to the encoding's limit so far: known after the last slice."""
        return self._encoder.saturated

    def __getitem__(self, part: slice) -> RingVector:
        """The next elements. Raises ValueError unless ``part`` starts where the last one ended."""
        encoded = self._encoder[part]
        if self._noise is not None:
            self._noise.add_to(encoded)
        return encoded
