"""`p2pfl personalise`: a model fitted to own records, beside the shared one, and for this node alone."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from p2pfl import cli, personal_model
from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.manifest import Manifest, canonical_bytes, from_toml
from p2pfl.node.errors import ExitCode
from p2pfl.node.privacy import dimension
from p2pfl.node.released import Released
from p2pfl.node.rounds import status_at_start
from p2pfl.node.storage.identity_file import save_identity
from p2pfl.node.storage.own_file import PERSONAL, PRIVATE, is_own
from p2pfl.node.storage.store import Store

IDENTITY = Identity.from_seed(bytes(range(32)))
Run = Callable[..., tuple[int, str, str]]
PERSONALISE = ("personalise", "--config", "node.toml")
EVALUATE = ("evaluate", "--config", "node.toml", "--json")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in an empty directory; batches come in the same order every time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(personal_model, "system_random", seeded_random(b"batches"))
    return lambda *arguments: (cli.main(arguments), *capsys.readouterr())


def rows(count: int, seed: int) -> str:
    """Positive where x is small: the opposite of what the federation has learnt."""
    x = np.random.default_rng(seed).uniform(-1, 1, count)
    return "x,y\n" + "".join(f"{value},{int(value < 0)}\n" for value in x)


def node(private: str = "") -> Manifest:
    manifest = from_toml(
        f'name = "t"\nissuers = ["{IDENTITY.peer_id}"]\n[task]\nlabel = "y"\npositive = ["1"]\n'
        'columns = [{ name = "x", kind = "numeric", low = -1, high = 1 }]\n[model]\nkind = "mlp"\n'
        f"hidden = [2]\n{private}\n[training]\nrounds = 3\nlearning_rate = 1.0\nsampling_rate = 0.2\n"
        'expected_batch = 1\n[privacy]\nmode = "none"\n'
    )
    save_identity(Path("identity.key"), IDENTITY)
    Path("node.toml").write_text('[data]\ntrain = "train.csv"\ntest = "test.csv"\n')
    Path("train.csv").write_text(rows(60, 1))
    Path("test.csv").write_text(rows(40, 2))
    parameters = np.array([1.0, -1.0, 0.0, 0.0, 1.0, -1.0, 0.0])[: dimension(manifest, "training")]
    with Store.open(Path("state"), IDENTITY) as store:
        store.bind_manifest(canonical_bytes(manifest))
        store.save_released(Released(7, 1, np.array([1.0, 0.0, 0.5]), parameters))
    return manifest


def test_it_fits_own_records_and_shows_both(run: Run) -> None:
    node()
    before = sorted(Path("state").glob("*.safetensors"))
    model = next(Path("state").glob("model-*")).read_bytes()
    status, out, err = run(*PERSONALISE, "--epochs", "10", "--json")
    assert status == 0, err
    found = json.loads(out)
    assert found["shared"]["accuracy"] < 0.1
    assert found["personal"]["accuracy"] > 0.9
    assert (found["shared"]["total"], found["records"], found["round"]) == (40, 60, 7)
    file = Path("state") / PERSONAL
    assert sorted(Path("state").glob("*.safetensors")) == sorted([*before, file])
    assert (file.stat().st_mode & 0o777, is_own(file)) == (0o600, True)
    assert next(Path("state").glob("model-*")).read_bytes() == model
    beside = json.loads(run(*EVALUATE)[1])
    assert beside["accuracy"] == found["shared"]["accuracy"]
    assert beside["personal"] == found["personal"]
    alone = json.loads(run(*EVALUATE, "--model", str(file))[1])
    assert alone["accuracy"] == found["personal"]["accuracy"]
    assert "personal" not in alone
    with Store.open(Path("state"), IDENTITY, readonly=True) as store:
        assert store.charges() == []


def test_it_prints_a_table_and_what_the_file_is(run: Run) -> None:
    node()
    _, out, err = run(*PERSONALISE, "--epochs", "10")
    assert "shared  personal" in out
    assert "accuracy" in out
    assert "must stay here" in err
    assert "personal accuracy: " in run(*EVALUATE[:-1])[1]


def test_status_shows_it_beside_the_shared_model(run: Run) -> None:
    manifest, status = node(), ("status", "--config", "node.toml")
    with Store.open(Path("state"), IDENTITY) as store:
        status_at_start(IDENTITY.peer_id, manifest.digest, store).write(store.directory)
    assert json.loads(run(*status, "--json")[1])["personal"] is None
    fitted = json.loads(run(*PERSONALISE, "--epochs", "10", "--json")[1])
    del fitted["file"]
    assert json.loads(run(*status, "--json")[1])["personal"] == fitted
    out = run(*status)[1]
    assert "personal model: the shared one of round 7, fitted to 60 own records\n" in out
    assert f"personal model on 40 held-out records: accuracy: {fitted['personal']['accuracy']:.4f}, " in out
    assert f"shared model on 40 held-out records: accuracy: {fitted['shared']['accuracy']:.4f}, " in out
    (Path("state") / PERSONAL).write_bytes(b"damaged")
    assert "personal model" not in run(*status)[1]


def test_private_layers_are_fitted_from_where_they_are(run: Run) -> None:
    node('private = ["head"]')
    kept = np.array([1.0, -1.0, 0.0])
    with Store.open(Path("state"), IDENTITY) as store:
        store.save_private(kept)
    private = (Path("state") / PRIVATE).read_bytes()
    found = json.loads(run(*PERSONALISE, "--epochs", "40", "--json")[1])
    assert found["shared"]["accuracy"] < 0.1 < 0.9 < found["personal"]["accuracy"]
    assert json.loads(run(*EVALUATE)[1])["personal"] == found["personal"]
    assert (Path("state") / PRIVATE).read_bytes() == private


def test_without_held_out_records_it_says_so(run: Run) -> None:
    node()
    Path("node.toml").write_text('[data]\ntrain = "train.csv"\n')
    status, out, err = run(*PERSONALISE)
    assert (status, out) == (0, "")
    assert "no data.test" in err


def test_what_the_config_holds_out_is_measured_on(run: Run) -> None:
    node()
    Path("node.toml").write_text('[data]\ntrain = "train.csv"\nheld_out = 0.4\n')
    found = json.loads(run(*PERSONALISE, "--json")[1])
    measured, records = found["shared"]["total"], found["records"]
    assert measured + records == 60
    assert 12 < measured < 36
    evaluated = json.loads(run(*EVALUATE)[1])
    assert (evaluated["total"], evaluated["personal"]) == (measured, found["personal"])
    Path("node.toml").write_text('[data]\ntrain = "train.csv"\n')
    status, _, err = run(*EVALUATE)
    assert status == ExitCode.USAGE
    assert "neither data.test nor data.held_out" in err


@pytest.mark.parametrize(("option", "value"), [("--epochs", "0"), ("--learning-rate", "0")])
def test_what_cannot_be_fitted_is_refused(run: Run, option: str, value: str) -> None:
    node()
    status, _, err = run(*PERSONALISE, option, value)
    assert status == ExitCode.USAGE
    assert f"{option}: must be" in err
