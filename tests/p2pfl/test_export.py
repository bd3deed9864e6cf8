"""`p2pfl export`: what is in the file and its card, and that the card's own instructions work."""

import csv
import hashlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from p2pfl import cli
from p2pfl.crypto.identity import Identity
from p2pfl.gossip.evaluation_spec import EvaluationSpec
from p2pfl.gossip.manifest import DenseModel, Manifest, canonical_bytes, from_toml
from p2pfl.node.errors import ExitCode
from p2pfl.node.privacy import dimension, stage_plan
from p2pfl.node.released import Released
from p2pfl.node.rounds import status_at_start
from p2pfl.node.storage.identity_file import save_identity
from p2pfl.node.storage.own_file import is_own
from p2pfl.node.storage.receipts import RoundOutcome
from p2pfl.node.storage.store import Store

IDENTITY = Identity.from_seed(bytes(range(32)))
PEERS = tuple(Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2, 3, 4))
COLUMNS = """columns = [
  { name = "age", kind = "numeric", low = 0, high = 100, missing = "indicator" },
  { name = "a|b *c*", kind = "numeric", low = -5, high = 5 },
  { name = "ward", kind = "categorical", levels = ["a", "b,c", "d"], missing = "level", unknown = "missing" },
  { name = "sex", kind = "categorical", levels = ["f", "m"] },
]
missing = ["?", ""]
"""
ROWS = "age,a|b *c*,ward,sex,id\n20,1,a,f,1\n?,-2.5,d,m,2\n200,9,zz,m,3\n50, 0.1 ,?, f ,4\n"
TARGETS = {
    "positive": ('positive = ["1"]', 'kind = "logistic"'),
    "margin": ('positive = ["1"]', 'kind = "svm"'),
    "class": ('classes = ["x", "y", "z"]', 'kind = "mlp"\nhidden = [5]'),
    "number": ("low = -10\nhigh = 30", 'kind = "mlp"\nhidden = [4, 3]'),
}
PRIVATE = (
    'mode = "distributed"\nepsilon = 5\ndelta = 1e-4\nnoise_multiplier = 2.0\n'
    "statistics_noise_multiplier = 4.0\nevaluation_noise_multiplier = 4.0"
)

Run = Callable[..., tuple[int, str, str]]


def federation(kind: str = "positive", mode: str = 'mode = "none"') -> Manifest:
    target, model = TARGETS[kind]
    return from_toml(
        f"""
        name = "hearts"
        issuers = ["{IDENTITY.peer_id}"]
        [task]
        label = "y"
        {target}
        {COLUMNS}
        [model]
        {model}
        [training]
        rounds = 3
        learning_rate = 0.5
        sampling_rate = 0.5
        expected_batch = 10
        [privacy]
        {mode}
        """
    )


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return call


def made(manifest: Manifest) -> Store:
    """A node whose latest model is that of round 2, the second of three training rounds."""
    save_identity(Path("identity.key"), IDENTITY)
    Path("new.csv").write_text(ROWS)
    Path("node.toml").write_text('[data]\ntrain = "gone.csv"\ntest = "test.csv"\n')
    Path("test.csv").write_text(ROWS.replace(",id", ",y").replace(",2\n", ",1\n"))
    store = Store.open(Path("state"), IDENTITY)
    store.bind_manifest(canonical_bytes(manifest))
    statistics = np.array([10.0, 0.0, 1.0, 10 * (0.25 - 0.5), 10 * (0.3 - 0.5)])
    parameters = np.random.default_rng(1).normal(0, 0.7, dimension(manifest, "training"))
    store.save_released(Released(2, 1, statistics, parameters))
    return store


def exported(run: Run, name: str, *options: str) -> str:
    status, out, err = run("export", "--config", "node.toml", "--out", name, *options)
    assert status == 0, err
    return out.strip()


@pytest.mark.parametrize("kind", TARGETS)
def test_the_lines_in_the_card_predict_what_predict_predicts(run: Run, kind: str) -> None:
    made(federation(kind))
    exported(run, "hearts.safetensors")
    [script] = re.findall(r"```python\n(.*?)```", Path("hearts.safetensors.md").read_text(), re.DOTALL)
    assert "p2pfl" not in script
    assert script.count("\n") < 20
    Path("records.csv").write_text(ROWS, encoding="utf-8-sig")  # as spreadsheets save it
    script += "print(json.dumps(np.atleast_1d(answers).tolist()))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answers = np.array(json.loads(done.stdout))
    rows = list(csv.DictReader(io.StringIO(run("predict", "--config", "node.toml", "--data", "new.csv")[1])))
    if kind == "class":
        assert [row["class"] for row in rows] == ["xyz"[k] for k in answers.argmax(axis=1)]
        answers = answers.max(axis=1)
    told = {"positive": "probability", "margin": "margin", "class": "probability", "number": "value"}[kind]
    assert answers == pytest.approx([float(row[told]) for row in rows], rel=1e-5, abs=1e-6)
    assert np.ptp(answers) > 1e-3


def test_the_card_says_where_it_is_from_and_that_there_is_no_protection(run: Run) -> None:
    store, manifest = made(federation()), federation()
    for round, members in enumerate((PEERS[:3], PEERS[1:])):
        store.record_round(RoundOutcome(round, "training", members, members, "", True, 0))
    digest = exported(run, "hearts.safetensors")
    data = Path("hearts.safetensors").read_bytes()
    assert digest == hashlib.sha256(data).hexdigest()
    with safe_open("hearts.safetensors", "numpy") as file:
        card, names = json.loads(file.metadata()["card"]), set(file.keys())
    assert names == {"0.weight", "0.bias", "preprocessing.mean", "preprocessing.scale"}
    assert card["federation"] == {"name": "hearts", "id": manifest.federation_id}
    assert card["rounds"] == {"model_of": 2, "training_done": 2, "training_planned": 3}
    assert card["members"] == {"met_in_sums": 4, "sums": 2}
    assert card["privacy"] == {"mode": "none"}
    assert card["metrics"] == {"federation": None, "own": None}
    assert not any(peer in data.decode("latin-1") for peer in PEERS)
    text = Path("hearts.safetensors.md").read_text()
    assert "**Nothing.** The mode is `none`" in text
    assert "2 of 3 planned" in text
    assert r"| a\|b \*c\* | a number in \[\-5, 5\] |" in text
    assert '| ward | "a", "b,c", "d"; may be missing |' in text
    Path("again").mkdir()
    assert exported(run, "again/hearts.safetensors") == digest


def test_epsilon_is_what_the_ledger_says_and_own_metrics_only_leave_when_asked(run: Run) -> None:
    manifest = federation(mode=PRIVATE)
    store = made(manifest)
    for round, stage in enumerate(["statistics", "training"]):
        plan = stage_plan(manifest, stage, dimension(manifest, stage))
        store.charge(round, plan.mechanism(manifest.groups.thresholds))
    spent = json.loads(run("privacy", "--config", "node.toml", "--json")[1])["epsilon"]
    exported(run, "a.safetensors")
    exported(run, "b.safetensors", "--private")
    cards = []
    for name in ("a", "b"):
        with safe_open(f"{name}.safetensors", "numpy") as file:
            cards.append(json.loads(file.metadata()["card"]))
    assert cards[0]["privacy"]["epsilon_of_the_exporting_member"] == spent
    assert [card["metrics"]["own"] is None for card in cards] == [True, False]
    assert cards[1]["metrics"]["own"]["total"] == 4
    texts = [Path(f"{name}.safetensors.md").read_text() for name in ("a", "b")]
    assert all(f"epsilon {spent:.3f} at delta 0.0001, of at most 5" in text for text in texts)
    assert ["no epsilon covers these figures" in text for text in texts] == [False, True]


def test_after_a_vote_epsilon_is_that_of_the_planned_end_wherever_it_is_shown(run: Run) -> None:
    voting = EvaluationSpec(every=1, metric="accuracy", target=0.5)
    manifest = replace(federation(mode=PRIVATE), evaluation=voting)
    store = made(manifest)
    for round, stage in enumerate(["statistics", "training", "evaluation"]):
        plan = stage_plan(manifest, stage, dimension(manifest, stage))
        store.charge(round, plan.mechanism(manifest.groups.thresholds))
        sums = (30.0, 40.0, 9.0, *[0.0] * 48) if stage == "evaluation" else None
        store.record_round(RoundOutcome(round, stage, PEERS, PEERS, "", True, 0, sums))
    released = store.released()
    assert released is not None

    def shown() -> tuple[dict[str, Any], list[str]]:
        status_at_start(IDENTITY.peer_id, manifest.digest, store).write(store.directory)
        config = ("--config", "node.toml")
        privacy, status = (json.loads(run(name, *config, "--json")[1]) for name in ("privacy", "status"))
        name = f"{released.round}-{privacy['ended_by_vote']}.safetensors"
        exported(run, name)
        with safe_open(name, "numpy") as file:
            card = json.loads(file.metadata()["card"])["privacy"]
        rung = next(one["epsilon"] for one in privacy["ladder"] if one["colluders"] == card["colluders"])
        assert privacy["epsilon"] == status["epsilon"] == card["epsilon_of_the_exporting_member"] == rung
        assert privacy["ended_by_vote"] == status["ended_by_vote"] == card["ended_by_vote"]
        lines = [run(name, *config)[1] for name in ("privacy", "status")]
        return privacy, [*lines, Path(f"{name}.md").read_text()]

    before, _ = shown()
    assert before["epsilon"] == before["epsilon_so_far"] < before["epsilon_at_the_end"]
    store.save_released(replace(released, round=3, vote_rounds=1, votes=1.0))
    after, (privacy, status, card) = shown()
    end = before["epsilon_at_the_end"]
    assert (after["epsilon"], after["epsilon_so_far"]) == (pytest.approx(end), before["epsilon"])
    assert f"epsilon at the planned end: {end:.3f} of 5" in privacy
    assert f"epsilon: {end:.3f} of 5 at delta 0.0001, at the planned end: this is what holds" in status
    assert "the figure is that of the planned end" in card
    assert "| members | 4 |" in card


@pytest.mark.parametrize("mode", ["organisation", "local", "none"])
def test_epsilon_is_not_said_to_cover_private_layers_without_noise(run: Run, mode: str) -> None:
    terms = 'mode = "none"' if mode == "none" else PRIVATE.replace("distributed", mode)
    manifest = federation("class", terms)
    assert isinstance(manifest.model, DenseModel)
    store = made(replace(manifest, model=replace(manifest.model, private=("head",))))
    store.save_private(np.full(18, 7.0))
    Path("node.toml").write_text("")
    exported(run, "hearts.safetensors", "--private")
    with safe_open("hearts.safetensors", "numpy") as file:
        card = json.loads(file.metadata()["card"])
        assert file.get_tensor("1.bias") == pytest.approx(np.full(3, 7.0))
    text = Path("hearts.safetensors.md").read_text()
    uncovered = {"organisation": ["1"], "local": [], "none": None}[mode]
    assert card["privacy"].get("layers_not_covered") == uncovered
    assert is_own(Path("hearts.safetensors")) == (mode != "local")
    assert ('does not cover the private layers in the file ("1")' in text) == (mode == "organisation")
    assert ("the shared tensors of this model included" in text) == (mode == "organisation")
    assert ("released, this model included" in text) == (mode == "local")
    if mode != "local":
        words = ("predict", "--config", "node.toml", "--data", "new.csv", "--model", "hearts.safetensors")
        status, _, err = run(*words)
        assert (status, "for use without p2pfl" in err) == (ExitCode.STORAGE, True)


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_a_program_says_inside_what_its_card_does_not_cover(run: Run, suffix: str) -> None:
    manifest = federation("class", PRIVATE.replace("distributed", "organisation"))
    assert isinstance(manifest.model, DenseModel)
    store = made(replace(manifest, model=replace(manifest.model, private=("head",))))
    store.save_private(np.full(18, 7.0))
    Path("node.toml").write_text("")
    exported(run, f"hearts.{suffix}", "--private")
    if suffix == "onnx":
        props = pytest.importorskip("onnx").load("hearts.onnx").metadata_props
        told = {one.key: one.value for one in props}
    else:
        told = {"card": "", "contains": ""}
        torch.export.load("hearts.pt2", extra_files=told)
    card = json.loads(told["card"])
    assert card["federation"]["name"] == "hearts"
    assert card["rounds"]["training_done"] == 2
    assert card["privacy"]["layers_not_covered"] == ["1"]
    assert told["contains"] == "own records, not noised: never to be released"
    how = {"pt2": 'load("hearts.pt2", extra_files=told)', "onnx": '.custom_metadata_map["card"]'}
    assert how[suffix] in Path(f"hearts.{suffix}.md").read_text()


def test_a_program_is_loaded_as_its_card_says(run: Run) -> None:
    made(federation("number"))
    exported(run, "hearts.pt2")
    assert "answers = program.module()(records)" in Path("hearts.pt2.md").read_text()
    records = torch.tensor([[20.0, 0, 1, 0, 0, 0, 0]], dtype=torch.float64)
    found = torch.export.load("hearts.pt2").module()(records)
    out = run("predict", "--config", "node.toml", "--data", "new.csv")[1]
    assert float(next(csv.DictReader(io.StringIO(out)))["value"]) == pytest.approx(float(found[0]), rel=1e-5)


def test_nothing_is_overwritten_and_a_strange_format_is_refused(run: Run) -> None:
    made(federation())
    Path("hearts.onnx.md").write_text("mine")
    for name, words in (("hearts.onnx", "hearts.onnx.md exists already"), ("node.toml", "no format")):
        status, out, err = run("export", "--config", "node.toml", "--out", name)
        assert status == (ExitCode.STORAGE if name == "hearts.onnx" else ExitCode.USAGE)
        assert (out, err.count("\n")) == ("", 2)
        assert words in err
    assert not Path("hearts.onnx").exists()
    assert Path("hearts.onnx.md").read_text() == "mine"


def test_the_card_of_code_of_ones_own_advises_nothing_that_is_refused(run: Run) -> None:
    manifest = from_toml(
        f"""
        name = "loops"
        issuers = ["{IDENTITY.peer_id}"]
        task.kind = "outside"
        training.rounds = 3
        privacy.mode = "none"
        [model]
        kind = "outside"
        tensors = [{{ name = "layer", shape = [2, 3] }}, {{ name = "scale", shape = [] }}]
        """
    )
    save_identity(Path("identity.key"), IDENTITY)
    Path("node.toml").write_text("")
    with Store.open(Path("state"), IDENTITY) as store:
        store.bind_manifest(canonical_bytes(manifest))
        store.save_released(Released(2, 1, np.array([1.0]), np.arange(7.0)))
    exported(run, "loops.safetensors")
    text = Path("loops.safetensors.md").read_text()
    assert (
        "| model | of the members' own code, with the arrays layer \\(2 × 3\\), scale \\(a number\\) |"
        in text
    )
    assert "the names that the members' own code gives them. The facts" in text
    assert "load the tensors into the code that trained them" in text
    assert not any(word in text for word in (".pt2", ".onnx", "preprocessing"))


def test_a_backbone_that_was_an_option_of_the_node_is_one_here(run: Run) -> None:
    save_file({"0.weight": np.ones((2, 1), "f4"), "0.bias": np.ones(2, "f4")}, "backbone.safetensors")
    digest = hashlib.sha256(Path("backbone.safetensors").read_bytes()).hexdigest()
    manifest = from_toml(
        f"""
        name = "heads"
        issuers = ["{IDENTITY.peer_id}"]
        [task]
        label = "y"
        positive = ["1"]
        columns = [{{ name = "x", kind = "numeric", low = -1, high = 1 }}]
        [model]
        kind = "mlp"
        hidden = [2]
        train = "head"
        backbone = "{digest}"
        [training]
        rounds = 3
        learning_rate = 1.0
        sampling_rate = 0.2
        expected_batch = 1
        [privacy]
        mode = "none"
        """
    )
    save_identity(Path("identity.key"), IDENTITY)
    Path("node.toml").write_text("")
    Path("data.csv").write_text("x,y\n0.5,1\n")
    with Store.open(Path("state"), IDENTITY) as store:
        store.bind_manifest(canonical_bytes(manifest))
        store.save_released(Released(2, 1, np.array([1.0, 0.0, 0.5]), np.ones(3)))
    status, _, err = run("export", "--config", "node.toml", "--out", "heads.safetensors")
    assert status == ExitCode.CONFIG
    assert "model.backbone in the config, --backbone or P2PFL_BACKBONE" in err
    exported(run, "heads.safetensors", "--backbone", "backbone.safetensors")
    for command in ("evaluate", "predict"):
        words = (command, "--config", "node.toml", "--data", "data.csv", "--backbone", "backbone.safetensors")
        assert run(*words)[0] == 0
