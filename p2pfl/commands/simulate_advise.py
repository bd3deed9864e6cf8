"""``p2pfl simulate advise``: what a consortium should agree on, given what it knows."""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfl.node.errors import ConfigError, UsageError
from p2pfl.progress import Progress
from p2pfl.terminal import note

if TYPE_CHECKING:
    from p2pfl.simulation.advice import Advice, Asked, Search, Trial
    from p2pfl.simulation.advice_problem import Problem

_LEARNT = 0.02
"""Accuracy beyond guessing that counts as having learnt something."""
_RARELY = 0.01
_SEE = "see `p2pfl simulate advise --help`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl simulate advise``."""
    parser.description = (
        "Recommend group size, rounds, sampling and learning rate: tries some dozens of ways to keep the"
        " promise, with its noise, and prints a part of a federation's TOML, the accuracy to expect, what"
        " it costs, and what it beat. On made-up records, unless --data names yours. Takes a minute or two."
    )
    parser.add_argument("--nodes", metavar="N", type=int, required=True, help="organisations")
    parser.add_argument(
        "--records", metavar="N", type=int, help="training records of each; with --data at most so many"
    )
    parser.add_argument(
        "--epsilon", metavar="E", type=float, required=True, help="the promise, for all rounds"
    )
    parser.add_argument(
        "--delta",
        metavar="D",
        type=float,
        help="its other half (default: a tenth of 1 / all records, or less)",
    )
    parser.add_argument("--colluders", metavar="C", type=int, default=1, help="who may collude (default: 1)")
    parser.add_argument(
        "--offline", metavar="P", type=float, default=0.0, help="probability that one sits a round out"
    )
    parser.add_argument(
        "--rounds", metavar="MIN-MAX", default="10-160", help="training rounds to try (default: 10-160)"
    )
    parser.add_argument("--data", metavar="DATA", help="heart_disease, or a file or folder of yours")
    parser.add_argument(
        "--task", metavar="FILE", type=Path, help="with --data: a federation's TOML with its task and model"
    )
    parser.add_argument(
        "--features", metavar="F", type=int, default=20, help="of the made-up records (default: 20)"
    )
    parser.add_argument("--seeds", metavar="N", type=int, default=5, help="runs of each that is compared")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the part of the TOML there")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the advice."""
    from p2pfl.commands.simulate import refusals
    from p2pfl.simulation.advice import ImpossibleError, Search
    from p2pfl.simulation.runs import one_thread

    one_thread()  # so that sums keep their order, and the answer stays the same
    _check(options)
    with refusals("the options"):
        problem = _problem(options)
        asked = _asked(options, problem)
        told = _Told()
        try:
            search = Search(asked, problem.draft, problem.dealt, told.begin, told.step)
            told.start(search)
            advice = search.run()
        except ImpossibleError as error:
            raise UsageError(str(error), _SEE) from None
        finally:
            told.end()
    fragment = "\n".join(_fragment(advice)) + "\n"
    if options.out is not None:
        _write(options.out, fragment)
    if options.json:
        print(json.dumps(_as_dict(advice, asked, fragment), indent=1))
        return 0
    print(fragment)
    for line in _lines(advice, options, problem):
        print(line)
    return 0


def _check(options: argparse.Namespace) -> None:
    _require(1 <= options.nodes <= 256, "--nodes must be from 1 to 256, which is the most a federation has")
    _require(options.records is not None or options.data is not None, "--records, or --data, must be given")
    _require(options.records is None or 1 <= options.records <= 10**6, "--records must be from 1 to 1000000")
    _require(options.task is None or options.data is not None, "--task needs --data: a task is of records")
    _require(0 < options.epsilon <= 1000, "--epsilon must be above 0 and at most 1000")
    _require(options.delta is None or 0 < options.delta < 1, "--delta must be above 0 and below 1")
    _require(options.colluders >= 1, "--colluders must be at least 1: a curious member is one")
    _require(0 <= options.offline < 1, "--offline must be at least 0 and below 1")
    _require(1 <= options.seeds <= 100, "--seeds must be from 1 to 100")
    _require(1 <= options.features <= 1000, "--features must be from 1 to 1000")


def _problem(options: argparse.Namespace) -> "Problem":
    from p2pfl.simulation.advice_problem import made_up, own

    if options.data is None:
        return made_up(options.nodes, options.records, options.features)
    return own(options.nodes, options.records, options.data, options.task)


def _asked(options: argparse.Namespace, problem: "Problem") -> "Asked":
    from p2pfl.simulation.advice import Asked

    least, dash, most = options.rounds.partition("-")
    whole = least.isdigit() and (most.isdigit() or not dash)
    _require(whole, f"--rounds {options.rounds}: not like 10-160")
    rounds = int(least), int(most or least)
    _require(1 <= rounds[0] <= rounds[1] <= 10_000, "--rounds must go up, from at least 1 to at most 10000")
    records = sum(map(len, problem.dealt(0).train))
    delta = options.delta or 10.0 ** math.floor(math.log10(1 / (10 * records)))
    return Asked(
        options.nodes, options.epsilon, delta, options.colluders, options.offline, rounds, options.seeds
    )


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise UsageError(what, _SEE)


class _Told:
    """Shows how far it is."""

    def __init__(self) -> None:
        self._progress: Progress | None = None

    def start(self, search: "Search") -> None:
        """Once it is known how long it will take."""
        self._progress = Progress(search.steps)

    def begin(self, what: str) -> None:
        """What comes next."""
        if self._progress is not None:
            self._progress.begin(what)

    def step(self) -> None:
        """Something is done."""
        if self._progress is not None:
            self._progress.step()

    def end(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.end()


def _fragment(advice: "Advice") -> Iterator[str]:
    """The tables of a federation's TOML; its name, issuers, task and model are still to be written."""
    from dataclasses import fields

    training, privacy, groups = advice.manifest.training, advice.manifest.privacy, advice.manifest.groups
    yield "[training]"
    for field in fields(training):
        value = getattr(training, field.name)
        if value != field.default:
            yield f"{field.name} = {_toml(value)}"
    yield "\n[privacy]"
    for name in ("mode", "epsilon", "delta", "clip_norm"):
        yield f"{name} = {_toml(getattr(privacy, name))}"
    yield "\n[groups]"
    for name in ("topology", "schedule", "size", "minimum", "colluders"):
        yield f"{name} = {_toml(getattr(groups, name))}"


def _toml(value: object) -> str:
    return json.dumps(value)


def _lines(advice: "Advice", options: argparse.Namespace, problem: "Problem") -> Iterator[str]:
    """For people."""
    from p2pfl.tables import aligned

    chosen, roster = advice.chosen, advice.roster
    yield f"that is: {chosen.choice.among(options.nodes)}"
    expected, seeds = advice.expected, len(chosen.accuracy)
    yield f"accuracy: {_accuracy(expected)} of a node's own model, over {seeds} new seeds"
    yield f"  {_accuracy(chosen)} over those that chose it, and that all below are compared over"
    yield from _compared(expected, options, problem)
    yield f"cost: {chosen.choice.rounds} training rounds; a node sends {_megabytes(chosen)} MB in them"
    yield f"noise: {advice.manifest.privacy.noise_multiplier:.3g} times the clip norm in every sum"
    yield (
        f"safe: against {roster.colluders} of a group; {advice.manifest.groups.minimum} are enough to begin a"
        f" round, and of {roster.members} in it {roster.tolerated_drops} may fail at any moment"
    )
    if advice.skipped > _RARELY:
        yield f"  in {advice.skipped:.0%} of the rounds fewer are there, and the round is skipped"
    yield ""
    cells = [["what it beat", "accuracy", "worst node", "MB sent", "why"]]
    for other in advice.others:
        name, why = other.choice.among(options.nodes), advice.why(other)
        cells.append([name, _accuracy(other), _worst(other), _megabytes(other), why])
    yield from aligned(cells)


def _compared(expected: "Trial", options: argparse.Namespace, problem: "Problem") -> Iterator[str]:
    """What the accuracy is worth."""
    from p2pfl.noise_cost import best_possible
    from p2pfl.simulation.baseline import baseline

    if options.data is None:
        yield f"  on made-up records, where nobody can do better than {best_possible():.3f}; yours differ"
    guess = baseline(problem.draft.task, problem.dealt(0))
    if guess is not None:
        yield f"  always the same answer: {guess:.3f}"
        if expected.mean < guess + _LEARNT:
            yield "  so nothing is learnt: promise a larger epsilon, or find more records or members"


def _accuracy(trial: "Trial") -> str:
    return f"{trial.mean:.3f} ± {trial.deviation:.3f}"


def _worst(trial: "Trial") -> str:
    return f"{sum(trial.worst) / len(trial.worst):.3f}"


def _megabytes(trial: "Trial") -> str:
    return f"{trial.sent / 1e6:.3g}"


def _as_dict(advice: "Advice", asked: "Asked", fragment: str) -> dict[str, object]:
    from dataclasses import asdict

    roster = advice.roster
    return {
        "asked": asdict(asked),
        "toml": fragment,
        "recommended": _trial(advice.chosen),
        "expected_accuracy": advice.expected.mean,
        "expected_accuracy_deviation": advice.expected.deviation,
        "noise_multiplier": advice.manifest.privacy.noise_multiplier,
        "skipped": advice.skipped,
        "group": {
            "members": roster.members,
            "colluders": roster.colluders,
            "may_fail": roster.tolerated_drops,
        },
        "others": [{**_trial(other), "why_not": advice.why(other)} for other in advice.others],
    }


def _trial(trial: "Trial") -> dict[str, object]:
    from dataclasses import asdict

    found: dict[str, object] = asdict(trial.choice)
    found |= {
        "accuracy": trial.mean,
        "accuracy_deviation": trial.deviation,
        "worst_node": sum(trial.worst) / len(trial.worst),
        "bytes": round(trial.sent),
    }
    return found


def _write(path: Path, text: str) -> None:
    from p2pfl.node.storage.atomic_file import write_atomically

    try:
        write_atomically(path, text.encode(), 0o644)
    except OSError as error:
        raise ConfigError("--out", f"{path}: {error}", "name another file") from None
    note(f"wrote {path}")
