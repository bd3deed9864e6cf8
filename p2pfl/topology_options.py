"""How `p2pfl topology` is told which topology is meant: the options that its commands share."""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from p2pfl.node.errors import UsageError, UserError

if TYPE_CHECKING:
    from p2pfl.topologies.topology import Topology

SOURCE: Final = (
    "a family of `p2pfl topology list`, the name of a shipped graph, a file (.graphml, .edges, .csv), or"
    " my_file.py:function, which is run"
)
_SCHEDULES: Final = ("random", "grid", "clustered")
_OF_ONE: Final = ("nodes", "groups", "minimum", "schedule", "mixing", "fresh")
"""What may follow a source behind a comma; everything else there is a parameter of its family."""
_GROUP: Final = 4
_OWN: Final = "see 'Your own' in docs/topologies.md"


@dataclass(frozen=True, slots=True)
class Asked:
    """A topology as nodes mix in it, and ``below`` that the graph which its groups are cut from, or itself.

    ``mixing``: the scheme asked for, None: its own. ``seed``: what it was drawn from.
    """

    topology: "Topology"
    below: "Topology"
    mixing: str | None
    seed: int


def add_topology(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """The options that say which topology, or which ``several``."""
    what = f"{SOURCE}; with values for it alone behind commas: random_regular,degree=4"
    parser.add_argument("source", metavar="SOURCE", nargs="+" if several else None, help=what)
    parser.add_argument(
        "--nodes", metavar="N", help="how many; or a graph file, whose names and regions are taken"
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="a parameter of the family, such as degree=4",
    )
    parser.add_argument("--fresh", action="store_true", help="drawn anew every round")
    parser.add_argument("--groups", metavar="K", type=int, help="average in groups of K, as real nodes do")
    parser.add_argument("--minimum", metavar="M", type=int, help="least members of a group (default: 3)")
    parser.add_argument("--schedule", choices=_SCHEDULES, help="how groups are cut (default: random)")
    parser.add_argument(
        "--mixing", metavar="SCHEME", help="weights: metropolis, uniform, max_degree, fastest, …"
    )
    parser.add_argument("--seed", metavar="S", type=int, default=0, help="of all that is drawn (default: 0)")


def add_parameters(parser: argparse.ArgumentParser) -> None:
    """How large the model is that is sent."""
    what = "of the model that is sent, 4 bytes each (default: 1000000)"
    parser.add_argument("--parameters", metavar="D", type=_count, default=1_000_000, help=what)


def asked(options: argparse.Namespace) -> list[Asked]:
    """The topologies that ``options`` name. Call it inside :func:`explained`; code in files is run.

    Raises UsageError, TopologyError or ScheduleError for what cannot be had.
    """
    if not 0 <= options.seed < 1 << 64:
        raise UsageError(f"--seed {options.seed}: must be from 0 to 2^64 - 1", "leave it out for 0")
    sources = options.source if isinstance(options.source, list) else [options.source]
    return [_asked(source, options) for source in sources]


def in_groups(found: Asked) -> "Topology | None":
    """Groups of the usual size on the graph of ``found``; None where it changes or goes one way only."""
    from p2pfl.topologies.grouped import grouped

    if found.below.period != 1 or found.below.graph().is_directed():
        return None
    return grouped(found.below, size=_GROUP, minimum=3, seed=found.seed)


@contextmanager
def explained(options: argparse.Namespace) -> Iterator[None]:
    """What is wrong with a topology, in one line for whoever asked for it.

    Raises UsageError for errors of topologies, and for everything that comes of code of the user's own.
    """
    from p2pfl.topologies.errors import CodeError, TopologyError
    from p2pfl.topologies.schedule import ScheduleError

    sources = options.source if isinstance(options.source, list) else [options.source]
    own = [_split(source)[0] for source in sources if ":" in source]
    try:
        yield
    except CodeError as error:
        raise UsageError(str(error), _OWN) from error
    except (TopologyError, ScheduleError) as error:
        raise UsageError(str(error), "see `p2pfl topology list`, and docs/topologies.md") from None
    except UserError:
        raise
    except Exception as error:
        if not own:
            raise
        what = f"what {', '.join(own)} gives cannot be used: {type(error).__name__}: {error}"
        raise UsageError(what, _OWN) from error


def _asked(source: str, options: argparse.Namespace) -> Asked:
    from p2pfl.topologies.grouped import grouped
    from p2pfl.topologies.registry import topology

    name, behind = _split(source)
    said = {key: getattr(options, key) for key in _OF_ONE} | {
        key: value for key, value in behind.items() if key in _OF_ONE
    }
    parameters = _pairs(options.set) | {key: value for key, value in behind.items() if key not in _OF_ONE}
    nodes = _nodes(said["nodes"])
    below = topology(name, nodes, seed=options.seed, fresh=bool(said["fresh"]), code=True, **parameters)
    top = below
    if said["groups"] is not None or said["schedule"] is not None:
        size = _GROUP if said["groups"] is None else said["groups"]
        minimum = min(3, size) if said["minimum"] is None else said["minimum"]
        _check_groups(size, minimum, said["schedule"])
        schedule = said["schedule"] or "random"
        top = grouped(below, size=size, minimum=minimum, schedule=schedule, seed=options.seed)
    known = [f"{key} {value}" for key, value in parameters.items()]
    known += ["new every round"] * bool(said["fresh"]) + [f"{said['mixing']} weights"] * bool(said["mixing"])
    return Asked(top.renamed(", ".join([top.name, *known])), below, said["mixing"], options.seed)


def _check_groups(size: object, minimum: object, schedule: object) -> None:
    if not (isinstance(size, int) and isinstance(minimum, int) and 1 <= minimum <= size):
        raise UsageError(
            f"groups of {size} of at least {minimum} members: the least must be from 1 to the size",
            "give --groups, and --minimum only where three members are too many",
        )
    if schedule not in (None, *_SCHEDULES):
        raise UsageError(f"unknown schedule {schedule!r}", f"there are {', '.join(_SCHEDULES)}")


def _nodes(said: object) -> Any:
    """A number, or the graph whose names and attributes are taken."""
    from p2pfl.topologies.files import is_file, read
    from p2pfl.topologies.topology import MOST_NODES

    text = str(said)
    if said is None or is_file(text):
        return said if said is None else read(text)
    if not re.fullmatch(r"\d{1,9}", text):
        raise UsageError(f"--nodes {text}: neither a number nor a graph file", "say --nodes 24")
    if int(text) > MOST_NODES:
        raise UsageError(f"--nodes {text}: at most {MOST_NODES} are supported", "take fewer")
    return int(text)


def _split(source: str) -> tuple[str, dict[str, Any]]:
    """The source, and the values behind its commas."""
    name, *rest = re.split(r",(?=\w+=)", source)
    return name, _pairs(rest)


def _pairs(texts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise UsageError(f"--set {text}: not NAME=VALUE", "say, for example, --set degree=4")
        found[name] = _value(value)
    return found


def _value(text: str) -> int | float | bool | str:
    """What it reads as."""
    known: Mapping[str, bool] = {"true": True, "false": False}
    if text in known:
        return known[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _count(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,11}", text):
        raise argparse.ArgumentTypeError("must be a whole number above 0")
    return int(text)
