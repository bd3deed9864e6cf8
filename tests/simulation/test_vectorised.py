"""A federation on the vectorised engine against one made of the nodes' own trainers."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.manifest import DenseModel, Manifest, ManifestError, PrivacySpec, from_toml
from p2pfl.heart_disease import FEDERATION_TOML
from p2pfl.node.privacy import calibrated
from p2pfl.node.training.trainer import Trainer
from p2pfl.simulation.setting import Setting
from p2pfl.simulation.sources import Dealt, deal, load
from p2pfl.simulation.vectorised import VectorisedFederation
from p2pfl.topologies.grouped import grouped
from p2pfl.topologies.registry import topology

torch.set_num_threads(1)
ISSUER = Identity.from_seed(bytes(32)).peer_id
HEART = from_toml(FEDERATION_TOML.read_text(encoding="utf-8").replace("ISSUER", ISSUER))
PLAIN = replace(HEART, privacy=PrivacySpec("none"))
NATURAL = Setting(partition="natural")


def dealt(setting: Setting, seed: int = 0) -> Dealt:
    return deal(load(setting, HEART.task, Path()), setting, HEART.task, seed)


def federation(manifest: Manifest, setting: Setting, seed: int = 0) -> VectorisedFederation:
    records = dealt(setting, seed)
    met = topology("complete", len(records.train))
    if setting.averaging == "groups":
        met = grouped(met, size=manifest.groups.size, minimum=manifest.groups.minimum, seed=seed)
    return VectorisedFederation(manifest, setting, records, met, seed)


def with_training(manifest: Manifest, **changes: Any) -> Manifest:
    return replace(manifest, training=replace(manifest.training, **changes))


def test_without_chance_it_is_what_the_nodes_come_to() -> None:
    manifest = with_training(PLAIN, sampling_rate=1.0, expected_batch=120, rounds=12)
    ours = federation(manifest, NATURAL)
    trainers = [Trainer(manifest, table, None, seeded_random(b"")) for table in dealt(NATURAL).train]
    statistics = np.sum([trainer.statistics() for trainer in trainers], axis=0)
    parameters = trainers[0].initial_parameters()
    for _ in range(12):
        ours.step()
        parameters = np.mean([each.contribution(parameters, statistics) for each in trainers], axis=0)
    for row in ours.population.parameters.numpy():
        np.testing.assert_allclose(row, parameters, rtol=1e-4, atol=1e-5)
    accuracy = trainers[0].evaluate(parameters, statistics, dealt(NATURAL).test).accuracy
    assert ours.outcome(1.0).accuracy == pytest.approx(accuracy, abs=1e-9)


def test_pull_and_momentum_are_the_nodes_too() -> None:
    changes = {"sampling_rate": 1.0, "expected_batch": 120, "rounds": 6, "local_steps": 3, "proximal": 0.2}
    manifest = with_training(PLAIN, **changes, momentum=0.5, weight_decay=0.1)
    ours = federation(manifest, NATURAL)
    trainers = [Trainer(manifest, table, None, seeded_random(b"")) for table in dealt(NATURAL).train]
    statistics = np.sum([trainer.statistics() for trainer in trainers], axis=0)
    before = parameters = trainers[0].initial_parameters()
    for _ in range(6):
        ours.step()
        ahead = 0.5 * (parameters - before)
        before = parameters
        parameters = np.mean([each.contribution(parameters, statistics) for each in trainers], axis=0) + ahead
    for row in ours.population.parameters.numpy():
        np.testing.assert_allclose(row, parameters, rtol=1e-4, atol=1e-5)


def test_what_only_nodes_can_do_is_refused() -> None:
    assert isinstance(PLAIN.model, DenseModel)
    manifest = replace(PLAIN, model=replace(PLAIN.model, initial="0" * 64))
    with pytest.raises(ManifestError, match="initial: is not simulated"):
        federation(manifest, NATURAL)


@pytest.mark.parametrize("mode", ["distributed", "local", "organisation"])
def test_noise_is_as_much_as_the_nodes_add(mode: str) -> None:
    """The spread of the released mean over many runs of one round, without a gradient worth speaking of."""
    drawn = with_training(HEART, rounds=40, sampling_rate=0.25)
    manifest = calibrated(replace(drawn, privacy=drawn.privacy.with_mode(mode)))
    ours = federation(manifest, replace(NATURAL, sampling="poisson"))
    population = ours.population
    spread = []
    for _ in range(200):
        before = population.parameters.clone()
        ours.step()
        spread.append((population.parameters - before)[0])
        population.parameters = before
    privacy, training = manifest.privacy, manifest.training
    sensitivity = 1.0 if mode == "organisation" else training.learning_rate / training.expected_batch
    members = 1.0 if mode == "local" else np.sqrt(3 - 1)  # u - c of a group of four
    expected = privacy.noise_multiplier * privacy.clip_norm * sensitivity / members / np.sqrt(4)
    found = float(torch.stack(spread).std(0).min())
    assert found == pytest.approx(expected, rel=0.2)


def test_it_learns_and_nodes_agree() -> None:
    *_, last = federation(PLAIN, replace(NATURAL, evaluate_every=40)).run()
    assert last.round == 40
    assert last.accuracy > 0.77
    assert last.consensus < 1e-8


def test_the_first_outcome_is_before_training_and_the_last_after_it() -> None:
    manifest = with_training(PLAIN, rounds=7)
    rounds = [each.round for each in federation(manifest, replace(NATURAL, evaluate_every=3)).run()]
    assert rounds == [0, 3, 6, 7]


def test_alone_nodes_drift_apart_and_neighbours_come_together() -> None:
    setting = Setting(nodes=12, averaging="none", evaluate_every=20)
    manifest = with_training(PLAIN, rounds=20)
    apart = list(federation(manifest, setting).run())[-1]
    near = list(federation(manifest, replace(setting, averaging="neighbours")).run())[-1]
    assert near.consensus < apart.consensus / 100


def test_who_is_in_no_group_learns_nothing() -> None:
    ours = federation(with_training(PLAIN, rounds=30), Setting(nodes=12, offline=0.8))
    alone = 0
    for _ in range(30):
        before = ours.population.parameters.clone()
        attended = ours.step()
        moved = int((ours.population.parameters != before).any(dim=1).sum())
        assert moved == 0 or moved >= PLAIN.groups.minimum
        alone += moved == 0 and attended > 0
    assert alone


def test_who_is_offline_does_nothing() -> None:
    ours = federation(with_training(PLAIN, rounds=30), Setting(nodes=12, offline=0.4))
    attended = [ours.step() for _ in range(30)]
    assert 0.45 < np.mean(attended) < 0.75
    assert ours.outcome(1.0).accuracy > 0.7


@pytest.mark.parametrize("attack", ["sign_flip", "noise", "labels"])
def test_attackers_do_harm(attack: str) -> None:
    manifest = with_training(PLAIN, rounds=20)
    honest = Setting(nodes=8, evaluate_every=20)
    setting = Setting(nodes=8, attackers=4, attack=attack, evaluate_every=20)  # type: ignore[arg-type]
    attacked = [list(federation(manifest, setting, seed).run())[-1].loss for seed in range(3)]
    fine = [list(federation(manifest, honest, seed).run())[-1].loss for seed in range(3)]
    assert np.mean(attacked) > np.mean(fine) + 0.02


def test_a_run_follows_from_its_seed() -> None:
    manifest = with_training(PLAIN, rounds=5)
    setting = Setting(nodes=6, partition="dirichlet")
    one, same, other = (list(federation(manifest, setting, seed).run()) for seed in (1, 1, 2))
    assert one == same
    assert one != other


class Placed(TorchFunctionMode):
    """Lets no tensor be made that is not told where, as none may be where there is a GPU."""

    FACTORIES: ClassVar = {
        getattr(torch, name)
        for name in (
            "arange",
            "empty",
            "eye",
            "full",
            "linspace",
            "ones",
            "rand",
            "randint",
            "randn",
            "tensor",
            "zeros",
        )
    }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in self.FACTORIES or (kwargs or {}).get("device") is not None, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("averaging", ["groups", "neighbours"])
@pytest.mark.parametrize("sampling", ["poisson", "fixed"])
@pytest.mark.parametrize("attack", ["noise", "labels"])
def test_every_tensor_is_told_where_it_is(averaging: Any, sampling: Any, attack: Any) -> None:
    private = replace(HEART, privacy=HEART.privacy.with_mode("local"))
    manifest = with_training(calibrated(private), local_steps=2, proximal=0.1, momentum=0.1, weight_decay=0.1)
    setting = Setting(
        nodes=6, averaging=averaging, sampling=sampling, attack=attack, attackers=1, offline=0.3
    )
    ours = federation(manifest, setting)
    with Placed():
        ours.step()
        ours.outcome(1.0)


def test_a_gpu_that_is_not_there_is_refused_and_auto_does_without() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ManifestError, match=r"simulation\.device: no GPU"):
        federation(PLAIN, replace(NATURAL, device="cuda"))
    cpu, auto = federation(PLAIN, NATURAL), federation(PLAIN, replace(NATURAL, device="auto"))
    assert cpu.step() == auto.step()
    assert torch.equal(cpu.population.parameters, auto.population.parameters)
    with pytest.raises(ManifestError, match="is of engine"):
        replace(NATURAL, engine="exact", device="auto")
