"""Topologies drawn: nodes where their family is seen best, the same place for the same seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import TYPE_CHECKING, Final

import networkx as nx  # type: ignore[import-untyped]  # ships no type information

from p2pfl.figures import COLOURS, literal
from p2pfl.topologies import chance
from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.lattices import torus_shape
from p2pfl.topologies.placing import placed
from p2pfl.topologies.topology import Topology

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Place = tuple[float, float]
MOST_NODES: Final = 1000
MOST_EDGES: Final = 20_000
_ON_A_CIRCLE: Final = {
    "complete",
    "ring",
    "exponential",
    "directed_exponential",
    "one_peer_exponential",
    "base",
    "hyper_hypercube",
    "equistatic",
    "equidyn",
    "watts_strogatz",
    "epidemic",
}
_CAREFUL: Final = 80
_NAMED: Final = 26
_DENSE: Final = 200


@dataclass(frozen=True, slots=True)
class Drawing:
    """``topology`` in round ``round``; ``below`` is the graph that its groups are cut from, or itself.
    ``seed`` is the one it was drawn from.
    """

    topology: Topology
    below: Topology
    seed: int | bytes = 0
    round: int = 0

    def draw(self, axes: "Axes", *, names: bool = True) -> None:
        """Draw it: who may meet light, who meets in this round dark; groups, else regions, by colour.

        Raises TopologyError if it is too large to be seen.
        """
        now, under = self._edges()
        at = self._places(now, under)
        groups = self.topology.groups(self.round) if self.topology.groups else ()
        regions = None if groups else _regions(self.topology)
        colour = _coloured(groups or (regions or {}).values())
        changes = self.topology.period != 1
        if changes:
            _lines(axes, under, at, {}, "#d9d9d9")
        _lines(axes, now, at, colour if groups else {}, "#595959" if changes else "#8c8c8c")
        size = min(60.0, 1200 / len(at))
        for label, members in (regions or {}).items():
            axes.scatter([], [], size, colour[members[0]], label=literal(label))
        shown = [colour.get(node, "#333333" if groups else COLOURS[0]) for node in at]
        x, y = zip(*at.values(), strict=True)
        axes.scatter(x, y, size, shown, zorder=3)
        axes.set(aspect="equal", xlim=(-1.15, 1.15), ylim=(-1.15, 1.15))
        axes.set_axis_off()
        if names and len(at) <= _NAMED:
            for node, place in at.items():
                axes.annotate(
                    literal(node), place, (0, 5), textcoords="offset points", fontsize=6, ha="center"
                )

    def row(self) -> dict[str, object]:
        """What is drawn, for JSON: where each node stands, and the links of the round."""
        now, under = self._edges()
        links = [list(link) for link in now.edges]
        return {"name": self.topology.name, "places": self._places(now, under), "links": links}

    def _places(self, now: nx.Graph, under: nx.Graph) -> dict[str, Place]:
        return places(self.below, under if len(under.edges) else now, self.seed)

    def _edges(self) -> tuple[nx.Graph, nx.Graph]:
        """The graph of the round, and all edges there may be, if that is known and not too many."""
        count = len(self.topology.nodes)
        if count > MOST_NODES:
            raise TopologyError(f"{count} nodes are too many to draw; take at most {MOST_NODES}")
        now = self.topology.graph(self.round)
        under = nx.Graph()
        if self.topology.groups is not None:
            under = self.below.graph()
        elif self.topology.period is not None and self.topology.period > 1:
            under = nx.compose_all([nx.Graph(self.topology.graph(r)) for r in range(self.topology.period)])
        if len(now.edges) > MOST_EDGES:
            raise TopologyError(f"{len(now.edges)} edges are too many to draw; take at most {MOST_EDGES}")
        return now, under if len(under.edges) <= MOST_EDGES else nx.Graph()


def places(topology: Topology, graph: nx.Graph, seed: int | bytes) -> dict[str, Place]:
    """Where each node is drawn, both coordinates within [−1, 1].

    Regions stand apart; lattices, cycles and cubes as their family is known, in the order that ``seed``
    placed nodes in; all other graphs by their distances.
    """
    regions = _regions(topology)
    if regions is not None:
        return _apart(regions)
    order = placed(topology.nodes, seed if isinstance(seed, bytes) else chance.seeded(seed))
    count = len(order)
    shape = torus_shape(count)
    if topology.family == "torus" and shape:
        found = [_on_torus(divmod(at, shape[1]), shape) for at in range(count)]
    elif topology.family == "hypercube" and count > 1:
        found = [_of_digits(at, (count - 1).bit_length()) for at in range(count)]
    elif topology.family in _ON_A_CIRCLE or count < 4:
        found = _circle(count)
    elif topology.family == "star":
        found = [(0.0, 0.0), *_circle(count - 1)]
    else:
        return _by_distance(graph, topology.nodes)
    return _fitted(dict(zip(order, found, strict=True)))


def _by_distance(graph: nx.Graph, nodes: Sequence[str]) -> dict[str, Place]:
    plain = nx.Graph(graph)
    if len(plain) <= _CAREFUL and nx.is_connected(plain):
        found = nx.kamada_kawai_layout(plain)
    else:
        found = nx.spring_layout(plain, seed=0)
    return _fitted({node: (float(found[node][0]), float(found[node][1])) for node in nodes})


def _fitted(found: Mapping[str, Place]) -> dict[str, Place]:
    """Moved and scaled to fill the picture; three digits, which every machine computes alike."""
    lows = [min(place[axis] for place in found.values()) for axis in (0, 1)]
    highs = [max(place[axis] for place in found.values()) for axis in (0, 1)]
    scale = max(high - low for low, high in zip(lows, highs, strict=True)) / 2 or 1.0
    middle = [(low + high) / 2 for low, high in zip(lows, highs, strict=True)]
    return {
        node: (round((x - middle[0]) / scale, 3), round((y - middle[1]) / scale, 3))
        for node, (x, y) in found.items()
    }


def _circle(count: int) -> list[Place]:
    """From the top, clockwise."""
    return [(sin(2 * pi * at / count), cos(2 * pi * at / count)) for at in range(count)]


def _on_torus(cell: tuple[int, int], shape: tuple[int, int]) -> Place:
    """A ring of rings, seen from above at a slant."""
    across, along = 2 * pi * cell[0] / shape[0], 2 * pi * cell[1] / shape[1]
    radius = 2 + cos(across + 0.4)
    return radius * cos(along), 0.75 * radius * sin(along) + 0.6 * sin(across + 0.4)


def _of_digits(number: int, digits: int) -> Place:
    """Every digit of a corner's number is a step in a direction of its own."""
    steps = [pi * digit / digits for digit in range(digits) if number >> digit & 1]
    return sum(cos(step) for step in steps), sum(sin(step) for step in steps)


def _apart(regions: Mapping[str, Sequence[str]]) -> dict[str, Place]:
    found: dict[str, Place] = {}
    radius = 0.9 * sin(pi / max(len(regions), 2)) if len(regions) > 1 else 1.0
    for (x, y), members in zip(_circle(len(regions)), regions.values(), strict=True):
        for (right, up), node in zip(_circle(len(members)), members, strict=True):
            found[node] = (x + radius * 0.75 * right, y + radius * 0.75 * up)
    return _fitted(found)


def _regions(topology: Topology) -> dict[str, list[str]] | None:
    """The nodes of each region; None if it is not known of all."""
    found: dict[str, list[str]] = {}
    for node in topology.nodes:
        region = topology.attributes.get(node, {}).get("region")
        if region is None:
            return None
        found.setdefault(str(region), []).append(node)
    return dict(sorted(found.items()))


def _coloured(parts: Iterable[Sequence[str]]) -> dict[str, str]:
    """A colour for each node of each part."""
    return {node: COLOURS[number % len(COLOURS)] for number, part in enumerate(parts) for node in part}


def _lines(
    axes: "Axes", graph: nx.Graph, at: Mapping[str, Place], colour: Mapping[str, str], other: str
) -> None:
    """Edges, of the colour of their ends if that is one; arrows where they are directed."""
    ends = [(at[one], at[two]) for one, two in graph.edges]
    shades = [colour[one] if colour.get(one) == colour.get(two, "") else other for one, two in graph.edges]
    if not ends:
        return
    if not graph.is_directed():
        _segments(axes, ends, shades)
        return
    starts, stops = zip(*ends, strict=True)
    (x, y), (to_x, to_y) = zip(*starts, strict=True), zip(*stops, strict=True)
    moved = [[b - a for a, b in zip(*pair, strict=True)] for pair in ((x, to_x), (y, to_y))]
    axes.quiver(
        x, y, *moved, color=shades, angles="xy", scale_units="xy", scale=1.04, width=0.004, headwidth=5
    )


def _segments(axes: "Axes", ends: Sequence[tuple[Place, Place]], shades: Sequence[str]) -> None:
    """All of one shade as one path, a fraction of the bytes of one each."""
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path

    width = 0.8 if len(ends) < _DENSE else 0.4
    for shade in dict.fromkeys(shades):
        corners = [place for pair, own in zip(ends, shades, strict=True) if own == shade for place in pair]
        path = Path(corners, [Path.MOVETO, Path.LINETO] * (len(corners) // 2))
        axes.add_collection(PathCollection([path], facecolors="none", edgecolors=shade, linewidths=width))
