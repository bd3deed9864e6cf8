"""Tasks of an installed package: what it is given, and what is refused before anything begins."""

import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.gossip.manifest import (
    Manifest,
    PluginModel,
    PluginTask,
    PrivacySpec,
    canonical_bytes,
    decode_manifest_untrusted,
    from_toml,
)
from p2pfl.gossip.own_spec import IntegerArgument
from p2pfl.node.config import load_config
from p2pfl.node.errors import DataError, ManifestProblem, PrivacyError, UserError
from p2pfl.node.start import load_records
from p2pfl.node.training.own_models import InstalledModel, asked, try_out
from p2pfl.node.training.own_objectives import PluginObjective
from p2pfl.node.training.plugins import column_names, installed
from p2pfl.node.training.table import Table, load_table
from p2pfl.node.training.trainer import Trainer

torch.set_num_threads(1)
EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = EXAMPLES / "own_task"
ISSUER = Identity.from_seed(bytes(32)).peer_id

Install = Callable[[str], PluginTask]

SOURCE = """
import torch
from torch import nn
from p2pfl.tasks import Task

class Made(Task):
    def __init__(self, width=3):
        self.width = width

    def load(self, path):
        values = torch.tensor([[float(cell) for cell in line.split()] for line in path.open()])
        return values[:, 1:], values[:, 0]

    def module(self):
        return MODULE

    def losses(self, outputs, targets):
        return (outputs.flatten() - targets) ** 2 / 2

    def correct(self, outputs, targets):
        return (outputs.flatten() - targets).abs() < 1
"""
DENSE = "nn.Sequential(nn.Linear(2, self.width), nn.Tanh(), nn.Linear(self.width, 1))"


def register(folder: Path, entry: str, version: str) -> None:
    """What installing a package would leave in site-packages, beside its modules."""
    info = folder / f"a_package-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: a-package\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[p2pfl.tasks]\n{entry}\n")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a plug-in ``made`` whose module is the expression, or whose source is the text."""

    def installing(text: str) -> PluginTask:
        (tmp_path / "made_up.py").write_text(text if "\n" in text else SOURCE.replace("MODULE", text))
        register(tmp_path, "made = made_up:Made", "2.1")
        return PluginTask("plugin", "made", "2.1")

    monkeypatch.syspath_prepend(str(tmp_path))
    yield installing
    for module in ("made_up", "late_months"):
        sys.modules.pop(module, None)
    installed.cache_clear()


@pytest.fixture
def example(install: Install, tmp_path: Path) -> Manifest:
    """The agreement of examples/own_task, its package installed as its pyproject.toml says."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [(name, module)] = project["entry-points"]["p2pfl.tasks"].items()
    register(tmp_path, f"{name} = {module}", project["version"])
    (tmp_path / "late_months.py").write_bytes((EXAMPLE / "late_months.py").read_bytes())
    draft = from_toml((EXAMPLE / "federation.toml").read_text(encoding="utf-8").replace("ISSUER", ISSUER))
    assert isinstance(draft.task, PluginTask)
    return replace(draft, model=asked(draft.task), privacy=PrivacySpec("none"))


def manifest_of(task: PluginTask, model: PluginModel, mode: str = "none") -> Manifest:
    toml = (EXAMPLE / "federation.toml").read_text(encoding="utf-8").replace("ISSUER", ISSUER)
    terms = (4.0, 1e-4, 0.3, 2.0, 0.0, 2.0) if mode != "none" else ()
    privacy = PrivacySpec(mode, *terms)  # type: ignore[arg-type]  # parametrized
    return replace(from_toml(toml), task=task, model=model, privacy=privacy)


def table(count: int = 6) -> Table:
    rng = np.random.default_rng(1)
    return Table(rng.normal(size=(count, 2)), rng.normal(size=count))


def refused(work: Callable[[], Any], reason: str) -> UserError:
    with pytest.raises(UserError, match=reason) as caught:
        work()
    assert caught.value.hint
    assert caught.value.what.isprintable()
    return caught.value


# -- the example
def test_the_example_is_short_and_two_banks_learn_by_it(example: Manifest) -> None:
    assert len((EXAMPLE / "late_months.py").read_text(encoding="utf-8").splitlines()) < 40
    train, test = (
        [load_table(EXAMPLES / "credit" / f"{bank}-{part}.csv", example.task) for bank in ("north", "east")]
        for part in ("train", "test")
    )
    try_out(example, train[0])
    members = [Trainer(example, *both, seeded_random(b"seed")) for both in zip(train, test, strict=True)]
    statistics, parameters = members[0].statistics(), members[0].initial_parameters()
    torch.manual_seed(7)
    again = Trainer(example, train[0], test[0], seeded_random(b"seed"))
    assert np.array_equal(again.initial_parameters(), parameters)
    before = np.sum([member.evaluation(parameters, statistics) for member in members], axis=0)
    for _ in range(15):
        models = [member.contribution(parameters, statistics) for member in members]
        parameters = np.mean(models, axis=0)
    after = np.sum([member.evaluation(parameters, statistics) for member in members], axis=0)
    assert before[1] == after[1] == 400
    assert before[2] > 210
    assert after[2] < 160
    told = members[0].predict(parameters, statistics, test[0])
    assert told.shape == (200, 1)
    assert (told > 0).all()
    assert isinstance(example.task, PluginTask)
    assert column_names(example.task, 1) == ("expected_months",)
    assert column_names(example.task, 2) == ("value_1", "value_2")


# -- what every plug-in gets
def test_one_record_moves_a_contribution_by_at_most_the_clip_norm(install: Install) -> None:
    task = install(DENSE)
    agreed = manifest_of(task, asked(task), "distributed")
    agreed = replace(agreed, training=replace(agreed.training, sampling_rate=1.0))
    whole = table()
    whole.features[-1] *= 1e4
    trainers = [
        Trainer(agreed, Table(whole.features[:count], whole.labels[:count]), None, seeded_random(b""))
        for count in (5, 6)
    ]
    start = np.random.default_rng(0).normal(size=agreed.model.parameters(0))
    one, other = (trainer.contribution(start, np.zeros(1)) for trainer in trainers)
    step = agreed.training.learning_rate / agreed.training.expected_batch * agreed.privacy.clip_norm
    assert 0.99 * step < np.linalg.norm(one - other) <= step * (1 + 2**-20)


def test_what_is_drawn_comes_from_the_federation_and_constants_stay(install: Install) -> None:
    task = install("nn.Sequential(nn.Linear(2, 3), nn.PReLU(init=0.3), nn.RMSNorm(3), nn.Linear(3, 1))")
    spec = asked(task)
    model = InstalledModel(task, spec, PluginObjective(installed(task)))
    first, second = model.initial(b"one"), model.initial(b"two")
    values = {slot.name: first[slot.start : slot.stop] for slot in model.layout}
    assert np.allclose(values["1.weight"], 0.3)
    assert (values["2.weight"] == 1).all()
    assert (values["3.weight"] == 0).all()
    differs = {slot.name for slot in model.layout if (first != second)[slot.start : slot.stop].any()}
    assert differs == {"0.weight"}
    model.try_out(table())


def test_dropout_is_out_in_evaluations(install: Install) -> None:
    task = install(f"nn.Sequential({DENSE}, nn.Dropout(0.5))")
    model = InstalledModel(task, asked(task), PluginObjective(installed(task)))
    parameters = np.ones(model.dimension)
    assert np.array_equal(
        model.outputs(parameters, table().features), model.outputs(parameters, table().features)
    )
    model.try_out(table())


def test_a_manifest_alone_imports_nothing(install: Install) -> None:
    canonical = canonical_bytes(manifest_of(install(DENSE), PluginModel("plugin", 13, 1)))
    assert decode_manifest_untrusted(canonical).task == PluginTask("plugin", "made", "2.1")
    assert "made_up" not in sys.modules


# -- what is refused
def test_a_package_that_is_not_there_or_another(install: Install) -> None:
    task = install(DENSE)
    missing = refused(
        lambda: installed(replace(task, name="other")), "no installed package is the plug-in 'other'"
    )
    assert "version 2.1" in missing.hint
    other = refused(lambda: installed(replace(task, version="2.0")), r"is here in version 2\.1, not 2\.0")
    assert "install version 2.0" in other.hint
    assert "made_up" not in sys.modules
    agreed = from_toml((EXAMPLE / "federation.toml").read_text(encoding="utf-8").replace("ISSUER", ISSUER))
    refused(lambda: load_table(Path("any"), agreed.task), "no installed package is the plug-in 'late_months'")


def test_another_size_than_agreed(install: Install) -> None:
    task = install(DENSE)
    assert asked(task) == PluginModel("plugin", 13, 1)
    for size, outputs in ((14, 1), (13, 2)):
        agreed = manifest_of(task, PluginModel("plugin", size, outputs))
        with pytest.raises(ManifestProblem, match=r"model\.size") as caught:
            Trainer(agreed, table(), None, seeded_random(b""))
        said = f"says {size} parameters and {outputs} outputs, but plug-in 'made' has 13 and 1"
        assert said in caught.value.what


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import nothing_of_that_name\n", "ModuleNotFoundError"),
        (SOURCE.replace("Made(Task)", "Made").replace("MODULE", DENSE), "is no Task, but a Made"),
        (SOURCE.replace("MODULE", "3"), "the module of plug-in 'made' is none"),
        (SOURCE.replace("MODULE", "1 / 0"), "cannot make its module: ZeroDivisionError"),
        (SOURCE.replace("MODULE", "SAME") + f"\nSAME = {DENSE.replace('self.width', '3')}\n", "away twice"),
        (f"nn.Sequential(nn.Linear(2, 2).requires_grad_(False), {DENSE})", "draws 0.weight at random"),
        ("nn.Linear(3, 1)", "fails on the first 4 records: RuntimeError"),
        ("nn.Linear(2, 2)", r"fails on the first|gives \(4, 2\) outputs"),
        (SOURCE.replace("MODULE", DENSE).replace("/ 2\n", "* 0 + outputs.mean()\n", 1), "mixes records"),
        (SOURCE.replace("MODULE", DENSE).replace("/ 2\n", "* torch.nan\n", 1), "losses that are no numbers"),
        (
            SOURCE.replace("MODULE", f"Centred({DENSE})")
            + "class Centred(nn.Sequential):\n    def forward(self, values):\n"
            + "        return super().forward(values - values.mean(0))\n",
            "mixes records",
        ),
        (
            SOURCE.replace("MODULE", f"Counts({DENSE})")
            + "class Counts(nn.Sequential):\n    def __init__(self, *layers):\n"
            + "        super().__init__(*layers)\n"
            + "        self.register_buffer('seen', torch.zeros(()))\n    def forward(self, values):\n"
            + "        self.seen += len(values) * self.training\n        return super().forward(values)\n",
            "changes buffers",
        ),
    ],
)  # fmt: skip
def test_what_a_plugin_must_not_do(install: Install, source: str, reason: str) -> None:
    task = install(source)

    def tried() -> None:
        try_out(manifest_of(task, asked(task)), table())

    refused(tried, reason)


MIXING = {
    "a batch centred in training, without a gradient": """
    def forward(self, values):
        return super().forward(values - values.mean(0).detach() * self.training)
""",
    "a running mean in an attribute": """
    mean = 0.0
    def forward(self, values):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * values.detach().mean(0)
        return super().forward(values - self.mean * self.training)
""",
    "a forward pre-hook": """
    def __init__(self, *layers):
        super().__init__(*layers)
        centre = lambda layer, given: (given[0] - given[0].detach().mean(0),) if layer.training else None
        self[0].register_forward_pre_hook(centre)
""",
    "a quantile of large batches": """
    def forward(self, values):
        return super().forward(values / values.abs().quantile(0.95).detach() if len(values) > 4 else values)
""",
    "large batches in evaluations alone": """
    def forward(self, values):
        return super().forward(values - values.mean(0) * (not self.training and len(values) > 4))
""",
}


@pytest.mark.parametrize("body", MIXING.values(), ids=MIXING)
def test_records_are_mixed_where_two_batches_show_it(install: Install, body: str) -> None:
    task = install(SOURCE.replace("MODULE", f"Mixing({DENSE})") + f"class Mixing(nn.Sequential):{body}")
    refused(lambda: try_out(manifest_of(task, asked(task)), table()), "mixes records")


def test_losses_that_remember_are_refused(install: Install) -> None:
    losses = """
        loss = (outputs.flatten() - targets) ** 2 / 2
        self.seen = 0.5 * getattr(self, "seen", 0.0) + 0.5 * loss.detach().mean()
        return loss / (1e-3 + self.seen) if torch.is_grad_enabled() else loss
"""
    source = SOURCE.replace("MODULE", DENSE)
    task = install(source.replace("        return (outputs.flatten() - targets) ** 2 / 2\n", losses))
    refused(lambda: try_out(manifest_of(task, asked(task)), table()), "mixes records")


@pytest.mark.parametrize("mode", ["none", "local"])
def test_batch_normalisation_is_refused_in_every_mode(install: Install, mode: str) -> None:
    task = install("nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))")
    with pytest.raises(PrivacyError, match="layer 1 is a BatchNorm1d, which mixes records") as caught:
        Trainer(manifest_of(task, PluginModel("plugin", 19, 1), mode), table(), None, seeded_random(b""))
    assert "torch.nn.GroupNorm" in caught.value.hint


def test_arguments_that_do_not_fit(install: Install) -> None:
    task = install(DENSE)
    wrong = replace(task, arguments=(IntegerArgument("integer", "depth", 3),))
    refused(lambda: installed(wrong), "cannot be made with depth: TypeError")
    assert asked(replace(task, arguments=(IntegerArgument("integer", "width", 4),))).size == 17


@pytest.mark.parametrize(
    ("text", "reason"),
    [("1 2 3\n1 x 3\n", "ValueError: could not convert"), ("", "refuses it"), ("1 2 3\n1 2\n", "ValueError")],
)
def test_a_file_that_the_plugin_refuses(install: Install, tmp_path: Path, text: str, reason: str) -> None:
    task = install(DENSE)
    (tmp_path / "data.txt").write_text(text)
    with pytest.raises(DataError, match=reason) as caught:
        load_table(tmp_path / "data.txt", task)
    assert "data.txt: plug-in 'made'" in caught.value.what
    (tmp_path / "data.txt").write_text("1 2 3\n0 4 5\n")
    assert load_table(tmp_path / "data.txt", task).features.shape == (2, 2)


def test_without_records_named_the_node_says_what_to_add(install: Install, tmp_path: Path) -> None:
    agreed = manifest_of(install(DENSE), PluginModel("plugin", 13, 1))
    config = load_config(None, {}, {"state": str(tmp_path)})
    said = refused(lambda: load_records(config, agreed), r"data\.train: missing")
    assert "--data-train" in said.hint
