"""`p2pfl evaluate` and `predict` for every kind of task, on the directory of a node that has a model."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from p2pfl import cli
from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import Manifest, canonical_bytes, from_toml
from p2pfl.node.errors import ExitCode
from p2pfl.node.privacy import dimension
from p2pfl.node.released import Released
from p2pfl.node.storage.identity_file import save_identity
from p2pfl.node.storage.store import Store

IDENTITY = Identity.from_seed(bytes(range(32)))
Run = Callable[..., tuple[int, str, str]]
COLUMN = 'columns = [{ name = "x", kind = "numeric", low = -1, high = 1 }]\n'
EVALUATE, PREDICT = ("evaluate", "--config", "node.toml"), ("predict", "--config", "node.toml", "--data")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        return (cli.main(arguments), *capsys.readouterr())

    return call


def node(task: str, model: str, parameters: list[float], data: str = "data.csv") -> Manifest:
    """A node in the working directory whose released model has these parameters; a table's x is as it is."""
    steps = "learning_rate = 1\nsampling_rate = 1\nexpected_batch = 1\n"
    manifest = from_toml(
        f'name = "t"\nissuers = ["{IDENTITY.peer_id}"]\n[task]\n{task}\n[model]\n{model}\n[training]\n'
        f'rounds = 3\n{steps}[privacy]\nmode = "none"\n'
    )
    save_identity(Path("identity.key"), IDENTITY)
    Path("node.toml").write_text(f'[data]\ntrain = "gone.csv"\ntest = "{data}"\n')
    statistics = np.array([1.0, 0.0, 0.5][: dimension(manifest, "statistics")])  # mean 0, variance 1
    with Store.open(Path("state"), IDENTITY) as store:
        store.bind_manifest(canonical_bytes(manifest))
        store.save_released(Released(7, 1, statistics, np.array(parameters)))
    return manifest


def test_several_classes(run: Run) -> None:
    node('label = "y"\nclasses = ["a", "b", "c"]\n' + COLUMN, 'kind = "logistic"', [-2, 0, 2, 0, 0.5, 0])
    Path("data.csv").write_text("x,y\n-1,a\n1,c\n0,b\n1,a\n")
    _, out, _ = run(*EVALUATE)
    assert "accuracy: 0.7500 (3 of 4 records)" in out
    losses = [
        math.log(sum(math.exp(w * x + b) for w, b in ((-2, 0), (0, 0.5), (2, 0)))) - score
        for x, score in ((-1, 2), (1, 2), (0, 0.5), (1, -2))
    ]
    capped = [min(loss, math.log2(3)) for loss in losses]
    assert json.loads(run(*EVALUATE, "--json")[1])["mean_loss"] == pytest.approx(sum(capped) / 4)
    assert f"mean loss: {sum(capped) / 4:.4f} nats" in out
    _, out, _ = run(*PREDICT, "data.csv")
    rows = [line.split(",") for line in out.splitlines()]
    assert rows[0] == ["x", "y", "class", "probability"]
    assert [row[2] for row in rows[1:]] == ["a", "c", "b", "c"]
    assert float(rows[1][3]) == pytest.approx(math.exp(-losses[0]), abs=1e-6)


def test_a_number(run: Run) -> None:
    node('label = "y"\nlow = 0\nhigh = 200\n' + COLUMN, 'kind = "linear"', [0.5, 0.0])
    Path("data.csv").write_text("x,y\n1,150\n-1,90\n0,\n")
    _, out, _ = run(*EVALUATE)  # predicts 150 and 50
    assert "mean absolute error: 20 (2 records)" in out
    assert f"root mean squared error: {math.sqrt(800):.6g}" in out
    assert "R²: 0.1111" in out  # 1 - 1600 / 1800
    assert "accuracy" not in out + run(*EVALUATE, "--json")[1]
    assert "left out: 1 rows with missing cells" in out
    assert run(*PREDICT, "data.csv")[1] == "x,y,value\n1,150,150\n-1,90,50\n0,,100\n"


def test_a_support_vector_machine_has_margins(run: Run) -> None:
    node('label = "y"\npositive = ["1"]\n' + COLUMN, 'kind = "svm"', [3.0, 0.0])
    Path("data.csv").write_text("x,y\n1,1\n-1,1\n")
    out = run(*EVALUATE)[1]
    assert "accuracy: 0.5000" in out
    assert "mean loss: 0.5000 hinge" in out  # losses are capped at 1
    assert "AUC: nan" in out  # there is nobody to tell them from
    assert run(*PREDICT, "data.csv")[1] == "x,y,margin,positive\n1,1,3.000000,1\n-1,1,-3.000000,0\n"


def test_pictures(run: Run) -> None:
    task = 'kind = "images"\nheight = 1\nwidth = 2\nclasses = ["cat", "dog"]\n'
    node(task, 'kind = "logistic"', [1.0, 0, -1.0, 0, 0, 0], "pictures")
    for name, pixel in (("cat/a.png", 255), ("dog/b.png", 0), ("dog/c.png", 255)):
        path = Path("pictures") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 1), pixel).save(path)
    assert "accuracy: 0.6667 (2 of 3 records)" in run(*EVALUATE)[1]
    _, out, _ = run(*PREDICT, "pictures/dog")
    assert [line.rpartition(",")[0] for line in out.splitlines()] == [
        "picture,class",
        "b.png,dog",
        "c.png,cat",
    ]
    _, out, _ = run(*PREDICT, "pictures")
    names = [line.partition(",")[0] for line in out.splitlines()]
    assert names == ["picture", "cat/a.png", "dog/b.png", "dog/c.png"]


def test_text(run: Run) -> None:
    task = 'kind = "text"\nalphabet = "ab"\nwindow = 3\nrecord = "line"\n'
    node(task, 'kind = "gru"\nwidth = 1', [0.0] * (2 + 12 + 2) + [1.0, 0.0], "text.txt")
    Path("text.txt").write_text("baa\nabbbb\n")
    _, out, _ = run(*EVALUATE)  # always foresees a
    assert "characters foreseen: 0.5000 of each of 2 records" in out
    losses = [math.log(1 + math.exp(-1)), min(math.log(1 + math.exp(1)), 1)]
    assert f"mean loss: {sum(losses) / 2:.4f} nats" in out
    assert "left out: 1 characters" in out
    status, out, err = run(*PREDICT, "text.txt")
    assert (status, out) == (ExitCode.DATA, "")
    assert "nothing to predict" in err
    assert "p2pfl evaluate" in err


def test_a_plugin(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "site" / "counts-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: counts\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[p2pfl.tasks]\ncounts = counts_of_a_test:Counts\n")
    (info.parent / "counts_of_a_test.py").write_text(
        "import numpy as np\nfrom torch import nn\nfrom p2pfl.tasks import Task\n\n"
        "class Counts(Task):\n    columns = ('twice',)\n"
        "    def load(self, path):\n        rows = np.loadtxt(path, ndmin=2)\n"
        "        return rows[:, :1], rows[:, 1]\n"
        "    def module(self):\n        return nn.Linear(1, 1)\n"
        "    def losses(self, outputs, targets):\n        return (outputs[:, 0] - targets).abs()\n"
        "    def correct(self, outputs, targets):\n        return outputs[:, 0] == targets\n"
        "    def predicted(self, outputs):\n        return 2 * outputs\n"
    )
    monkeypatch.syspath_prepend(str(info.parent))
    node(
        'kind = "plugin"\nname = "counts"\nversion = "1.0"',
        'kind = "plugin"\nsize = 2\noutputs = 1',
        [2.0, 1.0],
    )
    Path("data.csv").write_text("1 3\n2 5\n0 1.5\n")
    out = run(*EVALUATE)[1]
    assert "accuracy: 0.6667 (2 of 3 records)" in out
    assert "mean loss: 0.1667" in out
    assert run(*PREDICT, "data.csv")[1] == "record,twice\n1,6\n2,10\n3,2\n"


def test_a_training_loop_elsewhere_has_its_records_elsewhere(run: Run) -> None:
    model = 'kind = "outside"\ntensors = [{ name = "w", shape = [2] }]\n'
    manifest = node('kind = "outside"', model, [0.0, 0.0])
    assert manifest.training.local_steps == 1
    for command in (EVALUATE, (*PREDICT, "data.csv")):
        status, out, err = run(*command)
        assert (status, out) == (ExitCode.DATA, "")
        assert "data.csv: this federation's records are read outside p2pfl" in err
