"""What attacks on a federation came to, mode by mode, beside what is claimed: for people and for programs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from p2pfl.attacks.measures import FALSE_POSITIVES, Estimate
from p2pfl.attacks.membership import Result, Unit
from p2pfl.gossip.manifest import Manifest
from p2pfl.node.accountant import epsilon
from p2pfl.node.errors import PrivacyError
from p2pfl.node.outlook import planned_mechanisms
from p2pfl.node.training.table import Table


def claims(manifest: Manifest) -> tuple[float, float]:
    """Epsilon that a training record is promised, or in mode organisation a member, of everything and of the
    training rounds alone; infinite in mode none.
    """
    if manifest.privacy.mode == "none":
        return math.inf, math.inf
    planned = [one for one in planned_mechanisms(manifest) if one.subject != "test"]
    training = [one for one in planned if one.stage == "training"]
    whole, part = (epsilon(some, manifest.privacy.delta).pld for some in (planned, training))
    return whole, part


@dataclass(frozen=True, slots=True)
class Mode:
    """One mode's outcome. ``epsilon``: claimed for what is hidden, and ``training_epsilon`` of that for
    training without the statistics; infinite in mode none. ``at_least``: what canaries in training show of
    the latter, in ``canaries`` trials.
    """

    mode: str
    delta: float
    results: Sequence[Result]
    epsilon: float
    training_epsilon: float
    at_least: float
    canaries: int

    @property
    def allowed(self) -> float:
        """Share of the members that epsilon allows to be found at the false positives of the table."""
        return min(1.0, math.exp(min(self.epsilon, 100.0)) * FALSE_POSITIVES + self.delta)

    def as_dict(self) -> dict[str, object]:
        """For JSON: an infinite epsilon is null."""
        finite = math.isfinite(self.epsilon)
        return {
            "epsilon": self.epsilon if finite else None,
            "found_allowed": self.allowed,
            "attacks": [
                {
                    "sees": result.view,
                    "attack": result.method,
                    "auc": asdict(result.success.auc),
                    "found": asdict(result.success.caught),
                }
                for result in self.results
            ],
            "canaries": {
                "epsilon_at_least": self.at_least,
                "epsilon_claimed": self.training_epsilon if finite else None,
                "trials": self.canaries,
            },
        }

    def membership(self) -> Iterator[str]:
        """Rows of the first table."""
        for result in self.results:
            found = _interval(result.success.caught, 100, "5.1f", " %")
            allowed = f"{100 * self.allowed:8.1f} %" if math.isfinite(self.epsilon) else f"{'any':>10}"
            yield (
                f"  {self.mode:13}{result.view:9}{result.method:18}"
                f"{_interval(result.success.auc, 1, '.3f'):>21}{found:>24}{allowed}"
            )

    def canary(self) -> str:
        """The row of the second table."""
        finite = math.isfinite(self.epsilon)
        claimed = f"{self.training_epsilon:12.3f}" if finite else f"{'none':>12}"
        return f"  {self.mode:13}{self.at_least:12.3f}{claimed}{self.canaries:12,}"


def _interval(estimate: Estimate, unit: float, form: str, suffix: str = "") -> str:
    value, low, high = (
        format(unit * number, form) for number in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value}{suffix} ({low.strip()} … {high.strip()})"


@dataclass(frozen=True, slots=True)
class Report:
    manifest: Manifest
    tables: Sequence[Table]
    trials: int
    seed: int
    modes: Sequence[Mode]
    unit: Unit = "record"

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "federation": self.manifest.name,
            "members": len(self.tables),
            "colluders": self.manifest.groups.colluders,
            "hidden": self.unit,
            "records": sum(map(len, self._honest)),
            "delta": self.manifest.privacy.delta,
            "trials": self.trials,
            "seed": self.seed,
            "modes": {mode.mode: mode.as_dict() for mode in self.modes},
        }

    @property
    def _honest(self) -> Sequence[Table]:
        return self.tables[self.manifest.groups.colluders :]

    def lines(self) -> Iterator[str]:
        """For people."""
        colluders, records = self.manifest.groups.colluders, sum(map(len, self._honest))
        whole = self.unit == "organisation"
        yield f"{self.manifest.name}: {len(self.tables)} members, of whom {colluders} curious, the largest"
        yield (
            f"{self.trials} federations for each mode, {self.manifest.training.rounds} rounds each; every one"
            + (
                f" of {len(self._honest)} others with all its records or none, by a coin"
                if whole
                else f" of {records} records of the others in or out by a coin"
            )
        )
        yield ""
        yield (
            f"{'was it in?':15}{'sees':9}{'attack':18}{'AUC':>21}{'found at 1 % wrong':>24}{'allowed':>10}"
        )
        for mode in self.modes:
            yield from mode.membership()
        yield "sees: the last model only, or as an insider all sums, less what it added itself"
        yield "AUC: 0.5 is guessing. found: share of those in found where 1 % of those out are taken for in;"
        yield "  allowed: what epsilon allows. In brackets: 95 % intervals"
        yield ""
        yield f"{'canaries':15}{'epsilon >':>12}{'claimed':>12}{'trials':>12}"
        yield from (mode.canary() for mode in self.modes)
        delta = self.manifest.privacy.delta
        hidden = "members" if whole else "records"
        yield f"epsilon of all training rounds at delta {delta:g}, with 95 % confidence, of {hidden} made to"
        yield "  be found by an insider who chooses the model; without privacy what so many trials can show"

    def check(self) -> None:
        """Raises PrivacyError if canaries show more than is claimed."""
        for mode in self.modes:
            if mode.at_least > mode.training_epsilon:
                shown = f"epsilon is at least {mode.at_least:.3f}, not {mode.training_epsilon:.3f}"
                hint = "keep real data away from this version, and report it"
                raise PrivacyError(f"mode {mode.mode}: {shown}", hint)
