"""Who averages with whom: the groups of the rounds of one epoch.

They follow from roster, beacon and round alone (:mod:`p2pfl.topologies.schedule`), so every node draws them
by itself. Where a manifest asks for a grid that a roster does not fill, the groups of that epoch are random.
"""

import networkx as nx  # type: ignore[import-untyped]  # ships no type information

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.epoch import Epoch
from p2pfl.gossip.manifest import GroupSpec
from p2pfl.topologies.graphs import FAMILIES
from p2pfl.topologies.schedule import Groups, ScheduleError, groups


class Grouping:
    """The groups of ``epoch``, as ``spec`` wants them."""

    def __init__(self, spec: GroupSpec, epoch: Epoch) -> None:
        self._spec, self._beacon = spec, epoch.beacon
        self._graph: nx.Graph = FAMILIES[spec.topology](epoch.roster, epoch.beacon)
        self._kind = spec.schedule
        try:
            self._drawn(0)
        except ScheduleError:
            self._kind = "random"

    def group_of(self, peer: PeerId, round: int) -> tuple[PeerId, ...]:
        """Whom ``peer`` averages with, itself included, in drawn order; nobody if no group has room."""
        own = [group for group in self._drawn(round) if peer in group]
        return tuple(map(PeerId, own[0])) if own else ()

    def _drawn(self, round: int) -> Groups:
        spec = self._spec
        return groups(self._graph, spec.size, spec.minimum, self._beacon, round, self._kind)
