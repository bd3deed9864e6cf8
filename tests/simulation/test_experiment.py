"""Experiments: what is swept, what follows, and what is refused."""

from pathlib import Path

import pytest

from p2pfl.gossip.records import FieldError
from p2pfl.node.errors import DataError
from p2pfl.simulation.experiment import read
from p2pfl.simulation.running import run

HERE = Path()


def test_lists_are_swept_each_with_each() -> None:
    text = (
        '[simulation]\nnodes = 12\nseeds = 3\n[privacy]\nmode = ["none", "local"]\n[groups]\nsize = [4, 5, 6]'
    )
    sweep = read(text, HERE)
    assert sweep.seeds == 3
    assert sweep.axes == ["privacy.mode", "groups.size"]
    found = [(each.manifest.privacy.mode, each.manifest.groups.size) for each in sweep.experiments]
    assert found == [(mode, size) for mode in ("none", "local") for size in (4, 5, 6)]
    assert dict(sweep.experiments[0].varied) == {"privacy.mode": "none", "groups.size": 4}


def test_a_list_where_the_format_has_one_is_a_value_and_a_list_of_lists_a_sweep() -> None:
    text = '[simulation]\nnodes = 4\n[model]\nkind = "mlp"\nhidden = {}'
    one = read(text.format("[8, 4]"), HERE)
    assert one.axes == []
    assert one.experiments[0].manifest.model.hidden == (8, 4)  # type: ignore[union-attr]
    two = read(text.format("[[8, 4], [16]]"), HERE)
    assert [each.manifest.model.hidden for each in two.experiments] == [(8, 4), (16,)]  # type: ignore[union-attr]


def test_without_a_promise_the_mode_none_is_one_of_the_modes() -> None:
    experiment = read('[simulation]\nnodes = 4\n[privacy]\nmode = "none"', HERE).experiments[0]
    assert experiment.manifest.privacy.epsilon == 0


def test_overrides_take_the_place_of_what_the_file_says() -> None:
    sweep = read("[simulation]\nnodes = 4", HERE, {"simulation.nodes": [8, 16], "training.rounds": 3})
    assert [each.setting.nodes for each in sweep.experiments] == [8, 16]
    assert sweep.experiments[0].manifest.training.rounds == 3


def test_a_batch_follows_from_the_records_unless_it_is_said() -> None:
    loose = read('[simulation]\nnodes = 9\n[privacy]\nmode = "none"', HERE).experiments[0]
    assert loose.fitted(100).training.expected_batch == 25
    told = read('[simulation]\nnodes = 9\n[privacy]\nmode = "none"\n[training]\nexpected_batch = 7', HERE)
    assert told.experiments[0].fitted(100).training.expected_batch == 7
    as_it_came = read('[simulation]\npartition = "natural"\n[privacy]\nmode = "none"', HERE).experiments[0]
    assert as_it_came.fitted(100).training.expected_batch == 30


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ("nodes = 4\nattackers = 4", "simulation.attackers"),
        ("nodes = 2", "groups.minimum"),
    ],
)
def test_where_nothing_is_averaged_or_measured_nothing_is_run(said: str, field: str) -> None:
    experiment = read(f'[simulation]\n{said}\n[privacy]\nmode = "none"', HERE).experiments[0]
    with pytest.raises(FieldError) as refused:
        next(run(experiment, 0))
    assert refused.value.field == field


def test_noise_is_computed_for_the_promise() -> None:
    text = "[simulation]\nnodes = 4\n[privacy]\nepsilon = [1.0, 4.0]"
    strict, loose = (each.fitted(100) for each in read(text, HERE).experiments)
    assert strict.privacy.noise_multiplier > loose.privacy.noise_multiplier > 0


def test_a_federation_of_one_s_own(tmp_path: Path) -> None:
    task = 'label = "y"\npositive = ["1"]\ncolumns = [{ name = "x", kind = "numeric", low = 0, high = 1 }]'
    training = "rounds = 5\nlearning_rate = 1\nsampling_rate = 0.5\nexpected_batch = 4"
    text = f'name = "own"\nissuers = ["ISSUER"]\n[task]\n{task}\n[training]\n{training}'
    (tmp_path / "own.toml").write_text(text + '\n[model]\nkind = "logistic"\n[privacy]\nmode = "none"\n')
    sweep = read('[simulation]\nfederation = "own.toml"\nnodes = 4\n[training]\nrounds = 9', tmp_path)
    manifest = sweep.experiments[0].manifest
    assert (manifest.name, manifest.training.rounds, manifest.task.features) == ("own", 9, 1)


@pytest.mark.parametrize(
    ("line", "field", "meant"),
    [
        (
            "expected_batch = 4",
            "training.expected_batch",
            "records per member and step.*: expected_batch = 40",
        ),
        ("rounds = 5", "training.rounds", "at least 1: rounds = 60"),
        ('kind = "logistic"', "model.kind", 'kind = "logistic"'),
        ('label = "y"', "task.label", 'the column to predict: label = "num"'),
        ('name = "x", ', "task.columns[0].name", 'name = "age"'),
        ('mode = "none"', "privacy.mode", "distributed, local, organisation or none"),
    ],
)
def test_what_is_missing_is_explained(line: str, field: str, meant: str, tmp_path: Path) -> None:
    text = """
name = "own"
issuers = ["ISSUER"]
[task]
label = "y"
positive = ["1"]
columns = [{ name = "x", kind = "numeric", low = 0, high = 1 }]
[training]
rounds = 5
learning_rate = 1
sampling_rate = 0.5
expected_batch = 4
[model]
kind = "logistic"
[privacy]
mode = "none"
"""
    (tmp_path / "own.toml").write_text(text.replace(line, ""))
    with pytest.raises(FieldError, match=f"missing; .*{meant}") as refused:
        read('[simulation]\nfederation = "own.toml"\nnodes = 4', tmp_path)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("simulation = 3", "simulation", "must be a table"),
        ("[simulatoin]\nnodes = 3", "simulatoin", "did you mean simulation"),
        ("[simulation]\nnode = 3", "simulation.node", "did you mean nodes"),
        ("[simulation]\nnodes = 0", "simulation.nodes", "must be given"),
        ("[simulation]\nnodes = 3\npartition = 'natural'", "simulation.nodes", "leave it out"),
        ("[simulation]\nnodes = 3\nseeds = 0", "simulation.seeds", "from 1 to 1000"),
        ("[simulation]\nnodes = 3\ncolumn = 'age'", "simulation.column", "belongs to partition"),
        ("[simulation]\nnodes = [3, 'four']", "simulation.nodes", "must be a whole number"),
        ("[simulation]\nnodes = 3\n[groups]\nsize = 1", "groups.size", "at least 3"),
        ("nodes = ", "", "not TOML"),
        ("[simulation]\nnodes = 3\nfederation = 3", "simulation.federation", "must be the path"),
    ],
)
def test_what_makes_no_sense_is_refused_by_field(text: str, field: str, reason: str) -> None:
    with pytest.raises(FieldError, match=reason) as refused:
        read(text, HERE)
    assert refused.value.field == field


def test_too_many_runs_are_refused() -> None:
    values = list(range(3, 403))
    with pytest.raises(FieldError, match="160000 runs"):
        read("", HERE, {"simulation.nodes": values, "training.rounds": values})


def test_a_missing_federation_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent.toml: cannot be read"):
        read('[simulation]\nfederation = "absent.toml"', tmp_path)
