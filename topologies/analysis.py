"""What a topology costs and how well it mixes: one report, and a table of several.

Everything is a function of a :class:`~p2pfl.topologies.topology.Topology`; make one with
:func:`~p2pfl.topologies.registry.topology`, or a schedule of groups with
:func:`~p2pfl.topologies.grouped.grouped`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import inf, nan
from typing import Any, Final

import networkx as nx  # type: ignore[import-untyped]  # ships no type information
import numpy as np

from p2pfl.topologies import chance, consensus
from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.reach import CutVertex, cut_vertices, diameter
from p2pfl.topologies.registry import entries
from p2pfl.topologies.sparse import Floats, Weights
from p2pfl.topologies.spectra import second_eigenvalue
from p2pfl.topologies.topology import Topology

PARAMETERS: Final = 1_000_000
_LOOKED_AT: Final = 16
"""Rounds of a topology that changes which stand for all."""
_REMEMBERED: Final = 64


@dataclass(frozen=True, slots=True)
class Report:
    """A topology in numbers.

    ``degree_*``: neighbours one sends to, in a round, over nodes and rounds. ``diameter``: of the graph of
    all rounds looked at, None if not connected; above 1500 nodes a lower bound. ``second_eigenvalue``: |λ₂|
    of a topology that stays the same; ``closed_form`` the formula's, None where there is none.
    ``contraction``: for one that changes, what a round leaves of the squared consensus distance, measured;
    ``contraction_formula`` by theory. ``rounds_predicted`` and ``rounds_measured``: until the squared
    consensus distance is ``tolerance`` of the first; None: never, or no theory. ``keeps_mean``: whether nodes
    agree on the mean. ``bytes_mean`` and ``bytes_most``: sent by a node in a round, on average and by the
    busiest. ``seconds``: of a round of the slowest node by its bandwidth and latency; None if not known of
    all.
    """

    name: str
    nodes: int
    edges: int
    directed: bool
    period: int | None
    mixing: str
    degree_least: float
    degree_mean: float
    degree_most: float
    diameter: int | None
    second_eigenvalue: float | None
    closed_form: float | None
    contraction: float | None
    contraction_formula: float | None
    tolerance: float
    rounds_predicted: int | None
    rounds_measured: int | None
    keeps_mean: bool
    parameters: int
    bytes_mean: float
    bytes_most: float
    seconds: float | None
    cut_vertices: tuple[CutVertex, ...]

    @property
    def spectral_gap(self) -> float | None:
        """1 − |λ₂|."""
        return None if self.second_eigenvalue is None else max(0.0, 1 - self.second_eigenvalue)

    def row(self) -> dict[str, Any]:
        """For JSON: plain numbers, texts and lists."""
        return {**asdict(self), "spectral_gap": self.spectral_gap}


def report(
    topology: Topology,
    *,
    mixing: str | None = None,
    parameters: int = PARAMETERS,
    bytes_per_value: int = 4,
    tolerance: float = 1e-6,
    limit: int = 2000,
    seed: int = 0,
) -> Report:
    """Everything that is known of ``topology``; up to some thousands of nodes.

    ``parameters``: of the model that is sent, of ``bytes_per_value`` each. ``limit``: rounds after which
    measuring gives up. ``seed``: of the values that are mixed. Raises TopologyError if the mixing scheme does
    not fit.
    """
    if topology.is_complete:
        return _of_everybody(topology, mixing, parameters, bytes_per_value, tolerance)
    topology = _remembered(topology)
    rounds, graph = _sample(topology), union(topology)
    degrees, sent = degrees_of(topology), sent_bytes(topology, parameters, bytes_per_value)
    static = topology.period == 1
    mixed, own = (_settled(topology, mixing), None) if static else (topology, mixing)
    return Report(
        name=topology.name,
        nodes=len(topology.nodes),
        edges=graph.number_of_edges(),
        directed=graph.is_directed(),
        period=topology.period,
        mixing=topology.mixing(mixing),
        degree_least=float(degrees.min()),
        degree_mean=float(degrees.mean()),
        degree_most=float(degrees.max()),
        diameter=diameter(graph),
        second_eigenvalue=second_eigenvalue(mixed.weights()) if static else None,
        closed_form=closed_form(topology, mixing),
        contraction=None if static or not _takes_means(topology) else contraction(topology, seed=seed),
        contraction_formula=topology.contraction,
        tolerance=tolerance,
        rounds_predicted=consensus.predicted_rounds(mixed, tolerance, mixing=own),
        rounds_measured=consensus.measured_rounds(mixed, tolerance, mixing=own, seed=seed, limit=limit),
        keeps_mean=all(mixed.weights(round, own).keeps_mean() for round in rounds),
        parameters=parameters,
        bytes_mean=float(sent.mean()),
        bytes_most=float(sent.max()),
        seconds=seconds(topology, sent),
        cut_vertices=cut_vertices(graph),
    )


def compare(topologies: Sequence[Topology], **how: Any) -> tuple[Report, ...]:
    """A :func:`report` of each, in their order; ``how`` as for that."""
    return tuple(report(each, **how) for each in topologies)


def union(topology: Topology) -> nx.Graph:
    """The graph of all edges of one period, or of 16 rounds of a topology without one; not to be changed."""
    drawn = [topology.step(round) for round in _sample(topology)]
    if len(drawn) == 1 and isinstance(drawn[0], nx.Graph):
        return drawn[0]
    graph = nx.DiGraph()
    graph.add_nodes_from(topology.nodes)
    for each in drawn:
        graph.add_edges_from(_arcs(each, topology.nodes))
    if not all(other in graph.pred[node] for node, near in graph.adj.items() for other in near):
        return graph
    both = nx.Graph()
    both.add_nodes_from(graph)
    both.add_edges_from(graph.edges)
    return both


def degrees_of(topology: Topology) -> Floats:
    """How many others each node sends to in each round looked at, shape (rounds, n)."""
    return np.array([_out_degrees(topology, round) for round in _sample(topology)], np.float64)


def closed_form(topology: Topology, mixing: str | None = None) -> float | None:
    """|λ₂| by the formula of the family, for its default mixing; None where there is none."""
    known = entries().get(topology.family or "")
    default = topology.mixing(None)
    if known is None or known.closed_form is None or topology.mixing(mixing) != default:
        return None
    return known.closed_form(len(topology.nodes), **topology.parameters) if topology.period == 1 else None


def contraction(topology: Topology, *, mixing: str | None = None, rounds: int = 48, seed: int = 0) -> float:
    """What a round leaves of the squared consensus distance, measured on normal values.

    Of a cycle the geometric mean of its rounds, 0 if it averages exactly; of one that never repeats the mean
    over ``rounds``. Distance is to the mean of the round, so that drift does not count.
    """
    count = len(topology.nodes)
    if count < 2:
        return 0.0
    values = chance.generator(chance.seeded(seed)).standard_normal((count, 32))
    values = (values - values.mean(axis=0)) / np.linalg.norm(values - values.mean(axis=0))
    left = []
    for round in range(topology.period or rounds):
        values = topology.weights(round, mixing).apply(values)
        values -= values.mean(axis=0)
        size = float(np.linalg.norm(values))
        if size < 1e-12:
            return 0.0
        left.append(size**2)
        values /= size
    return float(np.exp(np.mean(np.log(left)))) if topology.period else float(np.mean(left))


def sent_bytes(topology: Topology, parameters: int = PARAMETERS, bytes_per_value: int = 4) -> Floats:
    """Bytes that each node sends in a round, the mean of the rounds looked at, shape (n,).

    Mixing sends the model to every neighbour; a group of k adds it up in parts, 2 (k − 1) / k models each,
    headers and signatures not counted.
    """
    size = parameters * bytes_per_value
    if topology.groups is None:
        sent: Floats = degrees_of(topology).mean(axis=0) * size
        return sent
    position = {node: index for index, node in enumerate(topology.nodes)}
    total = np.zeros(len(topology.nodes))
    rounds = _sample(topology)
    for round in rounds:
        for group in topology.groups(round):
            total[[position[node] for node in group]] += 2 * (len(group) - 1) / len(group) * size
    return total / len(rounds)


def seconds(topology: Topology, sent: Floats) -> float | None:
    """A round of the slowest node: its latency (ms) and ``sent`` bytes over its bandwidth (Mbit/s); two
    exchanges in a group. None if either is not known of all. Raises TopologyError for one that is no number.
    """
    known = [topology.attributes.get(node, {}) for node in topology.nodes]
    if not all("bandwidth" in each and "latency" in each for each in known):
        return None
    exchanges = 2 if topology.groups else 1
    times = [
        exchanges * _number(node, each, "latency") / 1e3
        + bytes_ * 8 / (_number(node, each, "bandwidth") * 1e6)
        for node, each, bytes_ in zip(topology.nodes, known, sent, strict=True)
    ]
    return float(max(times))


def _number(node: str, known: Mapping[str, Any], name: str) -> float:
    try:
        value = float(known[name])
    except (TypeError, ValueError):
        value = nan
    if not (0 < value < inf or (name == "latency" and value == 0)):
        raise TopologyError(f"{node}: {name} must be a number above 0, not {known[name]!r}")
    return value


def _takes_means(topology: Topology) -> bool:
    """Whether rows add up to 1; if not, it is for push-sum, whose values alone do not contract."""
    return bool(np.allclose(topology.weights(0).row_sums(), 1))


def _remembered(topology: Topology) -> Topology:
    """With the rounds last drawn at hand: everything here looks at the first ones, and drawing takes time."""
    groups = topology.groups and lru_cache(_REMEMBERED)(topology.groups)
    return replace(topology, step=lru_cache(_REMEMBERED)(topology.step), groups=groups)


def _settled(topology: Topology, mixing: str | None) -> Topology:
    """A topology that stays the same, its matrix made once: the matrix of a dense graph takes seconds."""
    weights = topology.weights(0, mixing)
    return replace(topology, step=lambda _: weights)


def _of_everybody(
    topology: Topology, mixing: str | None, parameters: int, bytes_per_value: int, tolerance: float
) -> Report:
    """Of the complete graph, without drawing its edges: W = 11ᵀ/n, whatever the scheme."""
    others = len(topology.nodes) - 1
    sent = np.full(others + 1, float(others * parameters * bytes_per_value))
    return Report(
        name=topology.name,
        nodes=others + 1,
        edges=others * (others + 1) // 2,
        directed=False,
        period=1,
        mixing=topology.mixing(mixing),
        degree_least=others,
        degree_mean=others,
        degree_most=others,
        diameter=1,
        second_eigenvalue=0.0,
        closed_form=closed_form(topology, mixing),
        contraction=None,
        contraction_formula=topology.contraction,
        tolerance=tolerance,
        rounds_predicted=1,
        rounds_measured=1,
        keeps_mean=True,
        parameters=parameters,
        bytes_mean=float(sent.mean()),
        bytes_most=float(sent.max()),
        seconds=seconds(topology, sent),
        cut_vertices=(),
    )


def _arcs(drawn: Any, nodes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Who sends to whom, both ways named."""
    if isinstance(drawn, Weights):
        between = drawn.off_diagonal
        pairs = zip(drawn.indices[between].tolist(), drawn.rows[between].tolist(), strict=True)
        yield from ((nodes[sender], nodes[receiver]) for sender, receiver in pairs)
        return
    yield from drawn.edges
    if not drawn.is_directed():
        yield from ((other, one) for one, other in drawn.edges)


def _sample(topology: Topology) -> range:
    return range(min(topology.period or _LOOKED_AT, 4 * _LOOKED_AT))


def _out_degrees(topology: Topology, round: int) -> Floats:
    if topology.has_own_weights:
        weights = topology.weights(round)
        return np.bincount(weights.indices[weights.off_diagonal], minlength=len(weights)).astype(np.float64)
    graph = topology.step(round)
    degree = dict(graph.out_degree if graph.is_directed() else graph.degree)
    return np.array([degree[node] for node in topology.nodes], np.float64)
