"""What every engine says of a federation now and then."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """How things stand after ``round`` rounds of training.

    ``accuracy``: of the mean of all models; ``accuracy_mean``, ``accuracy_least``: over the nodes, honest
    ones. ``loss``: of the mean model, in the objective's unit. ``consensus``: (1/n) Σ |x_i − x̄|².
    ``attended``: share of nodes that were there. ``seconds``: simulated ones until the last node was so far,
    ``bytes``: what a node had sent by then, on average, of engines that know.
    """

    round: int
    accuracy: float
    accuracy_mean: float
    accuracy_least: float
    loss: float
    consensus: float
    attended: float
    seconds: float | None = None
    bytes: int | None = None
