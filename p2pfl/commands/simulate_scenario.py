"""What `p2pfl simulate` does with scenarios: one, all of them, and the replay of a trace."""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.node.errors import ConfigError, DataError, StorageError, UsageError, reason_of
from p2pfl.terminal import note

if TYPE_CHECKING:
    from p2pfl.simulation.scenario import Scenario
    from p2pfl.simulation.trace import Recorder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl simulate`` that are about scenarios."""
    group = parser.add_argument_group(
        "scenarios", "the daemons' own protocol on a virtual network; nothing is learned: docs/scenarios.md"
    )
    group.add_argument("--scenario", metavar="NAME|FILE", help="run one that p2pfl brings, or a file")
    group.add_argument("--scenarios", action="store_true", help="run all that p2pfl brings, but for crowds")
    group.add_argument("--trace", metavar="FILE", type=Path, help="with --scenario: record every event")
    group.add_argument(
        "--replay", metavar="FILE", type=Path, help="do again what a trace recorded, and compare"
    )


def wanted(options: argparse.Namespace) -> bool:
    """Whether it is about scenarios."""
    return bool(options.scenario or options.scenarios or options.replay or options.trace)


def run(options: argparse.Namespace) -> int:
    """Run what is asked for, and print what came of it."""
    asked = [bool(options.scenario), options.scenarios, options.replay is not None]
    if sum(asked) != 1:
        raise UsageError("one of --scenario, --scenarios and --replay", "see docs/scenarios.md")
    if options.trace is not None and not options.scenario:
        raise UsageError("--trace is of one scenario", "name it with --scenario")
    if options.replay is not None:
        return _replay(options.replay)
    return _all(options) if options.scenarios else _one(options)


def _one(options: argparse.Namespace) -> int:
    from p2pfl.simulation.scenario_report import lines, perform

    scenario = _read(options.scenario)
    base = Path(options.scenario).parent
    with _refusals(options.scenario), _recorder(scenario, options.trace) as recorder:
        report = perform(scenario, trace=recorder, base=base)
    if options.json:
        print(json.dumps(report.table, indent=1))
        return 0
    for line in lines(report):
        print(line)
    if options.trace is not None:
        note(f"wrote {options.trace}")
    return 0


def _all(options: argparse.Namespace) -> int:
    from p2pfl.simulation.scenario import read
    from p2pfl.simulation.scenario_report import baseline, changes, in_table, perform, table_lines

    rows = {name: perform(read(name)).row for name in in_table()}
    if options.json:
        print(json.dumps(rows, indent=1))
        return 0
    for line in table_lines(rows):
        print(line)
    changed = list(changes(baseline(), rows))
    print("\nas in the stored table" if not changed else "\nwhat changed since the table was stored:")
    for line in changed:
        print(line)
    return 0


def _replay(file: Path) -> int:
    from p2pfl.simulation.trace import TraceError, replay

    try:
        with file.open(encoding="utf-8") as opened:
            done = replay(opened)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}", "check the path") from None
    except TraceError as error:
        raise DataError(f"{file}: {error}", "record it again with --trace") from None
    if done.difference:
        print(f"after {done.events} events: {done.difference}")
        return 1
    end = ", where the trace was cut off" if done.truncated else ""
    print(f"{done.events} events in {done.lives} lives of nodes, every answer the same{end}")
    return 0


def _read(source: str) -> "Scenario":
    from p2pfl.simulation.scenario import read

    with _refusals(source):
        try:
            return read(source)
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{source}: cannot be read: {error}", "check the path") from None


@contextmanager
def _refusals(source: str) -> Iterator[None]:
    from p2pfl.gossip.records import FieldError
    from p2pfl.topologies.errors import TopologyError

    try:
        yield
    except FieldError as error:
        raise ConfigError(
            error.field or source, error.reason, f"see {source}, and docs/scenarios.md"
        ) from None
    except TopologyError as error:
        raise ConfigError("network.graph", str(error), f"see {source}") from None


@contextmanager
def _recorder(scenario: "Scenario", file: Path | None) -> "Iterator[Recorder | None]":
    from p2pfl.simulation.trace import Recorder

    if file is None:
        yield None
        return
    try:
        with file.open("w", encoding="utf-8") as opened:
            yield Recorder(scenario, opened)
    except OSError as error:
        raise StorageError(f"{file}: {reason_of(error)}", "name another file with --trace") from None
