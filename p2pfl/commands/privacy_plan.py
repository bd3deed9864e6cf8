"""``p2pfl privacy plan``: from a promise to the noise it takes, and to what that noise does to learning."""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from p2pfl.node.errors import UsageError

if TYPE_CHECKING:
    from p2pfl.gossip.manifest import GroupSpec
    from p2pfl.node.accountant import Kind, Multipliers
    from p2pfl.noise_cost import Noised, Outcome
    from p2pfl.planning import Terms

_RUNS = 4
_KINDS: "tuple[Kind, ...]" = ("distributed", "local", "organisation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl privacy plan``."""
    parser.description = (
        "Before a federation is made: the noise that a promise of epsilon and delta takes in every mode, how"
        " it compares with what the members learn from, and what it costs in accuracy, tried out on made-up"
        " records. Takes some seconds."
    )
    parser.add_argument(
        "--epsilon", metavar="E", type=float, required=True, help="the promise, for all rounds"
    )
    parser.add_argument(
        "--delta", metavar="D", type=float, required=True, help="its other half: well below 1 / records"
    )
    parser.add_argument(
        "--records", metavar="N", type=int, required=True, help="training records of a member"
    )
    parser.add_argument("--rounds", metavar="T", type=int, required=True, help="training rounds")
    parser.add_argument("--members", metavar="M", type=int, required=True, help="of the federation")
    parser.add_argument("--group", metavar="K", type=int, default=4, help="groups.size (default: 4)")
    parser.add_argument("--colluders", metavar="C", type=int, default=1, help="groups.colluders (default: 1)")
    sampling = parser.add_mutually_exclusive_group(required=True)
    sampling.add_argument(
        "--batch", metavar="B", type=float, help="records of a member that a step sees, about"
    )
    sampling.add_argument("--rate", metavar="Q", type=float, help="training.sampling_rate")
    parser.add_argument(
        "--evaluate-every", metavar="E", type=int, default=0, help="evaluation.every (default: 0, at the end)"
    )
    parser.add_argument(
        "--features", metavar="F", type=int, default=20, help="of the made-up records (default: 20)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the plan."""
    plan = _plan(_terms(options), options.features)
    if options.json:
        print(json.dumps(plan.as_dict(), indent=1))
        return 0
    for line in plan.lines():
        print(line)
    return 0


def _plan(terms: "Sequence[Terms]", features: int) -> "_Plan":
    from p2pfl.noise_cost import Noised, affordable, measure

    shared = terms[0].noise()
    noise = [terms_.noise() if terms_.kind == "organisation" else shared for terms_ in terms]
    ways = [Noised(terms_.kind, found.training) for terms_, found in zip(terms, noise, strict=True)]
    free = Noised("distributed", 0.0)
    runs = next(
        (runs for runs in range(_RUNS, 0, -1) if affordable(terms[0], [free, *ways], features, runs)), 0
    )
    outcomes = measure(terms[0], [free, *ways], features, runs) if runs else [None] * (1 + len(ways))
    modes = [_Mode(*mode) for mode in zip(terms, noise, ways, outcomes[1:], strict=True)]
    return _Plan(terms[0], modes, features, outcomes[0])


def _terms(options: argparse.Namespace) -> "list[Terms]":
    """What was asked for, in every mode that has an epsilon. Raises UsageError if it makes no sense."""
    from p2pfl.gossip.evaluation_spec import EvaluationSpec
    from p2pfl.planning import Terms

    _require(0 < options.epsilon <= 1000, "--epsilon must be above 0 and at most 1000")
    _require(0 < options.delta < 1, "--delta must be above 0 and below 1; 1 / (10 records) is usual")
    for name, most in (("records", 10**7), ("rounds", 10**6), ("features", 10**4), ("members", 256)):
        _require(1 <= getattr(options, name) <= most, f"--{name} must be from 1 to {most}")
    rate = options.batch / options.records if options.rate is None else options.rate
    name = "--batch / --records" if options.rate is None else "--rate"
    _require(0 < rate <= 1, f"{name} must be above 0 and at most 1")
    every = options.evaluate_every
    _require(0 <= every < options.rounds, "--evaluate-every must be at least 0 and below --rounds")
    groups = _groups(options)
    least = f"at least {groups.minimum} for groups that hide a member from {options.colluders} colluding"
    _require(options.members >= groups.minimum, f"--members must be {least}")
    evaluations = EvaluationSpec(every).between(options.rounds)
    sizes = (options.records, options.rounds, rate, options.members, groups, evaluations)
    return [Terms(kind, options.epsilon, options.delta, *sizes) for kind in _KINDS]


def _groups(options: argparse.Namespace) -> "GroupSpec":
    from p2pfl.gossip.manifest import GroupSpec, ManifestError

    try:
        return GroupSpec(
            size=options.group, minimum=max(3, options.colluders + 2), colluders=options.colluders
        )
    except ManifestError as error:
        option = {"groups.size": "--group", "groups.colluders": "--colluders"}.get(error.field, error.field)
        raise UsageError(f"{option} {error.reason}", "see `p2pfl privacy plan --help`") from None


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise UsageError(what, "see `p2pfl privacy plan --help`")


@dataclass(frozen=True, slots=True)
class _Mode:
    """What one mode takes, and comes to; ``outcome`` is None if it was not tried out."""

    terms: "Terms"
    noise: "Multipliers"
    way: "Noised"
    outcome: "Outcome | None"

    @property
    def noise_of_mean(self) -> float:
        """In the smallest group of a round that everybody attends."""
        from p2pfl.noise_cost import noise_of_mean

        return max(noise_of_mean(self.terms, self.way, size) for size in self.terms.group_sizes)

    def as_dict(self, free: "Outcome | None") -> dict[str, object]:
        """For JSON."""
        ladder = self.terms.ladder(self.noise)
        found: dict[str, object] = {
            "noise_multiplier": self.noise.training,
            "statistics_noise_multiplier": self.noise.statistics,
            "evaluation_noise_multiplier": self.noise.evaluation,
            "epsilon": ladder[0][1].pld,
            "epsilon_rdp": ladder[0][1].rdp,
            "ladder": [
                {"colluders": colluders, "epsilon": cost.pld, "epsilon_rdp": cost.rdp}
                for colluders, cost in ladder
            ],
            "noise_of_mean": self.noise_of_mean,
        }
        if self.outcome is not None and free is not None:
            found["signal_to_noise"] = self.outcome.signal_to_noise
            found["accuracy"] = self.outcome.accuracy
            found["accuracy_deviation"] = self.outcome.deviation
            found["accuracy_cost"] = free.accuracy - self.outcome.accuracy
        return found


@dataclass(frozen=True, slots=True)
class _Plan:
    """``free``: learning without privacy; None if nothing was tried out."""

    terms: "Terms"
    modes: Sequence[_Mode]
    features: int
    free: "Outcome | None"

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        from p2pfl.noise_cost import best_possible

        terms, free = self.terms, self.free
        asked = {
            "epsilon": terms.epsilon,
            "delta": terms.delta,
            "records": terms.records,
            "rounds": terms.rounds,
            "sampling_rate": terms.sampling_rate,
            "members": terms.members,
            "group": terms.groups.size,
            "colluders": terms.groups.colluders,
        }
        tried = free and {
            "features": self.features,
            "runs": free.runs,
            "best_possible": best_possible(),
            "accuracy": free.accuracy,
            "accuracy_deviation": free.deviation,
        }
        modes = {mode.terms.kind: mode.as_dict(free) for mode in self.modes}
        return {"asked": asked, "modes": modes, "measured": tried}

    def lines(self) -> Iterator[str]:
        """For people."""
        for part in (self._asked(), self._noise(), self._ladder(), self._learning()):
            yield from part
            yield ""
        yield from self._explained()

    def _asked(self) -> Iterator[str]:
        terms = self.terms
        sizes = " and ".join(map(str, sorted(set(terms.group_sizes))))
        yield f"promise: epsilon {terms.epsilon:g} at delta {terms.delta:g}, over {terms.rounds} rounds"
        yield (
            f"federation: {terms.members} members of {terms.records} records, in groups of {sizes}, of whom"
            f" {terms.groups.colluders} may collude"
        )
        yield (
            f"step: every record with probability {terms.sampling_rate:g}, about {terms.batch:g} records of a"
            " member"
        )
        if terms.delta * terms.records >= 1:
            yield f"delta is not below 1 / {terms.records}: it would allow publishing a record of each member"

    def _noise(self) -> Iterator[str]:
        yield f"{'noise multiplier':28}{'training':>12}{'statistics':>12}{'evaluation':>12}"
        for mode in self.modes:
            found = (mode.noise.training, mode.noise.statistics, mode.noise.evaluation)
            yield f"  {mode.terms.kind:26}{''.join(f'{multiplier:12.4f}' for multiplier in found)}"

    def _ladder(self) -> Iterator[str]:
        yield f"{'epsilon, distributed':28}{'by PLD':>12}{'by RDP':>12}"
        for place, (colluders, cost) in enumerate(self.terms.ladder(self.modes[0].noise)):
            assumed = "" if place else "  (assumed)"
            yield f"  {f'if {colluders} of a group collude':26}{cost.pld:12.3f}{cost.rdp:12.3f}{assumed}"
        yield "PLD is what counts, RDP a looser bound beside it; in mode local every rung is the first"

    def _learning(self) -> Iterator[str]:
        yield f"{'what it does to learning':28}{'noise':>12}{'signal/noise':>14}{'accuracy':>18}{'cost':>10}"
        yield f"  {'no privacy':26}{'0':>12}{'-':>14}{_accuracy(self.free):>18}{'-':>10}"
        for mode in self.modes:
            yield f"  {mode.terms.kind:26}{mode.noise_of_mean:12.4f}{self._came_to(mode.outcome)}"

    def _came_to(self, outcome: "Outcome | None") -> str:
        if outcome is None or self.free is None:
            return f"{'-':>14}{'-':>18}{'-':>10}"
        cost = self.free.accuracy - outcome.accuracy
        return f"{outcome.signal_to_noise:14.2f}{_accuracy(outcome):>18}{cost:10.3f}"

    def _explained(self) -> Iterator[str]:
        yield "noise: standard deviation in a coordinate of a group's mean update, in clip norms"
        yield "  (mode organisation clips and hides the update of a whole organisation, not of a record)"
        if self.free is None:
            yield "accuracy: not tried out, it would take minutes; ask for fewer records, rounds or features"
            return
        from p2pfl.noise_cost import best_possible

        yield (
            f"accuracy: mean ± deviation of {self.free.runs} runs of {self.terms.members} members for"
            f" {self.terms.rounds} rounds on made-up records:"
        )
        yield (
            f"  logistic regression on {self.features} features, where nobody can do better than"
            f" {best_possible():.3f}. Yours are harder or easier;"
        )
        yield "  what carries over is whether the noise is far below the signal"


def _accuracy(outcome: "Outcome | None") -> str:
    return "-" if outcome is None else f"{outcome.accuracy:.3f} ± {outcome.deviation:.3f}"
