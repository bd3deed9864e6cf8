"""The families by name, and the one way to make a topology from what a person typed.

A researcher's own family is a function in a file of their own, ``my_file.py:name``, and needs nothing from
here; :func:`register` gives it a name, a formula and a paper in the list.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import comb
from pathlib import Path
from typing import Any, Final

import networkx as nx  # type: ignore[import-untyped]  # ships no type information

from p2pfl.topologies import chance, files, outside
from p2pfl.topologies.consensus import placed_contraction
from p2pfl.topologies.errors import CodeError, TopologyError
from p2pfl.topologies.graphs import FAMILIES, complete
from p2pfl.topologies.topology import Family, Topology, topology_of

MOST_COMPLETE: Final = 3000
"""Nodes of the complete graph whose links are drawn, where somebody asks for them: they take gigabytes."""
ClosedForm = Callable[..., float | None]
"""``closed_form(n, **parameters)``: |λ₂| of the family's default mixing, None where no formula is known."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A family in the list: how to draw it, what is known of it, and where it is from.

    ``kind``: ``graph`` (a mixing scheme makes the matrix), ``weights`` (brings its own) or ``sequence`` (its
    own, a new one each round, for simulation only). ``contraction(n, **parameters)``: see
    :class:`~p2pfl.topologies.topology.Topology`.
    """

    name: str
    draw: Family
    kind: str = "graph"
    formula: str = ""
    paper: str = ""
    good_for: str = ""
    closed_form: ClosedForm | None = None
    contraction: ClosedForm | None = None

    @property
    def summary(self) -> str:
        """The first sentence of the family's docstring, on one line."""
        text = " ".join((inspect.getdoc(self.draw) or "").split("\n\n")[0].split())
        return text.partition(": degree")[0]

    @property
    def parameters(self) -> dict[str, Any]:
        """Names and defaults of what can be set."""
        return dict(_settable(self.draw))

    @property
    def in_manifests(self) -> bool:
        """Whether ``groups.topology`` of a manifest may name it."""
        return self.name in FAMILIES


_ENTRIES: Final[dict[str, Entry]] = {}


def register(name: str, draw: Family, **known: Any) -> Entry:
    """Put a family in the list, or another in its place; ``known`` are fields of :class:`Entry`."""
    entry = Entry(name, draw, **known)
    _ENTRIES[name] = entry
    return entry


def entries() -> Mapping[str, Entry]:
    """All families in the list, by name."""
    import p2pfl.topologies.gallery  # noqa: F401  # registers what this package brings

    return dict(_ENTRIES)


def topology(
    source: str | Family | nx.Graph,
    nodes: int | Sequence[str] | nx.Graph | None = None,
    *,
    seed: int | bytes = 0,
    fresh: bool = False,
    code: bool = False,
    **parameters: Any,
) -> Topology:
    """The topology that ``source`` names.

    ``source``: a family of :func:`entries`; a graph file (``.graphml``, ``.csv``, ``.edges``) or the name of
    a shipped one; with ``code=True`` also ``module:function`` or ``file.py:function``, which **runs that
    code**: only for what the person at the keyboard typed, never for a manifest or a peer; a family itself;
    or a graph. ``nodes``: how many, their names, or a graph whose node attributes (``region``, …) are used; a
    file must have as many, and takes the order of the names if they are its own.
    ``seed``: a number, or a beacon. ``fresh``: drawn anew every round. ``parameters``: of the family.

    Raises TopologyError with what is wrong and what there is.
    """
    if isinstance(source, nx.Graph):
        return topology_of("graph", source)
    known = _entry(source, code)
    if known is None:
        return _read(str(source), nodes, parameters)
    if nodes is None:
        raise TopologyError(f"{known.name} needs a number of nodes")
    names, attributes = _nodes(nodes)
    beacon = seed if isinstance(seed, bytes) else chance.seeded(seed)
    given = _regions(known, attributes, parameters)
    _check_parameters(known, given)

    def draw(beacon: bytes) -> Any:
        if known.draw is complete and len(names) > MOST_COMPLETE:
            raise TopologyError(
                f"complete has {comb(len(names), 2):,} links among {len(names)} nodes, too many to hold: take"
                f" groups, or at most {MOST_COMPLETE} nodes"
            )
        try:
            return known.draw(names, beacon, **given)
        except CodeError:
            raise
        except (ValueError, TypeError, nx.NetworkXException) as error:
            raise TopologyError(f"{known.name}: {error}") from error

    if known.draw is complete:  # the same every round, and too large to draw in vain
        made = Topology(known.name, tuple(names), cache(lambda _: draw(beacon)))
    elif fresh:
        made = topology_of(known.name, lambda round: draw(chance.of_round(beacon, round)), names)
    else:
        made = topology_of(known.name, draw(beacon), names)
    theory = known.contraction and known.contraction(len(names), **given)
    if fresh and made.period is None and known.in_manifests:
        theory = placed_contraction(made.weights())
    return replace(
        made,
        attributes={**made.attributes, **attributes},
        family=known.name,
        parameters=dict(given),
        contraction=theory,
    )


def _entry(source: str | Family, code: bool) -> Entry | None:
    """None: it is a file."""
    if not isinstance(source, str):
        return Entry(getattr(source, "__name__", "family"), source)
    found = entries().get(source)
    if found is not None or files.is_file(source):
        return found
    if ":" in source:
        if not code:
            raise TopologyError(f"{source} is code, which only the command line may name")
        return Entry(source, outside.load(source))
    raise TopologyError(
        f"no topology {source!r}; there are {', '.join(sorted(entries()))}, the graphs "
        f"{', '.join(files.examples())}, files ending in {', '.join(files.SUFFIXES)}, and my_file.py:function"
    )


def _read(source: str, nodes: object, parameters: Mapping[str, Any]) -> Topology:
    if parameters:
        raise TopologyError(f"{source} is a file and takes no {', '.join(parameters)}")
    graph, names = files.read(source), None
    if isinstance(nodes, Sequence):
        names = list(nodes) if set(nodes) == set(graph) else None
        nodes = len(nodes)
    if isinstance(nodes, int) and nodes != len(graph):
        raise TopologyError(f"{source} has {len(graph)} nodes, not {nodes}")
    return replace(topology_of(Path(source).stem, graph, names), family=source)


def _nodes(nodes: int | Sequence[str] | nx.Graph) -> tuple[list[str], dict[str, dict[str, Any]]]:
    if isinstance(nodes, nx.Graph):
        return [str(node) for node in nodes], {str(node): dict(data) for node, data in nodes.nodes(data=True)}
    if isinstance(nodes, int):
        if nodes < 1:
            raise TopologyError(f"{nodes} nodes: there must be at least one")
        width = max(3, len(str(nodes - 1)))
        return [f"n{number:0{width}}" for number in range(nodes)], {}
    if len(set(nodes)) != len(nodes):
        raise TopologyError("a node is named twice")
    return list(nodes), {}


def _regions(known: Entry, attributes: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> Any:
    """The parameters, with the nodes' regions for a family that takes them."""
    if "region" in known.parameters and "region" not in given:
        found = {node: str(data["region"]) for node, data in attributes.items() if "region" in data}
        if found:
            return {**given, "region": found}
    return dict(given)


def _check_parameters(known: Entry, given: Mapping[str, Any]) -> None:
    settable = known.parameters
    unknown = sorted(set(given) - set(settable))
    if unknown and not _takes_anything(known.draw):
        there = f"it has {', '.join(settable)}" if settable else "it has none"
        raise TopologyError(f"{known.name} has no parameter {unknown[0]!r}; {there}")


def _settable(draw: Family) -> Iterator[tuple[str, Any]]:
    for number, (name, parameter) in enumerate(inspect.signature(draw).parameters.items()):
        if number > 1 and parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            yield name, parameter.default


def _takes_anything(draw: Family) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(draw).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds
