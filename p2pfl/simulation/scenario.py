"""Scenarios: a federation's size and rules, the network between its nodes, and what goes wrong and when.

A scenario is a TOML file; p2pfl brings some, by name. Every number is in the unit that its field names;
seconds are simulated ones.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from p2pfl.gossip.declared import require, require_distinct, require_range
from p2pfl.gossip.manifest import MAX_MEMBERS, GroupSpec, TimingSpec
from p2pfl.gossip.records import FieldError, plain, read_record, suggest

SHIPPED: Final = Path(__file__).parent.parent / "data" / "scenarios"
MOST_SECONDS: Final = 1e7
MOST_ELEMENTS: Final = 1 << 24
_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always ``value``."""

    kind: Literal["fixed"]
    value: float

    def __post_init__(self) -> None:
        require_range(self.value, "value", 0, MOST_SECONDS)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Anything from ``low`` to ``high``."""

    kind: Literal["uniform"]
    low: float
    high: float

    def __post_init__(self) -> None:
        require_range(self.low, "low", 0, MOST_SECONDS)
        require_range(self.high, "high", self.low, MOST_SECONDS)


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Half of all below ``median``, two thirds within a factor of exp(``spread``) of it."""

    kind: Literal["lognormal"]
    median: float
    spread: float

    def __post_init__(self) -> None:
        require_range(self.median, "median", 0, MOST_SECONDS, above=True)
        require_range(self.spread, "spread", 0, 3)


Distribution = Fixed | Uniform | Lognormal


@dataclass(frozen=True, slots=True)
class Region:
    """So many ``nodes`` in one place; regions follow each other in the numbering of nodes."""

    name: str
    nodes: int


@dataclass(frozen=True, slots=True)
class Route:
    """From any node of one region to any of another, or of the same: ``seconds`` one way."""

    between: tuple[str, ...]
    seconds: float

    def __post_init__(self) -> None:
        require(len(self.between) == 2, "network.routes.between", "must name two regions, or one twice")
        require_range(self.seconds, "network.routes.seconds", 0, 60)


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """The connections. Each pair of nodes draws its ``latency`` (seconds one way) once, or has that of a
    route; each node draws its uplink's ``bandwidth`` (Mbit/s), which its messages share one after the other.
    ``graph``: a file or shipped graph of `p2pfl topology list` whose nodes have ``latency`` (ms, to its
    provider) and ``bandwidth``, which take the place of both.

    ``jitter``: a message takes up to that share of the latency longer. ``loss``: probability that it must be
    sent again, after ``retry_seconds``, doubled every time: streams do not lose messages, they delay them.
    ``breaks_per_hour``: how often a connection ends by itself, with what is under way; both ends notice after
    ``notice_seconds``, as they do of crashes and partitions, and connect again ``reconnect_seconds`` later.

    ``connections``: ``all`` pairs, as daemons strive for, or, for crowds, ``few``: those whom a node may meet
    in the epoch, and on average ``spare`` others.
    """

    latency: Distribution = Uniform("uniform", 0.005, 0.04)
    bandwidth: Distribution = Fixed("fixed", 100.0)
    regions: tuple[Region, ...] = ()
    routes: tuple[Route, ...] = ()
    graph: str = ""
    jitter: float = 0.1
    loss: float = 0.0
    retry_seconds: float = 0.2
    breaks_per_hour: float = 0.0
    notice_seconds: float = 0.5
    reconnect_seconds: float = 1.0
    connections: Literal["all", "few"] = "all"
    spare: float = 4.0

    def __post_init__(self) -> None:
        require_range(self.jitter, "network.jitter", 0, 100)
        require_range(self.loss, "network.loss", 0, 0.9)
        require_range(self.retry_seconds, "network.retry_seconds", 0, 60, above=True)
        require_range(self.breaks_per_hour, "network.breaks_per_hour", 0, 3600)
        require_range(self.notice_seconds, "network.notice_seconds", 0, _DAY)
        require_range(self.reconnect_seconds, "network.reconnect_seconds", 0, _DAY)
        require_range(self.spare, "network.spare", 2, 100)
        names = [region.name for region in self.regions]
        require_distinct(names, "network.regions", MAX_MEMBERS)
        for route in self.routes:
            for name in route.between:
                require(name in names, "network.routes.between", f"no region {name!r}")


@dataclass(frozen=True, slots=True)
class Partition:
    """From ``at`` to ``until`` no message passes between ``nodes`` (or a drawn ``share``) and the others."""

    kind: Literal["partition"]
    at: float
    until: float
    nodes: tuple[int, ...] = ()
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Crash:
    """``nodes``, or a drawn ``share``, are killed at ``at`` and started again at ``until``; 0: never."""

    kind: Literal["crash"]
    at: float
    until: float = 0.0
    nodes: tuple[int, ...] = ()
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    """``nodes``, or a drawn ``share``, stand still from ``at`` to ``until``, as suspended machines: they
    stay connected, and find everything that was sent to them, and all their timers, when they go on. If
    ``every`` is not 0 that happens again so many seconds after it began, until ``over``.
    """

    kind: Literal["pause"]
    at: float
    until: float
    every: float = 0.0
    over: float = 0.0
    nodes: tuple[int, ...] = ()
    share: float = 0.0

    def __post_init__(self) -> None:
        again = self.until - self.at
        require(not self.every or self.every > again, "faults.every", f"must be above the pause, {again:g}")
        require_range(self.over, "faults.over", 0, MOST_SECONDS)


@dataclass(frozen=True, slots=True)
class Churn:
    """From ``at`` to ``until`` every one of ``nodes``, or of a drawn ``share``, is killed ``per_hour`` times
    an hour, at random, and is gone for ``gone`` seconds.
    """

    kind: Literal["churn"]
    at: float
    until: float
    per_hour: float
    gone: Distribution
    nodes: tuple[int, ...] = ()
    share: float = 0.0

    def __post_init__(self) -> None:
        require_range(self.per_hour, "faults.per_hour", 0, 3600, above=True)


@dataclass(frozen=True, slots=True)
class Slow:
    """``nodes``, or a drawn ``share``, train ``factor`` times longer, over uplinks that much slower."""

    kind: Literal["slow"]
    factor: float
    nodes: tuple[int, ...] = ()
    share: float = 0.0

    def __post_init__(self) -> None:
        require_range(self.factor, "faults.factor", 1, 1e6)


@dataclass(frozen=True, slots=True)
class Clock:
    """The clocks of ``nodes``, or of a drawn ``share``: ahead on the wall by up to ``seconds`` either way,
    and up to ``drift`` too fast or slow.
    """

    kind: Literal["clock"]
    seconds: float = 0.0
    drift: float = 0.0
    nodes: tuple[int, ...] = ()
    share: float = 0.0

    def __post_init__(self) -> None:
        require_range(self.seconds, "faults.seconds", 0, _DAY)
        require_range(self.drift, "faults.drift", 0, 0.5)


@dataclass(frozen=True, slots=True)
class Byzantine:
    """``nodes``, or a drawn ``share``, follow the protocol but for one thing, from ``at`` on.

    ``equivocates``: signs one set of survivors for some and another for the others. ``withholds``: reveals
    no shares. ``miscounts``: hands out wrong sums of the chunks that it adds up. ``silent``: takes its place
    in a group and then says nothing of the round. ``garbles``: its vectors are not the ones it signed, so
    nobody can read them. ``two-faced``: shows two presences for an epoch.
    """

    kind: Literal["byzantine"]
    behaviour: Literal["equivocates", "withholds", "miscounts", "silent", "garbles", "two-faced"]
    at: float = 0.0
    nodes: tuple[int, ...] = ()
    share: float = 0.0


_GROUPS: Final = GroupSpec()
_TIMING: Final = TimingSpec()
_NETWORK: Final = NetworkSpec()

Fault = Partition | Crash | Pause | Churn | Slow | Clock | Byzantine


@dataclass(frozen=True, slots=True)
class Scenario:
    """``nodes`` of a federation go through ``rounds`` rounds of sums of ``elements`` 32-bit elements, each
    after ``training`` seconds, or as far as they get in ``seconds``.

    The last ``guests`` of them are not listed in the manifest: tickets admit them, which run out after
    ``ticket_seconds``. ``about`` says in a line what is tried. ``seed`` draws everything, faults included.
    """

    about: str
    nodes: int
    rounds: int = 10
    seconds: float = 600.0
    elements: int = 1000
    training: Distribution = Uniform("uniform", 0.5, 1.5)
    guests: int = 0
    ticket_seconds: int = 1_000_000
    seed: int = 0
    groups: GroupSpec = _GROUPS
    timing: TimingSpec = _TIMING
    network: NetworkSpec = _NETWORK
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        require_range(self.nodes, "nodes", self.groups.minimum, MAX_MEMBERS)
        require_range(self.rounds, "rounds", 1, 1_000_000)
        require_range(self.seconds, "seconds", 0, MOST_SECONDS, above=True)
        require_range(self.elements, "elements", 1, MOST_ELEMENTS)
        require_range(self.guests, "guests", 0, self.nodes)
        require_range(self.ticket_seconds, "ticket_seconds", 1, 1e12)
        require_range(self.seed, "seed", 0, (1 << 63) - 1)
        placed = sum(region.nodes for region in self.network.regions)
        require(placed in (0, self.nodes), "network.regions", f"hold {placed} nodes; there are {self.nodes}")
        for position, fault in enumerate(self.faults):
            self._check(fault, f"faults[{position}]")

    def _check(self, fault: Fault, path: str) -> None:
        for node in fault.nodes:
            require_range(node, f"{path}.nodes", 0, self.nodes - 1)
        require_distinct([str(node) for node in fault.nodes], f"{path}.nodes", self.nodes)
        require_range(fault.share, f"{path}.share", 0, 1)
        one = bool(fault.nodes) != (fault.share > 0)
        require(one, path, "needs nodes, or a share of them, and not both")
        if isinstance(fault, Partition | Churn | Crash | Pause | Byzantine):
            require_range(fault.at, f"{path}.at", 0, MOST_SECONDS)
        if isinstance(fault, Partition | Churn | Pause) or (isinstance(fault, Crash) and fault.until):
            require_range(fault.until, f"{path}.until", fault.at, MOST_SECONDS, above=True)

    @property
    def table(self) -> dict[str, object]:
        """All of it, without floats: what :func:`from_plain` reads."""
        return plain(self)


def names() -> tuple[str, ...]:
    """The scenarios that p2pfl brings."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.toml")))


def read(source: str | Path) -> Scenario:
    """The scenario in the file ``source``, or the shipped one of that name.

    Raises FieldError naming the field, OSError or UnicodeDecodeError if there is nothing to read.
    """
    path = Path(source)
    if path.suffix != ".toml":
        if str(source) not in names():
            known = suggest(str(source), names())
            raise FieldError("", f"no scenario {str(source)!r}, and no .toml file; {known}")
        path = SHIPPED / f"{source}.toml"
    return from_text(path.read_text(encoding="utf-8"))


def from_text(text: str) -> Scenario:
    """The scenario that ``text``, TOML, describes. Raises FieldError naming the field."""
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise FieldError("", f"not TOML: {error}") from None
    return read_record(Scenario, table, "", floats_are_text=False)


def from_plain(table: Mapping[str, object]) -> Scenario:
    """The inverse of :attr:`Scenario.table`. Raises FieldError."""
    return read_record(Scenario, table, "", floats_are_text=True)
