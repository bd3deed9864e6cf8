"""Exported programs give what the model gives, from records as their files have them."""

import io

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import system_random
from p2pfl.gossip.manifest import Manifest, from_toml
from p2pfl.node.errors import UsageError
from p2pfl.node.training import exported
from p2pfl.node.training.exported import onnx_program, torch_program
from p2pfl.node.training.preprocessing import scaling
from p2pfl.node.training.table import Table
from p2pfl.node.training.trainer import Trainer

ISSUER = Identity.from_seed(bytes(32)).peer_id
TABLE = """
label = "y"
positive = ["1"]
columns = [
  { name = "age", kind = "numeric", low = 0, high = 100, missing = "indicator" },
  { name = "ward", kind = "categorical", levels = ["a", "b", "c"] },
]
"""
NUMBER = TABLE.replace('positive = ["1"]', "low = -10\nhigh = 30")
PICTURES = 'kind = "images"\nheight = 8\nwidth = 6\nclasses = ["a", "b", "c"]\nlow = -255'
TEXT = 'kind = "text"\nalphabet = "abcdef"\nwindow = 5\nrecord = "line"'
CASES = {
    "svm": (TABLE, 'kind = "svm"'),
    "mlp": (NUMBER, 'kind = "mlp"\nhidden = [4]'),
    "cnn": (PICTURES, 'kind = "cnn"\nchannels = [4]\nnorm_groups = 2'),
    "gru": (TEXT, 'kind = "gru"\nwidth = 4'),
    "transformer": (TEXT, 'kind = "transformer"\nwidth = 4\nheads = 2'),
}


def manifest(kind: str) -> Manifest:
    task, model = CASES[kind]
    return from_toml(
        f"""
        name = "x"
        issuers = ["{ISSUER}"]
        [task]{task}
        [model]
        {model}
        [training]
        rounds = 1
        learning_rate = 1
        sampling_rate = 1
        expected_batch = 1
        [privacy]
        mode = "none"
        """.replace("[task]", "[task]\n")
    )


def records(kind: str, count: int) -> NDArray[np.generic]:
    """With a missing number, and one beyond the cut at 8 standard deviations."""
    rng = np.random.default_rng(1)
    if CASES[kind][0] == PICTURES:
        return rng.integers(0, 256, (count, 1, 8, 6), np.uint8)
    if CASES[kind][0] == TEXT:
        return rng.integers(0, 6, (count, 5), np.int16)
    found = np.column_stack([rng.uniform(0, 100, count), *rng.integers(0, 2, (3, count))])
    found[0, 0], found[1, 0] = np.nan, 1e6
    return found


def trained(agreed: Manifest) -> tuple[Trainer, NDArray[np.float64], NDArray[np.float64]]:
    """A trainer, parameters and statistics: 10 records of age 50 ± 25 on average."""
    table = Table(np.zeros((0, agreed.task.features)), np.zeros(0))
    trainer = Trainer(agreed, table, None, system_random)
    parameters = np.random.default_rng(2).normal(0, 0.5, trainer.dimension("training"))
    statistics = np.array([10.0, 0.0, 10 * (0.25 - 0.5)])
    return trainer, parameters, statistics[: trainer.dimension("statistics")]


def program(agreed: Manifest) -> exported.Program:
    trainer, parameters, statistics = trained(agreed)
    network = trainer.model.network(parameters)
    return exported.Program(network, scaling(agreed, statistics), trainer.objective)


def predicted(agreed: Manifest, found: NDArray[np.generic]) -> NDArray[np.float64]:
    trainer, parameters, statistics = trained(agreed)
    return trainer.predict(parameters, statistics, Table(found, np.zeros(len(found))))


def as_told(found: NDArray[np.generic]) -> NDArray[np.generic]:
    return found.astype(np.int64 if found.dtype == np.int16 else np.float64)


@pytest.mark.parametrize("kind", CASES)
def test_a_torch_program_gives_what_predict_gives(kind: str) -> None:
    agreed = manifest(kind)
    told = {"card": "", "other": ""}
    data = io.BytesIO(torch_program(program(agreed), agreed, {"card": '{"a": "é"}'}))
    loaded = torch.export.load(data, extra_files=told).module()
    assert told == {"card": '{"a": "é"}', "other": ""}
    for count in (2, 7):
        found = records(kind, count)
        answers = loaded(torch.from_numpy(as_told(found))).detach().numpy()
        assert answers == pytest.approx(predicted(agreed, found), abs=1e-6)
        assert answers.std() > 1e-3


def test_an_onnx_program_gives_what_predict_gives() -> None:
    onnx = pytest.importorskip("onnx")
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator
    agreed, found = manifest("cnn"), records("cnn", 3)
    model = onnx.load_from_string(onnx_program(program(agreed), agreed, {"card": "{}", "contains": "b"}))
    assert {one.key: one.value for one in model.metadata_props} == {"card": "{}", "contains": "b"}
    loaded = evaluator(model)
    [answers] = loaded.run(["answers"], {"records": as_told(found)})
    assert answers == pytest.approx(predicted(agreed, found), abs=1e-6)


def test_without_its_packages_onnx_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    agreed = manifest("svm")
    with pytest.raises(UsageError) as refused:
        onnx_program(program(agreed), agreed, {})
    assert "pip install 'p2pfl-node[onnx]'" in refused.value.hint
