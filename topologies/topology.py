"""A topology: who mixes with whom in each round, whatever it was drawn, read or written from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np

from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.mixing import SCHEMES
from p2pfl.topologies.schedule import Groups
from p2pfl.topologies.sparse import Weights

MOST_NODES: Final = 20_000
OWN: Final = "own"
"""The mixing scheme of a topology that brings its own weights."""


Family = Callable[..., Any]
"""``family(nodes, beacon, **parameters)``: what a researcher writes to add a topology.

``nodes`` are names, ``beacon`` the 32 bytes that all chance comes from. Returns one of: a networkx graph over
the names (directed: edge u → v means that u sends to v); a mixing matrix, dense (rows and columns in the
order of ``nodes``) or as :class:`~p2pfl.topologies.sparse.Weights`; a sequence of those, one a round, then
from the front again; or a function from the number of the round to one.
"""


@dataclass(frozen=True, slots=True)
class Topology:
    """``step(round)`` is a networkx graph over ``nodes`` or :class:`Weights` in their order.

    ``period``: the rounds after which it repeats: 1 where it is always the same, None where it never does.
    ``groups``: for a schedule of groups, those of a round. ``attributes``: what is known of a node, such as
    ``region``, ``bandwidth`` (Mbit/s) and ``latency`` (ms). ``family`` and ``parameters`` say where it came
    from. ``contraction``: what theory says a round leaves of the expected squared consensus distance, for
    topologies that are new every round.
    """

    name: str
    nodes: tuple[str, ...]
    step: Callable[[int], Any] = field(repr=False)
    period: int | None = 1
    groups: Callable[[int], Groups] | None = field(default=None, repr=False)
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, repr=False)
    family: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    contraction: float | None = None

    @property
    def is_complete(self) -> bool:
        """Whether it is the family of that name: every mixing scheme then averages at once, and its graph,
        which is large, need not be drawn to say so.
        """
        return self.family == "complete" and self.period == 1 and len(self.nodes) > 1

    @property
    def has_own_weights(self) -> bool:
        """Whether a round is a matrix, so that no mixing scheme is applied."""
        return not self.is_complete and isinstance(self.step(0), Weights)

    def graph(self, round: int = 0) -> nx.Graph:
        """Who hears whom in ``round``, directed if somebody is not heard back, with the nodes' attributes."""
        drawn = self.step(round)
        graph = _graph_of(drawn, self.nodes) if isinstance(drawn, Weights) else drawn.copy()
        for node, known in self.attributes.items():
            graph.add_node(node, **known)
        return graph

    def weights(self, round: int = 0, mixing: str | None = None) -> Weights:
        """The mixing matrix of ``round``, rows and columns in the order of :attr:`nodes`.

        ``mixing``: a name of :data:`~p2pfl.topologies.mixing.SCHEMES`; None is the topology's own weights,
        else ``metropolis``, else, on a directed graph, ``uniform``. Raises TopologyError if it has its own or
        the scheme does not fit. Computed anew at each call: keep it while the topology stays the same.
        """
        drawn = self.step(round)
        scheme = self._scheme(drawn, mixing)
        if isinstance(drawn, Weights):
            return drawn
        return _reordered(SCHEMES[scheme](drawn), list(drawn), self.nodes)

    def mixing(self, mixing: str | None = None) -> str:
        """The name of the scheme that :meth:`weights` takes for ``mixing``. Raises TopologyError as that."""
        return self._scheme(None if self.is_complete else self.step(0), mixing)

    def _scheme(self, drawn: Any, mixing: str | None) -> str:
        if isinstance(drawn, Weights):
            if mixing not in (None, OWN):
                raise TopologyError(f"{self.name} has weights of its own: leave the mixing scheme out")
            return OWN
        scheme = mixing or ("uniform" if drawn is not None and drawn.is_directed() else "metropolis")
        if scheme not in SCHEMES:
            raise TopologyError(f"unknown mixing scheme {scheme!r}; there are {', '.join(SCHEMES)}")
        return scheme

    def renamed(self, name: str) -> "Topology":
        """The same under another name."""
        return replace(self, name=name)


def topology_of(name: str, drawn: Any, nodes: Sequence[str] | None = None) -> Topology:
    """A topology of whatever a :data:`Family` returns. ``nodes`` may be left out for a graph.

    Raises TopologyError if it is none of that, or not over these nodes.
    """
    if isinstance(drawn, nx.Graph):
        order = tuple(nodes) if nodes is not None else tuple(map(str, drawn))
        graph = _checked(name, drawn, order, 0)
        known = {str(node): dict(data) for node, data in drawn.nodes(data=True) if data}
        return Topology(name, order, lambda _: graph, attributes=known)
    if nodes is None:
        raise TopologyError(f"{name} is no graph, so it must be said over which nodes it is")
    order = tuple(nodes)
    if callable(drawn):
        return Topology(name, order, lambda round: _checked(name, drawn(round), order, round), None)
    if isinstance(drawn, Weights) or (isinstance(drawn, np.ndarray) and drawn.ndim == 2):
        drawn = [drawn]
    if not isinstance(drawn, Sequence) or isinstance(drawn, str) or not drawn:
        raise TopologyError(
            f"{name} gives {type(drawn).__name__}; it must give a graph, a matrix, several, or a function"
        )
    steps = [_checked(name, step, order, round) for round, step in enumerate(drawn)]
    return Topology(name, order, lambda round: steps[round % len(steps)], len(steps))


def _checked(name: str, drawn: Any, nodes: tuple[str, ...], round: int) -> Any:
    where = f"{name}, round {round}"
    if len(nodes) > MOST_NODES:
        raise TopologyError(f"{name} has {len(nodes)} nodes; at most {MOST_NODES} are supported")
    if isinstance(drawn, nx.Graph):
        graph = nx.relabel_nodes(drawn, str) if not all(isinstance(node, str) for node in drawn) else drawn
        if drawn.is_multigraph():
            raise TopologyError(f"{where}: a multigraph; take nx.Graph(…) or nx.DiGraph(…) of it")
        if set(graph) != set(nodes):
            raise TopologyError(f"{where}: {_strangers(graph, nodes)}")
        if nx.number_of_selfloops(graph):
            graph = graph.copy()
            graph.remove_edges_from([*nx.selfloop_edges(graph)])
        return graph
    weights = drawn if isinstance(drawn, Weights) else _dense(drawn, where)
    if len(weights) != len(nodes):
        raise TopologyError(f"{where}: a matrix of {len(weights)} rows for {len(nodes)} nodes")
    if not np.isfinite(weights.data).all():
        raise TopologyError(f"{where}: a weight is not a number")
    return weights


def _strangers(graph: nx.Graph, nodes: Sequence[str]) -> str:
    """In what the nodes of ``graph`` are not ``nodes``, and what to do."""
    missing = [node for node in nodes if node not in graph]
    strange = [node for node in graph if node not in set(nodes)]
    said = [f"{missing[0]} is not in its graph"] * bool(missing)
    said += [f"{strange[0]!r} in its graph is none of the {len(nodes)} nodes it was given"] * bool(strange)
    if missing and len(graph) == len(nodes):
        return f"{' and '.join(said)}; relabel: nx.relabel_nodes(graph, dict(zip(graph, nodes)))"
    return f"{' and '.join(said)}; its graph must be over those, isolated ones too"


def _dense(drawn: Any, where: str) -> Weights:
    try:
        matrix = np.asarray(drawn, np.float64)
    except (TypeError, ValueError):
        raise TopologyError(f"{where}: {type(drawn).__name__} is neither a graph nor a matrix") from None
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise TopologyError(f"{where}: a mixing matrix is square, this is {matrix.shape}")
    if not any(np.allclose(matrix.sum(axis=axis), 1) for axis in (0, 1)):
        raise TopologyError(
            f"{where}: neither the rows of its matrix add up to 1, nor, for push-sum, the columns"
        )
    return Weights.of_matrix(matrix)


def _graph_of(weights: Weights, nodes: Sequence[str]) -> nx.Graph:
    between = weights.off_diagonal
    pairs = set(zip(weights.indices[between].tolist(), weights.rows[between].tolist(), strict=True))
    mutual = all((receiver, sender) in pairs for sender, receiver in pairs)
    graph = nx.Graph() if mutual else nx.DiGraph()
    graph.add_nodes_from(nodes)
    graph.add_edges_from((nodes[sender], nodes[receiver]) for sender, receiver in sorted(pairs))
    return graph


def _reordered(weights: Weights, found: Sequence[str], wanted: Sequence[str]) -> Weights:
    if list(found) == list(wanted):
        return weights
    position = {node: index for index, node in enumerate(wanted)}
    to = np.array([position[node] for node in found], np.int64)
    return Weights.of_entries(len(wanted), to[weights.rows], to[weights.indices], weights.data)
