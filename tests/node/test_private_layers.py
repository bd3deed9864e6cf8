"""Layers that every member keeps to itself: trained, evaluated, kept, and never in a sum."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.events import Completed, Contribute, Skipped
from p2pfl.gossip.manifest import (
    Column,
    DenseModel,
    GroupSpec,
    Manifest,
    ManifestError,
    PrivacySpec,
    TabularTask,
    TimingSpec,
    TrainingSpec,
)
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.errors import StorageError
from p2pfl.node.learner import Learner
from p2pfl.node.privacy import Budget
from p2pfl.node.storage.own_file import PRIVATE, is_own
from p2pfl.node.storage.store import Store
from p2pfl.node.training.models import Model
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer

IDENTITIES = [Identity.from_seed(bytes([number + 1]) * 32) for number in range(4)]
PEERS = tuple(identity.peer_id for identity in IDENTITIES)
FOUR = thresholds(4, 1)
HEAD = DenseModel("mlp", (3,), private=("head",))
Make = Callable[[Manifest], list[Learner]]


def manifest(mode: str = "none", model: DenseModel = HEAD, steps: int = 2) -> Manifest:
    noise = (900.0, 1e-4, 0.3, 0.5, 2.0, 2.0) if mode != "none" else ()
    return Manifest(
        name="test",
        issuers=PEERS[:1],
        members=(),
        task=TabularTask("tabular", "y", ("1",), (Column("x", "numeric", -3.0, 3.0),)),
        model=model,
        training=TrainingSpec(6, 1.0, 1.0, 50.0, steps),
        privacy=PrivacySpec(mode, *noise),  # type: ignore[arg-type]  # parametrized
        groups=GroupSpec(),
        timing=TimingSpec(),
    )


def table(number: int) -> Table:
    """Members agree on what matters, and half of them mean the opposite by the label."""
    x = np.random.default_rng(number).normal(size=(100, 1))
    return Table(x, (x[:, 0] * (-1) ** number > 0).astype(np.float64))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def learners(agreed: Manifest) -> list[Learner]:
        made = []
        for number, identity in enumerate(IDENTITIES):
            random = seeded_random(bytes([number]) * 32)
            store = Store.open(tmp_path / str(number), identity)
            trainer = Trainer(agreed, table(number), table(number + 10), random)
            made.append(Learner(agreed, trainer, store, Budget(agreed.privacy, store.mechanisms()), random))
        return made

    return learners


def one_round(learners: list[Learner], round: int) -> None:
    prepared = [learner.prepare(round) for learner in learners]
    assert prepared[0] is not None
    rows = [learner.contribute(Contribute(round, 0, PEERS, FOUR))[:] for learner in learners]
    total = np.add.reduce(rows, dtype=rows[0].dtype)
    for learner in learners:
        learner.completed(Completed(round, prepared[0].stage, total, PEERS, PEERS, FOUR))


@pytest.mark.parametrize("mode", ["none", "local", "organisation"])
def test_private_layers_enter_no_sum_and_stay_over_a_restart(make: Make, tmp_path: Path, mode: str) -> None:
    agreed = manifest(mode)
    learners = make(agreed)
    start = learners[0]._trainer.private
    for round in range(4):
        one_round(learners, round)
    released = [learner.released for learner in learners]
    assert len({each.digest for each in released if each is not None}) == 1
    assert released[0] is not None
    assert len(released[0].parameters) == agreed.model.parameters(1) == 6
    kept = [learner._trainer.private for learner in learners]
    assert len({each.tobytes() for each in (start, *kept)}) == 5
    path = tmp_path / "0" / PRIVATE
    assert (path.stat().st_mode & 0o777, is_own(path)) == (0o600, True)
    assert not is_own(next((tmp_path / "0").glob("model-*")))
    again = make(agreed)
    assert [learner._trainer.private.tobytes() for learner in again] == [each.tobytes() for each in kept]
    assert again[0].own_evaluation() == learners[0].own_evaluation()


def test_members_who_disagree_learn_with_heads_of_their_own(make: Make) -> None:
    for model, low, high in ((HEAD, 0.9, 1.0), (replace(HEAD, private=()), 0.0, 0.7)):
        learners = make(replace(manifest(model=model), name=str(model.private)))
        for round in range(7):
            one_round(learners, round)
        measured = [learner.own_evaluation() for learner in learners]
        mean = np.mean([each.accuracy for each in measured if each is not None])
        assert low <= mean <= high
        for number in range(4):
            learners[number]._store.close()
            directory = learners[number]._store.directory
            directory.rename(directory.with_name(f"{number} {bool(model.private)}"))


def test_what_a_skipped_round_taught_is_forgotten(make: Make) -> None:
    """Whatever was not charged must not show later."""
    learners = make(manifest("organisation"))
    one_round(learners, 0)
    learner = learners[0]
    before = learner._trainer.private.copy()
    learner.prepare(1)
    assert learner._trainer.learnt_private is not None
    learner.skipped(Skipped(1, "training", "nobody came", False))
    learner.prepare(2)
    learner.contribute(Contribute(2, 0, PEERS, FOUR, 2))  # too few budgets: the records stay out
    assert learner.released is not None
    total = np.zeros(len(learner.released.parameters), np.uint32)
    learner.completed(Completed(2, "training", total, PEERS, PEERS, FOUR))
    assert np.array_equal(learner._trainer.private, before)
    assert learner._store.private(len(before)) is None


def test_a_local_step_noises_private_layers_too() -> None:
    agreed = replace(manifest("local", steps=1), training=TrainingSpec(6, 1.0, 1e-9, 50.0))
    one = Trainer(agreed, table(0), None, seeded_random(b"noise"))
    start = one.private.copy()
    ends = []
    for _ in range(400):
        one.contribution(one.initial_parameters(), one.statistics())
        assert one.learnt_private is not None
        ends.append(one.learnt_private - start)
    assert np.std(ends) == pytest.approx(0.5 * 0.3 / 50, rel=0.1)


def test_a_local_step_clips_private_layers_too() -> None:
    """One record and the same noise: by the other label, all that is trained moves by 2 C at most."""
    agreed = manifest("local", steps=1)
    agreed = replace(agreed, privacy=replace(agreed.privacy, clip_norm=0.01))
    ends = []
    for label in (0.0, 1.0):
        record = Table(np.full((1, 1), 2.0), np.array([label]))
        one = Trainer(agreed, record, None, seeded_random(b"noise"))
        shared = one.contribution(one.initial_parameters(), np.array([1.0, 0.0, 0.0]))
        assert one.learnt_private is not None
        ends.append(np.concatenate([shared, one.learnt_private]))
    step = agreed.training.learning_rate / agreed.training.expected_batch * agreed.privacy.clip_norm
    assert step < np.linalg.norm(ends[0] - ends[1]) <= 2 * step * (1 + 1e-9)


def test_an_update_is_clipped_by_what_is_shared_alone() -> None:
    one = Trainer(manifest("organisation"), table(0), None, seeded_random(b""))
    start = one.initial_parameters()
    moved = one.contribution(start, one.statistics()) - start
    assert np.linalg.norm(moved) <= 0.3
    assert one.learnt_private is not None
    assert np.linalg.norm(one.learnt_private - one.private) > 0.3


def test_a_damaged_file_is_refused(make: Make, tmp_path: Path) -> None:
    make(manifest())
    for content in ({"private": np.ones(3)}, {"private": np.full(4, np.nan)}, {"other": np.ones(4)}):
        save_file(content, tmp_path / "0" / PRIVATE)
        with pytest.raises(StorageError, match="private is not 4 finite numbers"):
            make(manifest())
    (tmp_path / "0" / PRIVATE).write_bytes(b"nothing")
    with pytest.raises(StorageError, match="not a safetensors file"):
        make(manifest())


def test_mode_distributed_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"model\.private: not in mode .distributed.: no noise covers"):
        manifest("distributed", steps=1)


def test_the_layers_are_those_that_the_manifest_names() -> None:
    deep = DenseModel("mlp", (4, 3), private=("1",))
    model = Model(deep, 5)
    names = [slot.name for slot in model.layout if model.private[slot.start]]
    assert names == ["1.weight", "1.bias"]
    assert model.private.sum() == 15 == deep.trained(5) - deep.parameters(5)
