"""What curious nodes that pool what they see learn of the others' updates.

All that a coalition sees are linear combinations of the updates u(t) that nodes add to their models in round
t: x(t + 1) = W(t) (x(t) + u(t)). Its own it knows; A are the combinations, over the columns of the others.

* An update is **exposed** if its unit vector lies in the row space of A: the coalition can compute it.
* Its **leverage** is the diagonal entry of pinv(A) A, in [0, 1]; 1 is exposed. To whoever sees A, noise of
  standard deviation s in each update protects as the Gaussian mechanism with s / √leverage does.

Three ways to mix:

``gossip``
    Nodes send their models as they are; a coalition sees all models sent to it.
``sums``
    A receiver learns only the weighted sum over its neighbourhood (a secure sum in each neighbourhood).
``groups``
    A group learns only the sum of its members; as many members as its threshold, ⌊(k + c) / 2⌋ + 1 for c
    assumed colluders, could undo the masks and see all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from math import comb
from typing import Any, Final

import numpy as np

from p2pfl.topologies import chance
from p2pfl.topologies.analysis import union
from p2pfl.topologies.errors import TopologyError
from p2pfl.topologies.reach import CutVertex, cut_vertices
from p2pfl.topologies.sparse import Floats
from p2pfl.topologies.topology import Topology

SCHEMES: Final = ("gossip", "sums", "groups")
_EXPOSED: Final = 1 - 1e-6
_RANK: Final = 1e-9
_MOST_ENTRIES: Final = 200_000_000


@dataclass(frozen=True, slots=True)
class Coalitions:
    """All coalitions of ``size`` nodes, or ``examined`` of the ``total`` drawn at random (``exact`` false).

    ``exposing``: the fraction of those examined that learn somebody's update. ``leverage``: the largest of
    any node, as the mean over the rounds, under the worst coalition; ``peak`` in a single round.
    ``coalition``: that worst one; ``exposed``: whose updates it learns.
    """

    size: int
    total: int
    examined: int
    exact: bool
    exposing: float
    leverage: float
    peak: float
    coalition: tuple[str, ...]
    exposed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """Of coalitions of 1, 2, … nodes; who is cut off when one node fails; and what to make of it."""

    name: str
    scheme: str
    mixing: str
    rounds: int
    public: bool
    coalitions: tuple[Coalitions, ...]
    cut_vertices: tuple[CutVertex, ...]
    advice: str

    @property
    def safe_up_to(self) -> int:
        """The largest size up to which no coalition examined learns anybody's update."""
        safe = 0
        for each in self.coalitions:
            if each.exposing:
                break
            safe = each.size
        return safe

    def row(self) -> dict[str, Any]:
        """For JSON: plain numbers, texts and lists."""
        return {**asdict(self), "safe_up_to": self.safe_up_to}


def audit(
    topology: Topology,
    colluders: int = 1,
    *,
    scheme: str | None = None,
    mixing: str | None = None,
    rounds: int = 1,
    public: bool = False,
    assumed: int = 1,
    limit: int = 3000,
    seed: int = 0,
) -> Audit:
    """Look at the coalitions of 1 to ``colluders`` nodes over ``rounds`` rounds from a common start.

    ``scheme``: one of :data:`SCHEMES`; None is ``groups`` for a schedule of groups, else ``sums``.
    ``mixing``: of the matrices, as for :meth:`Topology.weights`. ``public``: everybody's sums are known to
    the coalition, not only its own. ``assumed``: the colluders that the thresholds of groups are laid out
    against. Of more than ``limit`` coalitions of a size as many are drawn from ``seed``.

    Raises TopologyError for an unknown scheme, groups without a schedule, more colluders than leave two
    others, or more nodes and rounds than fit into memory.
    """
    scheme = scheme or ("groups" if topology.groups else "sums")
    count = len(topology.nodes)
    _check(topology, scheme, colluders, rounds)
    seen = _Seen(topology, scheme, mixing, rounds, public, assumed)
    found = []
    for size in range(1, colluders + 1):
        exact = comb(count, size) <= limit
        drawn = combinations(range(count), size) if exact else _sampled(count, size, limit, seed)
        found.append(_examine(seen, size, list(drawn), exact))
    outcome = Audit(
        name=topology.name,
        scheme=scheme,
        mixing=topology.mixing(mixing),
        rounds=rounds,
        public=public,
        coalitions=tuple(found),
        cut_vertices=cut_vertices(union(topology)),
        advice="",
    )
    return replace(outcome, advice=_advice(outcome))


def leverages(seen: Floats) -> Floats:
    """The diagonal of pinv(A) A for the combinations A = ``seen``, shape (rows, columns); (columns,)"""
    if not len(seen):
        return np.zeros(seen.shape[1])
    _, sizes, directions = np.linalg.svd(seen, full_matrices=False)
    kept = directions[sizes > _RANK * max(1.0, float(sizes[0]))]
    diagonal: Floats = (kept**2).sum(axis=0)
    return diagonal


class _Seen:
    """What every node sees, as rows over the columns (round, node) of all updates."""

    def __init__(
        self, topology: Topology, scheme: str, mixing: str | None, rounds: int, public: bool, assumed: int
    ) -> None:
        self.topology, self.rounds, self._scheme = topology, rounds, scheme
        self._public, self._assumed = public, assumed
        self._position = {node: index for index, node in enumerate(topology.nodes)}
        count = len(topology.nodes)
        self._sent: list[Floats] = []  # of each round, shape (n, rounds * n): x + u in terms of all u
        self._mixed: list[Floats] = []  # the same after mixing
        self._heard: list[list[Any]] = []
        self._groups: list[list[list[int]]] = []
        model = np.zeros((count, rounds * count))
        for round in range(rounds):
            weights = topology.weights(round, mixing)
            sent = model.copy()
            sent[:, round * count : (round + 1) * count] += np.eye(count)
            model = weights.apply(sent)
            self._sent.append(sent)
            self._mixed.append(model)
            near = weights.off_diagonal
            rows, columns = weights.rows[near], weights.indices[near]
            self._heard.append([columns[rows == node] for node in range(count)])
            drawn = topology.groups(round) if topology.groups else ()
            self._groups.append([[self._position[node] for node in group] for group in drawn])

    def by(self, coalition: Sequence[int]) -> Floats:
        """The combinations of the updates of all others, shape (rows, rounds * others)."""
        pooled = [self._of_round(round, coalition) for round in range(self.rounds)]
        everything = np.concatenate(pooled)
        count = len(self.topology.nodes)
        others = np.ones(count, bool)
        others[list(coalition)] = False
        return everything[:, np.tile(others, self.rounds)]

    def _of_round(self, round: int, coalition: Sequence[int]) -> Floats:
        sent, mixed = self._sent[round], self._mixed[round]
        if self._scheme == "groups":
            return self._of_groups(round, set(coalition))
        if self._scheme == "sums":
            return mixed if self._public else mixed[list(coalition)]
        if self._public:
            return sent
        heard = np.unique(np.concatenate([self._heard[round][node] for node in coalition]))
        return sent[heard.astype(np.int64)]

    def _of_groups(self, round: int, coalition: set[int]) -> Floats:
        sent = self._sent[round]
        rows = [sent[:0]]
        for group in self._groups[round]:
            inside = coalition & set(group)
            others = [node for node in group if node not in coalition]
            if len(inside) >= (len(group) + self._assumed) // 2 + 1:
                rows.append(sent[others])
            elif inside or self._public:
                rows.append(sent[group].sum(axis=0, keepdims=True))
        return np.concatenate(rows)


def _check(topology: Topology, scheme: str, colluders: int, rounds: int) -> None:
    count = len(topology.nodes)
    if scheme not in SCHEMES:
        raise TopologyError(f"unknown way to mix {scheme!r}; there are {', '.join(SCHEMES)}")
    if scheme == "groups" and topology.groups is None:
        raise TopologyError(f"{topology.name} is no schedule of groups; audit sums or gossip")
    if not 1 <= colluders <= count - 2:
        raise TopologyError(f"{colluders} colluders among {count} nodes: take 1 to {count - 2}")
    if rounds < 1 or 2 * count * count * rounds * rounds > _MOST_ENTRIES:
        raise TopologyError(f"{rounds} rounds of {count} nodes are too much to audit; take fewer rounds")


def _sampled(count: int, size: int, limit: int, seed: int) -> Iterator[tuple[int, ...]]:
    draws = chance.generator(chance.seeded(seed), size)
    for _ in range(limit):
        yield tuple(sorted(draws.choice(count, size, replace=False).tolist()))


def _examine(seen: _Seen, size: int, coalitions: list[tuple[int, ...]], exact: bool) -> Coalitions:
    nodes = seen.topology.nodes
    exposing, worst = 0, Coalitions(size, comb(len(nodes), size), len(coalitions), exact, 0, -1, 0, (), ())
    for coalition in coalitions:
        others = [node for node in range(len(nodes)) if node not in coalition]
        found = leverages(seen.by(coalition)).reshape(seen.rounds, len(others))
        exposed = (found > _EXPOSED).any(axis=0)
        exposing += bool(exposed.any())
        mean, peak = float(found.mean(axis=0).max()), float(found.max())
        if (bool(exposed.any()), mean) > (bool(worst.exposed), worst.leverage):
            worst = replace(
                worst,
                leverage=min(1.0, mean),
                peak=min(1.0, peak),
                coalition=tuple(nodes[node] for node in coalition),
                exposed=tuple(nodes[others[index]] for index in np.flatnonzero(exposed)),
            )
    return replace(worst, exposing=exposing / len(coalitions))


def _advice(found: Audit) -> str:
    sentences = [_privacy_advice(found)]
    if found.cut_vertices:
        first = found.cut_vertices[0]
        named = ", ".join(first.isolated[:3]) + (" and others" if len(first.isolated) > 3 else "")
        are = "are" if len(first.isolated) > 1 else "is"
        more = len(found.cut_vertices) - 1
        sentences.append(
            f"If {first.node} fails, {named} {are} cut off"
            + (f"; {more} more such single point{'s' * (more > 1)} of failure" if more else "")
            + ". Add an edge around."
        )
    return " ".join(sentences)


def _privacy_advice(found: Audit) -> str:
    first = found.coalitions[0]
    last = found.coalitions[-1]
    said = "" if all(each.exact for each in found.coalitions) else " (of the coalitions drawn)"
    if found.scheme == "gossip":
        return (
            f"Plain gossip shows each node its neighbours' models as they are: {first.coalition[0]} alone "
            f"sees {len(first.exposed)} of them; use secure sums, or full noise at every node."
        )
    if first.exposing:
        return (
            f"A single curious node, {first.coalition[0]}, can compute the update of {first.exposed[0]}: "
            f"give everybody at least three neighbours, none with the same neighbourhood, or use groups."
        )
    safe = found.safe_up_to
    if safe < last.size:
        bad = found.coalitions[safe]
        return (
            f"Safe against {safe} curious node{'s' if safe > 1 else ''}, not against {bad.size}: "
            f"{', '.join(bad.coalition)} together can compute the update of {bad.exposed[0]}, and "
            f"{bad.exposing:.1%} of all pools of {bad.size} somebody's{said}; use larger groups or a denser "
            f"graph if that many may collude."
        )
    return (
        f"No pool of up to {safe} curious nodes can compute anybody's update{said}; the worst has leverage "
        f"{last.leverage:.2f}, so noise counts for them as if it were "
        f"{max(last.leverage, 1e-12) ** -0.5:.1f} times as large."
    )
