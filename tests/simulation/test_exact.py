"""The engine `exact` is the federation that the protocol's machines make, to the last bit."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import DenseModel, EvaluationSpec, Manifest, canonical_bytes, from_toml
from p2pfl.heart_disease import FEDERATION_TOML
from p2pfl.node.errors import DataError
from p2pfl.node.learner import Learner
from p2pfl.simulation import exact, protocol_training
from p2pfl.simulation.experiment import read
from p2pfl.simulation.running import Row, meeting, run
from p2pfl.simulation.setting import Setting
from p2pfl.simulation.sources import Dealt, deal, load

torch.set_num_threads(1)
DRAFT = from_toml(
    FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", Identity.from_seed(bytes(32)).peer_id)
)


def manifest(mode: str, **training: Any) -> Manifest:
    """With noise enough for its epsilon, so that nobody's budget ends it."""
    privacy = replace(DRAFT.privacy, epsilon=10.0).with_mode(mode)
    if mode != "none":
        privacy = replace(
            privacy,
            noise_multiplier=4.0,
            statistics_noise_multiplier=4.0,
            evaluation_noise_multiplier=4.0,
        )
    return replace(DRAFT, privacy=privacy, training=replace(DRAFT.training, **{"rounds": 5, **training}))


def records(setting: Setting, seed: int = 0) -> Dealt:
    return deal(load(setting, DRAFT.task, Path()), setting, DRAFT.task, seed)


def exactly(agreed: Manifest, setting: Setting, seed: int = 0) -> Sequence[Learner]:
    dealt = records(setting, seed)
    return exact.learnt(agreed, setting, dealt, meeting(agreed, setting, dealt, seed), seed)[0].learners


def digests(learners: Sequence[Learner]) -> list[bytes]:
    return [learner.released.digest for learner in learners if learner.released is not None]


@pytest.mark.parametrize(
    ("mode", "training"),
    [
        ("distributed", {"momentum": 0.5}),
        ("local", {"local_steps": 2}),
        ("organisation", {"local_steps": 2}),
        ("none", {"ring_bits": 64}),
    ],
)
def test_it_is_what_the_machines_come_to(mode: str, training: dict[str, Any]) -> None:
    """Samples, coins, noise and all: the same learners draw the same, whoever brings about their sums."""
    setting = Setting(nodes=6, engine="exact", evaluate_every=5)
    agreed = replace(manifest(mode, **training), model=DenseModel("mlp", (3,)))
    agreed = protocol_training.listing(agreed, setting, 6)
    theirs = protocol_training.learnt(agreed, setting, records(setting), 0)[0].learners
    ours = exactly(agreed, setting)
    assert digests(ours) == digests(theirs)
    assert len(digests(ours)) == 6
    assert len(set(digests(ours))) == 1
    assert digests(exactly(agreed, setting, seed=1))[0] != digests(ours)[0]


def test_groups_differ_and_their_statistics_agree() -> None:
    setting = Setting(nodes=12, engine="exact", evaluate_every=5)
    learners = exactly(manifest("distributed"), setting)
    first, *others = [learner.released for learner in learners if learner.released is not None]
    assert len({one.parameters.tobytes() for one in (first, *others)}) == 3
    assert all(one.training_start == first.training_start > 1 for one in others)
    for one in others:
        assert one.statistics == pytest.approx(first.statistics, rel=1e-3, abs=0.05)


def rows(text: str) -> list[Row]:
    [experiment] = read(text, Path()).experiments
    return list(run(experiment, 0))


OFFLINE = """
[simulation]
nodes = 6
engine = "exact"
offline = 0.3
evaluate_every = 1
[training]
rounds = 6
[privacy]
mode = "none"
"""


def test_who_was_away_takes_over_what_the_others_have() -> None:
    found = rows(OFFLINE)
    assert found == rows(OFFLINE)
    assert [row["round"] for row in found] == list(range(7))
    attended = [float(str(row["attended"])) for row in found[1:]]
    assert 0.4 < sum(attended) / 6 < 0.9
    assert float(str(found[-1]["consensus"])) < 1e-30  # the mean of equal numbers is rounded


def test_with_nobody_there_it_says_so() -> None:
    with pytest.raises(ValueError, match="no round was ever completed"):
        rows(OFFLINE.replace("0.3", "0.98"))


VOTE = """
[simulation]
nodes = 4
evaluate_every = 20
engine = "exact"
[training]
rounds = 20
[privacy]
mode = "none"
[evaluation]
every = 4
metric = "accuracy"
target = 0.6
"""


def test_a_vote_ends_it_and_the_vectorised_engine_has_none() -> None:
    found = rows(VOTE)
    last = int(str(found[-1]["round"]))
    assert last % 4 == 0
    assert last < 20
    assert float(str(found[-1]["accuracy"])) > 0.55
    with pytest.raises(ValueError, match="nobody votes here: take engine 'exact'"):
        rows(VOTE.replace('"exact"', '"vectorised"'))
    measured = VOTE.partition("metric")[0].replace('"exact"', '"vectorised"')
    assert rows(measured)[-1]["round"] == 20


def test_a_manifest_is_simulated_as_it_is(tmp_path: Path) -> None:
    """To the last bit: its digest starts the model."""
    agreed = replace(manifest("distributed"), seed=7, evaluation=EvaluationSpec(every=2))
    (tmp_path / "own.manifest").write_bytes(canonical_bytes(agreed))
    over = {"simulation.federation": "own.manifest", "simulation.nodes": 4}
    [experiment] = read("", tmp_path, over, as_it_is=True).experiments
    assert experiment.manifest == agreed
    assert experiment.fitted(17).digest == agreed.digest
    [longer] = read("", tmp_path, {**over, "groups.size": 5}, as_it_is=True).experiments
    assert longer.manifest == replace(agreed, groups=replace(agreed.groups, size=5))
    [longer] = read("", tmp_path, {**over, "training.rounds": 9}, as_it_is=True).experiments
    assert longer.manifest.training == replace(agreed.training, rounds=9)
    assert longer.manifest.missing_noise, "for other rounds it is computed anew"


def test_what_is_no_federation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.manifest").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="neither text nor a manifest"):
        read("", tmp_path, {"simulation.federation": "own.manifest", "simulation.nodes": 4})
