"""What a manifest says about training: the steps of a round, and the grid on which models are summed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from p2pfl.crypto.ring import RING_16, Ring, largest_fraction_bits
from p2pfl.gossip.declared import MAX_MAGNITUDE, ManifestError, require, require_range
from p2pfl.gossip.records import added

MAX_ROUNDS = 1_000_000
PARAMETER_LIMIT = 64.0
MAX_PARAMETER_LIMIT = 1e9
LEAST_FRACTION_BITS = 8  # in 16 bits: inputs are standardised, so a useful parameter is about 1


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """How a round trains.

    ``sampling_rate`` q: every record of every member enters a step with this probability, independently
    (Poisson sampling). ``expected_batch`` b: the public constant that a step's summed gradients are divided
    by, in records per member and step. ``local_steps``: steps between two averages. ``ring_bits``: width of a
    parameter in a sum. ``parameter_limit``: parameters beyond it are cut when they are summed, and counted.
    ``weight_decay`` λ: a step first shrinks every parameter by ``learning_rate`` · λ of its size, as a
    penalty of λ/2 · |x|² would. ``proximal`` μ: a step also moves back by ``learning_rate`` · μ of the way
    that the steps before it in this round have led, as a penalty of μ/2 · |x - start|² would (FedProx).
    ``momentum`` β: to what a member contributes it adds β of the way from the model that was released before
    the last one to the last one.
    """

    ABSENT: ClassVar[Mapping[str, str]] = {
        "optimizer": "a step is plain SGD, for what an optimiser keeps between steps would carry records past"
        " the noise; training.momentum works on what was released"
    }

    rounds: int
    learning_rate: float
    sampling_rate: float
    expected_batch: float
    local_steps: int = 1
    ring_bits: Literal[16, 32, 64] = added(32)
    parameter_limit: float = added(PARAMETER_LIMIT)
    weight_decay: float = added(0.0)
    proximal: float = added(0.0)
    momentum: float = added(0.0)

    def __post_init__(self) -> None:
        require_range(self.rounds, "training.rounds", 1, MAX_ROUNDS)
        require_range(self.learning_rate, "training.learning_rate", 0, 1e6, above=True)
        require_range(self.sampling_rate, "training.sampling_rate", 0, 1, above=True)
        require_range(self.expected_batch, "training.expected_batch", 0, MAX_MAGNITUDE, above=True)
        require_range(self.local_steps, "training.local_steps", 1, 100_000)
        require_range(self.parameter_limit, "training.parameter_limit", 0, MAX_PARAMETER_LIMIT, above=True)
        require_range(self.weight_decay, "training.weight_decay", 0, MAX_MAGNITUDE)
        shrinks = self.learning_rate * self.weight_decay <= 1
        require(shrinks, "training.weight_decay", "must be at most 1 / learning_rate")
        self._check_proximal()
        below = math.isfinite(self.momentum) and 0 <= self.momentum < 1
        require(below, "training.momentum", f"must be at least 0 and below 1, not {self.momentum!r}")

    def _check_proximal(self) -> None:
        require_range(self.proximal, "training.proximal", 0, MAX_MAGNITUDE)
        what = "has no effect with one step a round; leave it out, or take more local_steps"
        require(self.proximal == 0 or self.local_steps > 1, "training.proximal", what)
        stays = self.proximal == 0 or self.learning_rate * (self.proximal + self.weight_decay) <= 1
        what = "must be at most 1 / learning_rate, weight_decay included, or every step leads too far back"
        require(stays, "training.proximal", what)

    @property
    def ring(self) -> Ring:
        """Of the sums of parameters."""
        return Ring(self.ring_bits)


def require_grid(training: TrainingSpec, members: int) -> None:
    """Sums of ``members`` models must fit into the ring, on a grid that is fine enough to learn on."""
    ring, limit = training.ring, training.parameter_limit
    try:
        bits = largest_fraction_bits(members, limit, ring)
    except ValueError as error:
        raise ManifestError("training.parameter_limit", f"{error}; take ring_bits = 64, or less") from None
    most = math.ldexp(1.0, largest_fraction_bits(members, 1.0, ring) - LEAST_FRACTION_BITS)
    few = (
        f"16 are too few: {members} parameters up to {limit:g} can only be summed in steps of"
        f" {math.ldexp(1.0, -bits):g}; take 32, or a parameter_limit of at most"
    )
    require(ring != RING_16 or bits >= LEAST_FRACTION_BITS, "training.ring_bits", f"{few} {most:g}")
