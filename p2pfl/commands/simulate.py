"""``p2pfl simulate``: what a federation would come to, before anybody commits."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

from p2pfl.commands import simulate_scenario
from p2pfl.node.errors import ConfigError, DataError, StorageError, UsageError, reason_of
from p2pfl.progress import Progress
from p2pfl.terminal import note

if TYPE_CHECKING:
    from p2pfl.simulation.experiment import Sweep
    from p2pfl.simulation.running import Row

_FLAGS: Final[Mapping[str, tuple[str, str]]] = {
    "data": ("simulation.data", "heart_disease, or a file or folder"),
    "nodes": ("simulation.nodes", "how many"),
    "partition": ("simulation.partition", "natural, iid, dirichlet, shards or column"),
    "alpha": ("simulation.alpha", "of the dirichlet partition"),
    "topology": ("simulation.topology", "who may meet whom: see `p2pfl topology list`"),
    "averaging": ("simulation.averaging", "in groups, with neighbours, or none"),
    "group": ("groups.size", "members of a group"),
    "rounds": ("training.rounds", "training rounds"),
    "mode": ("privacy.mode", "distributed, local, organisation or none"),
    "epsilon": ("privacy.epsilon", "the promise, for all rounds"),
    "offline": ("simulation.offline", "probability that a node sits a round out"),
    "attackers": ("simulation.attackers", "nodes that send something else"),
    "engine": (
        "simulation.engine",
        "vectorised, exact or protocol; or ray: the file's, its runs spread over a Ray cluster",
    ),
}
_RAY: Final = "ray"
"""An engine to the command line alone: where runs are done, not what they are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl simulate``."""
    parser.description = (
        "Simulate a federation. FILE is an experiment: a federation's TOML with a table [simulation], in"
        " which any value may be a list, for a sweep; without one, the four hospitals. Options take the place"
        " of what the file says; values separated by commas are a sweep too. With --output: a table, plots"
        " and report.html, a page that says all of it. `p2pfl simulate advise` recommends what to agree on."
    )
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="the experiment")
    parser.add_argument(
        "--from",
        dest="federation",
        metavar="FILE",
        type=Path,
        help="simulate this federation as it is: its TOML, or its manifest; without --nodes and --partition"
        " every part of the data is a node",
    )
    for name, (path, what) in _FLAGS.items():
        parser.add_argument(f"--{name}", metavar="VALUE", help=f"{what} ({path})")
    parser.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        help="any other value, such as groups.minimum=4",
    )
    parser.add_argument("--seeds", metavar="N", type=int, help="runs of each, from different seeds")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="where results go, and where an interrupted sweep goes on"
    )
    parser.add_argument("--jobs", metavar="N", type=int, help="runs at a time (default: one for each core)")
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="spread the runs over this Ray cluster, whatever the engine; auto: the one this machine is in"
        " (--engine ray: RAY_ADDRESS's, or else one on this machine alone)",
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    simulate_scenario.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Simulate, write the results, and print a summary."""
    if simulate_scenario.wanted(options):
        return simulate_scenario.run(options)
    from p2pfl.simulation.summary import lines

    if options.jobs is not None and options.jobs < 1:
        raise UsageError(
            f"--jobs {options.jobs}: must be at least 1", "leave it out for as many as there are cores"
        )
    text = _text(options.file)
    sweep = _sweep(options, text)
    with refusals(str(options.file or "the options")):
        rows = _performed(sweep, options, text)
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    for line in lines(rows, sweep.axes):
        print(line)
    return 0


def _text(file: Path | None) -> str:
    """The experiment; nothing is one too."""
    try:
        return "" if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}", "check the path") from None


def _sweep(options: argparse.Namespace, text: str) -> "Sweep":
    from p2pfl.simulation.experiment import read

    overrides, as_it_is = _overrides(options), options.federation is not None
    if as_it_is:
        if options.file is not None:
            raise UsageError("--from is for a federation without an experiment", "leave FILE or --from out")
        overrides["simulation.federation"] = str(options.federation.absolute())
        if "simulation.nodes" not in overrides:
            overrides.setdefault("simulation.partition", "natural")
    base = (Path() if options.file is None else options.file.parent).absolute()
    with refusals(str(options.file or "the options")):
        return read(text, base, overrides, as_it_is=as_it_is)


@contextmanager
def refusals(where: str) -> Iterator[None]:
    """What an experiment is refused for, be it when it is read or when it runs."""
    from p2pfl.gossip.records import FieldError
    from p2pfl.simulation.partitions import PartitionError
    from p2pfl.topologies.errors import TopologyError
    from p2pfl.topologies.schedule import ScheduleError

    hint = f"see {where}, and docs/simulation.md"
    try:
        yield
    except FieldError as error:
        raise ConfigError(error.field or where, error.reason, hint) from None
    except (PartitionError, TopologyError, ScheduleError) as error:
        raise ConfigError(where, str(error), hint) from None


def _overrides(options: argparse.Namespace) -> dict[str, object]:
    said = {path: getattr(options, name) for name, (path, _) in _FLAGS.items()}
    if options.engine == _RAY:
        del said["simulation.engine"]
    found = {path: _value(text) for path, text in said.items() if text is not None}
    for assignment in options.set:
        path, equals, text = assignment.partition("=")
        if not equals or path.count(".") != 1:
            raise UsageError(
                f"--set {assignment}: not PATH=VALUE", "say, for example, --set groups.minimum=4"
            )
        found[path] = _value(text)
    if options.seeds is not None:
        found["simulation.seeds"] = options.seeds
    return found


def _value(text: str) -> object:
    """A number where it reads as one, a list where there are commas."""
    parts = text.split(",")
    if len(parts) > 1:
        return [_value(part.strip()) for part in parts]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _performed(sweep: "Sweep", options: argparse.Namespace, text: str) -> "Sequence[Row]":
    from p2pfl.simulation.sweep import perform
    from p2pfl.simulation.table import write

    if options.output is None:
        with TemporaryDirectory() as directory, _processors(options) as executor:
            return perform(sweep, Path(directory), executor, _Told())
    _make(options.output)
    with _processors(options) as executor:
        rows = perform(sweep, options.output, executor, _Told())
    for path in [*write(rows, options.output), *_illustrated(sweep, rows, options, text)]:
        note(f"wrote {path}")
    return rows


def _processors(options: argparse.Namespace) -> AbstractContextManager[Executor]:
    """What the runs are done on."""
    if options.engine == _RAY or options.ray_address:
        from p2pfl.simulation.ray_cluster import cluster

        return cluster(options.ray_address, options.jobs)
    from p2pfl.simulation.runs import cores

    return cores(options.jobs)


def _illustrated(
    sweep: "Sweep", rows: "Sequence[Row]", options: argparse.Namespace, text: str
) -> Sequence[Path]:
    """The plots and the report, where they can be drawn."""
    from p2pfl.figures import REMEDY, available

    if not available():
        note(f"no plots and no report, for want of matplotlib: {REMEDY}")
        return []
    from p2pfl.simulation.report import Again, write

    return write(rows, sweep, options.output, Again(_words(options), text))


def _words(options: argparse.Namespace) -> list[str]:
    """The command line."""
    given = {
        **{name: getattr(options, name) for name in _FLAGS},
        "seeds": options.seeds,
        "ray-address": options.ray_address,
    }
    words = ["p2pfl", "simulate", *([] if options.file is None else [str(options.file)])]
    words += [] if options.federation is None else ["--from", str(options.federation)]
    for name, value in given.items():
        words += [] if value is None else [f"--{name}", str(value)]
    for assignment in options.set:
        words += ["--set", assignment]
    return [*words, "--output", str(options.output)]


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{directory}: {reason_of(error)}", "name another with --output") from None


class _Told:
    """Shows how far a sweep is."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def __call__(self, done: int, total: int) -> None:
        if self._progress is None:
            self._progress = Progress(total - done)
            runs = "1 run" if total == 1 else f"{total} runs"
            self._progress.begin(f"{runs}, {done} of them finished before" if done else runs)
        else:
            self._progress.step()
        if done == total:
            self._progress.end()
