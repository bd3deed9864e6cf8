"""A schedule of groups as a topology: in each round every group takes the mean of its members."""

from dataclasses import replace

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np

from p2pfl.topologies import chance
from p2pfl.topologies.consensus import group_contraction
from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.schedule import Groups, groups
from p2pfl.topologies.sparse import Weights
from p2pfl.topologies.topology import Topology


def grouped(
    topology: Topology,
    *,
    size: int = 4,
    minimum: int = 3,
    schedule: str = "random",
    seed: int | bytes = 0,
) -> Topology:
    """Averaging in the groups that ``schedule`` cuts from the graph of ``topology``, as real nodes do it.

    ``size``, ``minimum`` and ``schedule`` as in :func:`~p2pfl.topologies.schedule.groups`. Raises
    TopologyError if the graph is directed or changes, ScheduleError if it fits no such schedule.
    """
    nodes, everybody = topology.nodes, topology.family == "complete" and topology.period == 1
    graph = nodes if everybody and schedule != "clustered" else topology.graph()
    if topology.period != 1 or (isinstance(graph, nx.Graph) and graph.is_directed()):
        raise TopologyError(f"groups need a graph that stays and goes both ways; {topology.name} does not")
    beacon = seed if isinstance(seed, bytes) else chance.seeded(seed)

    def of(round: int) -> Groups:
        return groups(graph, size, minimum, beacon, round, schedule)

    first = of(0)
    return replace(
        topology,
        name=f"{schedule} groups of {size} on {topology.name}",
        step=lambda round: group_weights(of(round), nodes),
        period=None,
        groups=of,
        family=None,
        contraction=group_contraction(len(nodes), len(first))
        if everybody and schedule == "random" and first
        else None,
    )


def group_weights(groups: Groups, nodes: tuple[str, ...]) -> Weights:
    """The matrix of one round: the mean of the group for its members, 1 on the diagonal for who has none."""
    position = {node: index for index, node in enumerate(nodes)}
    alone = set(range(len(nodes))) - {position[node] for group in groups for node in group}
    members = [np.array([position[node] for node in group], np.int64) for group in groups]
    members += [np.array([node], np.int64) for node in sorted(alone)]
    return Weights.of_entries(
        len(nodes),
        np.concatenate([np.repeat(group, len(group)) for group in members]),
        np.concatenate([np.tile(group, len(group)) for group in members]),
        np.concatenate([np.full(len(group) ** 2, 1 / len(group)) for group in members]),
    )
