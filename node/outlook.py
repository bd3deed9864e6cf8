"""What a whole run of a manifest costs a node, and from where its ledger stands, the rest of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from p2pfl.gossip.manifest import Manifest
from p2pfl.gossip.thresholds import Thresholds
from p2pfl.node.accountant import (
    Kind,
    Mechanism,
    Multipliers,
    Subject,
    epsilon,
    evaluations_paid,
    releases_within,
)
from p2pfl.node.programme import evaluated, voted_to_end
from p2pfl.node.released import Place
from p2pfl.node.storage.carried import Carried
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.storage.store import Charge, Store


def planned_mechanisms(manifest: Manifest, roster: Thresholds | None = None) -> list[Mechanism]:
    """A node's ledger after a whole run of ``manifest`` in such rosters, None: of the agreed size; empty in
    mode none.
    """
    privacy, training = manifest.privacy, manifest.training
    if privacy.mode == "none":
        return []
    whole = privacy.mode == "organisation"
    noise = Multipliers(
        privacy.noise_multiplier, privacy.statistics_noise_multiplier, privacy.evaluation_noise_multiplier
    )
    releases = training.rounds * (1 if whole else training.local_steps)
    rate = 1.0 if whole else training.sampling_rate
    paid = _evaluations(manifest)
    return whole_run(privacy.mode, noise, releases, rate, paid, roster or manifest.groups.thresholds)


def _evaluations(manifest: Manifest) -> int:
    """Evaluation rounds that test records pay for at most."""
    return evaluations_paid(manifest.evaluation.between(manifest.training.rounds))


def whole_run(
    kind: Kind, noise: Multipliers, releases: int, rate: float, evaluations: int, roster: Thresholds
) -> list[Mechanism]:
    """Test records pay for the evaluations and for nothing else, training records for all else; an
    organisation has both. Statistics without noise are about no record.
    """
    group = (roster.members, roster.minimum_survivors, roster.colluders)
    train: Subject = "organisation" if kind == "organisation" else "train"
    test: Subject = "organisation" if kind == "organisation" else "test"
    statistics = (
        [Mechanism("statistics", train, kind, noise.statistics, 1.0, 1, *group)] if noise.statistics else []
    )
    return [
        *statistics,
        Mechanism("training", train, kind, noise.training, rate, releases, *group),
        Mechanism("evaluation", test, kind, noise.evaluation, 1.0, evaluations, *group),
    ]


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a node's ledger will be when the programme is over, if no round to come is lost.

    ``without_records``: training rounds to come for which the budget does not last; the node takes part in
    them without its records, at no cost.
    """

    mechanisms: tuple[Mechanism, ...]
    without_records: int


def outlook(
    manifest: Manifest,
    charges: Sequence[Charge],
    outcomes: Sequence[RoundOutcome],
    place: Place | None,
    carried: Iterable[Carried] = (),
) -> Outlook:
    """From the ledger so far, what it ``carried`` over from earlier federations, how the rounds went and how
    far the federation is, to the planned end.

    An upper bound: rounds that this node knows nothing of, because it joined late, count as still to come.
    So do those that a vote spares the federation: when it ended was read off what it had released, so what
    holds for sure is the cost of going on.
    """
    ledger = [mechanism for one in carried for mechanism in one.mechanisms]
    ledger += [charge.mechanism for charge in charges if charge.mechanism is not None]
    planned_rounds = {
        "statistics": 1,
        "training": manifest.training.rounds,
        "evaluation": _evaluations(manifest),
    }
    without = 0
    if evaluated(manifest, place, outcomes):
        return Outlook(tuple(ledger), without)
    for planned in planned_mechanisms(manifest):
        rounds = _rounds_to_come(planned.stage, manifest, charges, outcomes)
        if rounds == 0:
            continue
        each = planned.count // planned_rounds[planned.stage]
        last = min(rounds, _fitting(manifest, ledger, planned, rounds * each) // each)
        if last:
            ledger.append(replace(planned, count=last * each))
        if planned.stage == "training":
            without = rounds - last
    return Outlook(tuple(ledger), without)


def is_voted(manifest: Manifest, store: Store) -> bool:
    """Whether a vote has ended the federation, as far as this node knows."""
    place = store.place
    return place is not None and voted_to_end(manifest, place)


def holding(manifest: Manifest, store: Store) -> list[Mechanism]:
    """The ledger whose epsilon holds: that so far, or after a vote to end, that of the planned end."""
    if not is_voted(manifest, store):
        return store.mechanisms()
    charges, outcomes = store.charges(), store.rounds()
    return list(outlook(manifest, charges, outcomes, store.place, store.carried()).mechanisms)


def _rounds_to_come(
    stage: str, manifest: Manifest, charges: Iterable[Charge], outcomes: Iterable[RoundOutcome]
) -> int:
    """Rounds of ``stage`` that this node may still contribute its records to."""
    outcomes = list(outcomes)
    charged = {charge.round for charge in charges if charge.mechanism and charge.mechanism.stage == stage}
    gone = charged | {outcome.round for outcome in outcomes if outcome.stage == stage}
    completed = {outcome.stage for outcome in outcomes if outcome.completed}
    match stage:
        case "statistics":
            return 0 if completed else 1
        case "training":
            return max(0, manifest.training.rounds - len(gone))
    return max(0, _evaluations(manifest) - len(charged))


def _fitting(manifest: Manifest, ledger: Sequence[Mechanism], kind: Mechanism, wanted: int) -> int:
    """How many more releases of this kind the budget has room for, at most ``wanted`` of them."""
    limit, delta = manifest.privacy.epsilon, manifest.privacy.delta
    if epsilon([*ledger, replace(kind, count=wanted)], delta).pld <= limit:  # as a rule, and quick to find
        return wanted
    release = (kind.subject, kind.noise_multiplier, kind.sampling_rate)
    return releases_within(ledger, *release, limit, delta)
