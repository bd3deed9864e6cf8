"""What a manifest will cost is what its nodes' ledgers will say, and what is left of a run is what they then
will.
"""

from dataclasses import replace

import pytest
from networkx import complete_graph  # type: ignore[import-untyped]  # ships no type information

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import Column, EvaluationSpec, GroupSpec, Manifest, TabularTask, from_toml
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.accountant import Kind, epsilon
from p2pfl.node.errors import PrivacyError
from p2pfl.node.outlook import outlook, planned_mechanisms
from p2pfl.node.privacy import Budget, calibrated, dimension, stage_plan
from p2pfl.node.released import Place
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.storage.store import Charge
from p2pfl.planning import Terms, check_promise, planned_ladder
from p2pfl.topologies.schedule import groups as schedule


def draft(mode: str, promise: str = "") -> Manifest:
    return from_toml(
        f"""
        name = "hearts"
        issuers = ["{Identity.from_seed(bytes(32)).peer_id}"]
        task.label = "y"
        task.positive = ["1"]
        task.columns = [{{ name = "x", kind = "numeric", low = 0, high = 1 }}]
        model.kind = "logistic"
        training = {{ rounds = 12, learning_rate = 0.5, sampling_rate = 0.25, expected_batch = 40 }}
        privacy = {{ mode = "{mode}" {promise} }}
        """
    )


@pytest.mark.parametrize("mode", ["distributed", "local", "organisation"])
def test_the_plan_is_the_ledger_of_a_whole_run(mode: str) -> None:
    manifest = calibrated(draft(mode, ", epsilon = 2, delta = 1e-4"))
    group = manifest.groups.thresholds
    rounds = {"statistics": 1, "training": 12, "evaluation": 2}
    written = [stage_plan(manifest, stage, 3).mechanism(group) for stage in rounds]
    whole = [replace(entry, count=entry.count * rounds[entry.stage]) for entry in written]
    assert planned_mechanisms(manifest) == whole
    check_promise(manifest)


@pytest.mark.parametrize("mode", ["distributed", "local", "organisation"])
def test_statistics_of_nothing_are_no_release_and_leave_training_more(mode: str) -> None:
    promise = draft(mode, ", epsilon = 2, delta = 1e-4")
    column = Column("x", "categorical", levels=("a", "b"))
    assert isinstance(promise.task, TabularTask)
    manifest = calibrated(replace(promise, task=replace(promise.task, columns=(column,))))
    assert manifest.calibrated
    assert manifest.privacy.statistics_noise_multiplier == 0
    assert [entry.stage for entry in planned_mechanisms(manifest)] == ["training", "evaluation"]
    assert not stage_plan(manifest, "statistics", dimension(manifest, "statistics")).charged
    assert manifest.privacy.noise_multiplier < 0.99 * calibrated(promise).privacy.noise_multiplier
    assert 1.9 < epsilon(planned_mechanisms(manifest), 1e-4).pld <= 2
    check_promise(manifest)
    assert planned_ladder(manifest)[0][1].pld <= 2
    whole = outlook(manifest, [], [], None)
    assert list(whole.mechanisms) == planned_mechanisms(manifest)
    assert whole.without_records == 0


@pytest.mark.parametrize("mode", ["distributed", "organisation"])
def test_evaluations_between_are_paid_for(mode: str) -> None:
    """By test records alone, but where an organisation has both kinds."""
    promise = draft(mode, ", epsilon = 2, delta = 1e-4")
    often = calibrated(replace(promise, evaluation=EvaluationSpec(every=2)))
    seldom = calibrated(promise)
    counts = {entry.stage: (entry.subject, entry.count) for entry in planned_mechanisms(often)}
    assert counts["evaluation"] == ("organisation" if mode == "organisation" else "test", 5 + 2)
    assert 1.9 < epsilon(planned_mechanisms(often), 1e-4).pld <= 2
    assert often.privacy.evaluation_noise_multiplier > 1.5 * seldom.privacy.evaluation_noise_multiplier
    # In mode organisation statistics and evaluations have as much of epsilon as before.
    assert often.privacy.noise_multiplier == pytest.approx(seldom.privacy.noise_multiplier, rel=0.01)
    asked = replace(terms(often.privacy.mode, often), evaluations=5)  # type: ignore[arg-type]
    assert asked.noise().evaluation == often.privacy.evaluation_noise_multiplier
    assert asked.run(asked.noise(), often.groups.thresholds) == planned_mechanisms(often)


def test_too_little_noise_is_refused() -> None:
    manifest = calibrated(draft("distributed", ", epsilon = 2, delta = 1e-4"))
    for name in ("noise_multiplier", "statistics_noise_multiplier", "evaluation_noise_multiplier"):
        less = replace(manifest.privacy, **{name: 0.4 * getattr(manifest.privacy, name)})
        with pytest.raises(PrivacyError, match="more than the 2 that is promised"):
            check_promise(replace(manifest, privacy=less))


def test_no_privacy_costs_nothing_that_could_be_counted() -> None:
    assert planned_mechanisms(draft("none")) == []
    assert planned_ladder(draft("none")) == []


def test_the_planned_ladder_is_for_the_worst_roster_that_may_form() -> None:
    """Groups of four may be of three to seven: even six may collude, and two are worst among six."""
    manifest = calibrated(draft("distributed", ", epsilon = 2, delta = 1e-4"))
    delta = manifest.privacy.delta
    rosters = [planned_mechanisms(manifest, thresholds(size, 1)) for size in (3, 4, 5, 6, 7)]
    for colluders, cost in planned_ladder(manifest):
        every = [epsilon(plan, delta, colluders).pld for plan in rosters if plan[0].members > colluders]
        assert cost.pld == max(every)
    ladder = planned_ladder(manifest)
    assert [colluders for colluders, _ in ladder] == [1, 2, 3, 4, 5, 6]
    assert ladder[0][1].pld <= 2 < ladder[1][1].pld


# -- before there is a manifest
def terms(kind: Kind, manifest: Manifest) -> Terms:
    privacy, training = manifest.privacy, manifest.training
    sizes = (160, training.rounds, training.sampling_rate, 7, manifest.groups)
    return Terms(kind, privacy.epsilon, privacy.delta, *sizes)


@pytest.mark.parametrize("mode", ["distributed", "local", "organisation"])
def test_terms_take_the_noise_that_the_manifest_will_get(mode: Kind) -> None:
    manifest = calibrated(draft(mode, ", epsilon = 2, delta = 1e-4"))
    privacy, asked = manifest.privacy, terms(mode, manifest)
    noise = asked.noise()
    assert noise.training == privacy.noise_multiplier
    assert noise.statistics == privacy.statistics_noise_multiplier
    assert noise.evaluation == privacy.evaluation_noise_multiplier
    assert asked.run(noise, manifest.groups.thresholds) == planned_mechanisms(manifest)
    assert asked.ladder(noise) == planned_ladder(manifest)


def test_no_roster_is_larger_than_the_federation() -> None:
    manifest = calibrated(draft("distributed", ", epsilon = 2, delta = 1e-4"))
    asked = replace(terms("distributed", manifest), members=5)
    assert [colluders for colluders, _ in asked.ladder(asked.noise())] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("members", "size", "sizes"), [(3, 4, (3,)), (7, 4, (7,)), (8, 4, (4, 4)), (11, 4, (6, 5))]
)
def test_groups_are_those_of_the_schedule(members: int, size: int, sizes: tuple[int, ...]) -> None:
    asked = replace(terms("distributed", draft("none")), members=members, groups=GroupSpec(size=size))
    assert asked.group_sizes == sizes
    drawn = schedule(complete_graph([str(node) for node in range(members)]), size, 3, bytes(32), 0)
    assert sorted(map(len, drawn)) == sorted(sizes)


# -- while it runs
START = Place(1, 1, 0, 0.0)
ENDING = EvaluationSpec(4, metric="accuracy", target=0.9)


class Run:
    """A node's journal, round by round."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.charges: list[Charge] = []
        self.outcomes: list[RoundOutcome] = []

    def round(self, stage: str, *, completed: bool = True, charged: bool = True) -> None:
        number = len(self.outcomes)
        plan = stage_plan(self.manifest, stage, dimension(self.manifest, stage))
        mechanism = plan.mechanism(self.manifest.groups.thresholds) if charged else None
        self.charges.append(Charge(number, mechanism))
        reason = "" if completed else "too few"
        self.outcomes.append(RoundOutcome(number, stage, (), (), reason, True, 0))

    @property
    def ahead(self) -> float:
        """Epsilon at the planned end."""
        found = outlook(self.manifest, self.charges, self.outcomes, START)
        return epsilon(found.mechanisms, self.manifest.privacy.delta).pld

    @property
    def without(self) -> int:
        return outlook(self.manifest, self.charges, self.outcomes, START).without_records


@pytest.mark.parametrize("mode", ["distributed", "organisation"])
def test_while_all_goes_well_the_end_is_as_it_was_planned(mode: str) -> None:
    run = Run(calibrated(draft(mode, ", epsilon = 2, delta = 1e-4")))
    planned = epsilon(planned_mechanisms(run.manifest), 1e-4).pld
    assert run.ahead == planned
    for stage in ("statistics", "training", "training"):
        run.round(stage)
        assert run.ahead == planned
    assert run.without == 0


def test_after_a_vote_to_end_the_planned_end_is_that_of_going_on() -> None:
    """When it ended was read off what it had released, so nothing less is promised."""
    run = Run(calibrated(replace(draft("distributed", ", epsilon = 2, delta = 1e-4"), evaluation=ENDING)))
    planned = epsilon(planned_mechanisms(run.manifest), 1e-4).pld
    for stage in ("statistics", *["training"] * 4, "evaluation"):
        run.round(stage)
    found = outlook(run.manifest, run.charges, run.outcomes, Place(6, 1, 1, 1.0))
    assert epsilon(found.mechanisms, 1e-4).pld == pytest.approx(planned)
    assert run.ahead == pytest.approx(planned)


def test_at_the_end_nothing_is_to_come() -> None:
    run = Run(calibrated(draft("distributed", ", epsilon = 2, delta = 1e-4")))
    for stage in ("statistics", *["training"] * 12, "evaluation"):
        run.round(stage)
    spent = [charge.mechanism for charge in run.charges if charge.mechanism is not None]
    assert list(outlook(run.manifest, run.charges, run.outcomes, START).mechanisms) == spent


def test_a_lost_statistics_round_takes_rounds_from_the_end_as_the_budget_will() -> None:
    run = Run(calibrated(draft("distributed", ", epsilon = 2, delta = 1e-4")))
    run.round("statistics", completed=False)
    run.round("statistics")
    without = run.without
    assert 0 < without < 12
    budget = Budget(run.manifest.privacy, [c.mechanism for c in run.charges if c.mechanism is not None])
    training = stage_plan(run.manifest, "training", dimension(run.manifest, "training"))
    allowed = [budget.allows(training, count) for count in range(13)]
    assert allowed == [True] * (13 - without) + [False] * without
    for _ in range(12 - without):
        run.round("training")
    for _ in range(without):
        run.round("training", charged=False)
    assert run.without == 0
    assert run.ahead <= 2


def test_a_lost_training_round_is_charged_and_not_made_up_for() -> None:
    run = Run(calibrated(draft("distributed", ", epsilon = 2, delta = 1e-4")))
    for rounds, charged in ((12, True), (12, False), (11, True)):
        ahead = outlook(run.manifest, run.charges, run.outcomes, START).mechanisms
        assert sum(entry.count for entry in ahead if entry.stage == "training") == rounds
        run.round("training", completed=False, charged=charged)


def test_nothing_is_to_come_without_an_epsilon() -> None:
    assert outlook(draft("none"), [], [], None).mechanisms == ()
