"""Training that starts from a file: the function stays what it was, and no other file will do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.events import Completed, Contribute
from p2pfl.gossip.manifest import Manifest, ManifestError, from_toml
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node.config import NodeConfig, load_config
from p2pfl.node.errors import ConfigError, DataError
from p2pfl.node.learner import Learner
from p2pfl.node.privacy import Budget
from p2pfl.node.start import load_initial
from p2pfl.node.storage.declared_file import Tensors, digest_of_file
from p2pfl.node.storage.store import Store
from p2pfl.node.training.preprocessing import scaling
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer

IDENTITY = Identity.from_seed(bytes(32))


def manifest(initial: str = "", model: str = 'kind = "mlp"\nhidden = [4]') -> Manifest:
    return from_toml(
        f"""
        name = "x"
        issuers = ["{IDENTITY.peer_id}"]
        [task]
        label = "y"
        positive = ["1"]
        columns = [
          {{ name = "age", kind = "numeric", low = 0, high = 100, missing = "indicator" }},
          {{ name = "ward", kind = "categorical", levels = ["a", "b"] }},
        ]
        [model]
        {model}
        [training]
        rounds = 2
        learning_rate = 1
        sampling_rate = 1
        expected_batch = 1
        [privacy]
        mode = "none"
        """,
        initial=initial,
    )


def table(seed: int, age: float = 50) -> Table:
    rng = np.random.default_rng(seed)
    ages = rng.normal(age, 10, 40).clip(0, 100)
    ages[0] = np.nan
    features = np.column_stack([ages, np.isnan(ages), rng.integers(0, 2, 40)])
    return Table(features, rng.integers(0, 2, 40).astype(np.float64))


def trainer(agreed: Manifest, data: Table, initial: Tensors | None = None) -> Trainer:
    return Trainer(agreed, data, None, seeded_random(bytes(32)), None, initial)


def ended() -> tuple[Tensors, NDArray[np.float64]]:
    """A model as it is exported, and what it says about ``table(1)``."""
    one = trainer(manifest(), table(1))
    parameters, statistics = np.random.default_rng(3).normal(0, 0.5, 21), one.statistics()
    scaled = scaling(manifest(), statistics)
    assert scaled is not None
    tensors = one.model.tensors(parameters) | scaled.tensors
    predicted = one.predict(parameters, statistics, table(1))
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}, predicted


def test_with_other_scales_it_begins_as_the_function_that_ended() -> None:
    tensors, predicted = ended()
    later = trainer(manifest(), table(2, age=70), tensors)
    statistics = later.statistics()
    start = later.initial_parameters(statistics)
    restated = later.predict(start, statistics, table(1))
    assert restated[1:] == pytest.approx(predicted[1:], abs=1e-5)  # in the first the mean stands for a number
    assert np.ptp(predicted) > 0.1
    as_it_was = later.initial_parameters()
    assert abs(later.predict(as_it_was, statistics, table(1)) - predicted).max() > 0.05
    without = {name: tensor for name, tensor in tensors.items() if not name.startswith("preprocessing")}
    plain = trainer(manifest(), table(2), without).initial_parameters(statistics)
    assert np.array_equal(plain, as_it_was)


def test_no_value_begins_beyond_what_can_be_summed() -> None:
    tensors, _ = ended()
    agreed = replace(manifest(), training=replace(manifest().training, parameter_limit=0.1))
    start = trainer(agreed, table(1), tensors).initial_parameters()
    assert np.abs(start).max() == 0.1


def test_another_shape_is_refused() -> None:
    tensors, _ = ended()
    wider = manifest(model='kind = "mlp"\nhidden = [5]')
    with pytest.raises(DataError, match=r"needs 0\.weight of shape \(5, 3\), .* have one of shape \(4, 3\)"):
        trainer(wider, table(1), tensors).initial_parameters()


def test_the_federation_begins_with_it_and_restates_it_when_scales_are_mixed(tmp_path: Path) -> None:
    tensors, _ = ended()
    agreed, peers = manifest("0" * 64), (IDENTITY.peer_id,)
    with Store.open(tmp_path, IDENTITY) as store:
        one = trainer(agreed, table(2), tensors)
        learner = Learner(agreed, one, store, Budget(agreed.privacy), seeded_random(bytes(32)))
        learner.population = 40
        for round, stage in enumerate(("statistics", "mixing")):
            assert learner.prepare(round)
            row = learner.contribute(Contribute(round, 0, peers, thresholds(4, 1)))[:]
            learner.completed(
                Completed(round, stage, row + (row // 9) * round, peers, peers, thresholds(4, 1))
            )
            assert learner.released is not None
            expected = one.initial_parameters(learner.released.statistics)
            assert np.array_equal(learner.released.parameters, expected)


def test_only_the_declared_file_will_do(tmp_path: Path) -> None:
    tensors, _ = ended()
    path, short = tmp_path / "initial.safetensors", tmp_path / "short.safetensors"
    save_file(dict(tensors), path)
    save_file({"0.weight": tensors["0.weight"]}, short)
    (tmp_path / "node.toml").write_text('[data]\ntrain = "gone.csv"\n')

    def config(file: Path | None) -> NodeConfig:
        return load_config(tmp_path / "node.toml", {}, {"initial": None if file is None else str(file)})

    agreed = manifest(digest_of_file(path))
    found = load_initial(config(path), agreed)
    assert found is not None
    assert np.array_equal(found["0.weight"], tensors["0.weight"])
    with pytest.raises(ConfigError, match=f"model.initial: not set, .* SHA-256 {agreed.model.initial}"):
        load_initial(config(None), agreed)
    with pytest.raises(DataError, match=r"model\.initial: .*short\.safetensors: its SHA-256 is"):
        load_initial(config(short), agreed)
    with pytest.raises(DataError, match=r"needs 0\.bias of shape \(4,\)"):
        load_initial(config(short), manifest(digest_of_file(short)))
    with pytest.raises(ConfigError, match="the manifest names no initial values"):
        load_initial(config(path), manifest())
    with pytest.raises(ManifestError, match=r"model\.initial: must be a SHA-256"):
        manifest("ABC")
