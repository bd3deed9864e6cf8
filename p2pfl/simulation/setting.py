"""What a simulation adds to a federation's manifest: the data and its partition, the nodes and their
troubles.
"""

from dataclasses import dataclass
from typing import Literal

from p2pfl.gossip.declared import require, require_range

MOST_NODES = 10_000


@dataclass(frozen=True, slots=True)
class Setting:
    """The table ``[simulation]`` of an experiment. Everything else is the federation's.

    ``data``: ``heart_disease``, which p2pfl brings, or a file or folder: see :mod:`.sources`. ``partition``
    of its training records over ``nodes`` nodes: ``natural``, a node for each part that the data came in
    (``nodes`` is left out); ``iid``; ``dirichlet`` with ``alpha``; ``shards`` with so many ``shards`` a node;
    ``column``, a node for each value of the feature ``column``. ``test_share`` of the records, drawn first,
    is for testing where the data has no test records of its own.

    ``averaging``: in ``groups`` as nodes do, with ``neighbours`` by the mixing matrix ``mixing``, or
    ``none``. ``topology``: any that `p2pfl topology list` knows, with ``topology_parameters`` such as
    "degree=4"; by default the manifest's.

    ``offline``: probability that a node sits a round out. ``attackers``: so many nodes send something else:
    ``sign_flip`` moves the model the other way, ``noise`` replaces its update by noise of the same length,
    ``labels`` learns wrong labels.

    ``engine``: ``vectorised``, all nodes at once; ``exact``, the nodes' own learners, whose contributions are
    added up bit for bit; ``protocol``, these on a virtual network.

    ``device``: of engine ``vectorised``: ``cpu``, ``cuda``, or ``auto``, the second where it is. Other
    numbers are drawn on a GPU, so its results are others, too; small models are faster without.

    ``scenario``: with engine ``protocol``, the network and the faults of that scenario: its name, or a file;
    see docs/scenarios.md.

    ``evaluate_every``: rounds between rows of the result. ``sampling``: ``poisson`` as nodes sample, or
    batches of ``fixed`` length, faster and without a claim.
    """

    data: str = "heart_disease"
    nodes: int = 0
    partition: Literal["natural", "iid", "dirichlet", "shards", "column"] = "iid"
    alpha: float = 0.5
    shards: int = 2
    column: str = ""
    test_share: float = 0.2
    engine: Literal["vectorised", "exact", "protocol"] = "vectorised"
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    averaging: Literal["groups", "neighbours", "none"] = "groups"
    mixing: str = ""
    topology: str = ""
    topology_parameters: tuple[str, ...] = ()
    offline: float = 0.0
    attackers: int = 0
    attack: Literal["sign_flip", "noise", "labels"] = "sign_flip"
    scenario: str = ""
    evaluate_every: int = 10
    sampling: Literal["poisson", "fixed"] = "poisson"

    def __post_init__(self) -> None:
        require_range(self.nodes, "simulation.nodes", 0, MOST_NODES)
        require_range(self.alpha, "simulation.alpha", 0, 1e6, above=True)
        require_range(self.shards, "simulation.shards", 1, 1000)
        require_range(self.test_share, "simulation.test_share", 0, 0.9)
        require_range(self.offline, "simulation.offline", 0, 0.99)
        require_range(self.attackers, "simulation.attackers", 0, MOST_NODES)
        require_range(self.evaluate_every, "simulation.evaluate_every", 1, 1_000_000)
        natural = self.partition not in ("natural", "column") or self.nodes == 0
        require(
            natural, "simulation.nodes", f"leave it out: partition {self.partition!r} says how many there are"
        )
        counted = self.partition in ("natural", "column") or self.nodes > 0
        require(counted, "simulation.nodes", f"must be given for partition {self.partition!r}")
        fits = not self.scenario or self.engine == "protocol"
        require(fits, "simulation.scenario", "belongs to engine 'protocol', and to no other")
        fits = self.device == "cpu" or self.engine == "vectorised"
        require(fits, "simulation.device", "is of engine 'vectorised'; leave it out")
        named = (self.partition == "column") == bool(self.column)
        require(named, "simulation.column", "belongs to partition 'column', and to no other")
