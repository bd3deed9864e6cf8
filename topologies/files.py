"""Graphs from files: GraphML, edge lists and adjacency CSV; and those that are shipped.

A file names its nodes. Attributes that mean something here: ``region`` (text), ``bandwidth`` (Mbit/s up) and
``latency`` (ms) of a node. Files are read, never run.
"""

import csv
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Final

import networkx as nx  # type: ignore[import-untyped]  # ships no type information

from p2pfl.topologies.errors import TopologyError

SUFFIXES: Final = (".graphml", ".csv", ".edges")
LARGEST_FILE: Final = 64 << 20
_EXAMPLES: Final = Path(__file__).with_name("examples")


def examples() -> tuple[str, ...]:
    """Names of the shipped graphs."""
    return tuple(sorted(path.stem for path in _EXAMPLES.iterdir() if path.suffix in SUFFIXES))


def is_file(source: str) -> bool:
    """Whether :func:`read` would look for a file: a known ending, or the name of a shipped graph."""
    return Path(source).suffix in SUFFIXES or source in examples()


def read(source: str | Path) -> nx.Graph:
    """The graph in the file ``source``, or the shipped one of that name; nodes are texts.

    ``.graphml``: as networkx writes it. ``.edges``: two names without spaces a line, then numbers or
    ``{…}``, which mean nothing here; ``#`` begins a comment. ``.csv``: the adjacency matrix, with commas,
    semicolons or tabs between, the first row and the first column its names; 0 or nothing is no edge, any
    other number one; unlike halves make it directed (row: from, column: to).

    Raises TopologyError saying what is wrong.
    """
    path = _path(source)
    try:
        graph = {".graphml": _graphml, ".csv": _csv, ".edges": _edges}[path.suffix](path)
    except UnicodeDecodeError:
        raise TopologyError(f"{path} cannot be read: it is not UTF-8; save it as that") from None
    except OSError as error:
        raise TopologyError(f"{path} cannot be read: {error}") from None
    if not len(graph):
        raise TopologyError(f"{path} holds no nodes")
    graph.remove_edges_from([*nx.selfloop_edges(graph)])
    return graph


def _path(source: str | Path) -> Path:
    if str(source) in examples():
        return next(path for path in sorted(_EXAMPLES.iterdir()) if path.stem == str(source))
    path = Path(source)
    if path.suffix not in SUFFIXES:
        raise TopologyError(f"{path} must end in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise TopologyError(f"no file {path}; shipped graphs are {', '.join(examples())}")
    if path.stat().st_size > LARGEST_FILE:
        raise TopologyError(f"{path} is larger than {LARGEST_FILE >> 20} MiB")
    return path


def _graphml(path: Path) -> nx.Graph:
    text = path.read_text(encoding="utf-8")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise TopologyError(f"{path} declares entities, which GraphML has no need of")
    try:
        graph = nx.parse_graphml(text, node_type=str)
    except Exception as error:  # noqa: BLE001  # networkx and its XML parser raise many kinds
        raise TopologyError(f"{path} is not GraphML: {error}") from None
    if graph.is_multigraph():
        return nx.DiGraph(graph) if graph.is_directed() else nx.Graph(graph)
    return graph


def _edges(path: Path) -> nx.Graph:
    graph: nx.Graph = nx.Graph()
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        words = line.partition("#")[0].split()
        if len(words) == 1:
            raise TopologyError(
                f"{path}, line {number}: an edge has two ends, with a space between, not {words[0]!r}"
            )
        if words[2:] and not words[2].startswith("{") and not all(map(_is_number, words[2:])):
            raise TopologyError(
                f"{path}, line {number}: {words[2]!r} behind two names; names with spaces need .csv"
            )
        if words:
            graph.add_edge(words[0], words[1])
    return graph


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _csv(path: Path) -> nx.Graph:
    text = path.read_text(encoding="utf-8-sig")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    table = [row for row in csv.reader(text.splitlines(), delimiter=delimiter) if row]
    if not table:
        raise TopologyError(f"{path} holds no nodes")
    if _is_number(table[0][0]):
        raise TopologyError(f"{path}: the first row and the first column must hold names, their corner none")
    names = [name.strip() for name in table[0][1:]]
    if len(set(names)) != len(names):
        raise TopologyError(f"{path}: a node is named twice")
    if [row[0].strip() for row in table[1:]] != names:
        raise TopologyError(f"{path}: the first column must hold the names of the first row, in that order")
    joined = [_row(path, number, row, len(names)) for number, row in enumerate(table[1:], 2)]
    both = all(joined[i][j] == joined[j][i] for i, j in combinations(range(len(names)), 2))
    graph = nx.Graph() if both else nx.DiGraph()
    graph.add_nodes_from(names)
    graph.add_edges_from(
        (names[i], names[j]) for i, row in enumerate(joined) for j, is_edge in enumerate(row) if is_edge
    )
    return graph


def _row(path: Path, number: int, row: Sequence[str], count: int) -> list[bool]:
    if len(row) != count + 1:
        raise TopologyError(f"{path}, line {number}: {len(row) - 1} entries for {count} nodes")
    entries = [entry.strip().replace(",", ".") or "0" for entry in row[1:]]
    if not all(map(_is_number, entries)):
        raise TopologyError(f"{path}, line {number}: entries are numbers, 0 for no edge")
    return [float(entry) != 0 for entry in entries]
