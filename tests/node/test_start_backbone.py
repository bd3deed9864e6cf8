"""A node whose manifest names a backbone starts with that file, or says what is wrong with it."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from p2pfl import cli
from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import Manifest
from p2pfl.node.config import NodeConfig, load_config
from p2pfl.node.errors import ConfigError, DataError, ExitCode
from p2pfl.node.start import load_backbone
from p2pfl.node.storage.declared_file import digest_of_file
from p2pfl.node.storage.manifest_file import read_manifest

ISSUER = Identity.from_seed(bytes(32)).peer_id
TOML = f"""
name = "t"
issuers = ["{ISSUER}"]
[task]
label = "y"
positive = ["1"]
columns = [{{ name = "x", kind = "numeric", low = -1, high = 1 }}]
[model]
kind = "mlp"
hidden = [3]
train = "head"
[training]
rounds = 3
learning_rate = 1.0
sampling_rate = 0.2
expected_batch = 1
[privacy]
mode = "none"
"""


@pytest.fixture
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("t.toml").write_text(TOML)
    return saved("backbone.safetensors", 3)


def saved(name: str, width: int) -> Path:
    save_file({"0.weight": np.ones((width, 1), "f4"), "0.bias": np.ones(width, "f4")}, name)
    return Path(name)


def config(**options: str) -> NodeConfig:
    return load_config(None, {}, {"data_train": "x.csv", **options})


def created(backbone: Path) -> Manifest:
    assert cli.main(["federation", "create", "t.toml", "--backbone", str(backbone)]) == 0
    return read_manifest(Path("t.manifest"))


def test_the_manifest_gets_the_digest_and_the_node_the_file(
    backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = created(backbone)
    assert manifest.model.backbone == digest_of_file(backbone)
    assert "4 parameters beside 6 frozen ones" in capsys.readouterr().err
    found = load_backbone(config(backbone=str(backbone)), manifest)
    assert found is not None
    assert sorted(found) == ["0.bias", "0.weight"]


def test_a_node_without_the_file_or_with_another_one_says_so(backbone: Path) -> None:
    manifest = created(backbone)
    with pytest.raises(ConfigError, match=r"model\.backbone: not set, and the manifest's model has layers"):
        load_backbone(config(), manifest)
    with pytest.raises(DataError, match=r"model\.backbone: other\.safetensors: its SHA-256 is"):
        load_backbone(config(backbone=str(saved("other.safetensors", 4))), manifest)


def test_a_backbone_that_does_not_fit_becomes_no_manifest(
    backbone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = saved("wide.safetensors", 4)
    assert cli.main(["federation", "create", "t.toml", "--backbone", str(wide)]) == ExitCode.DATA
    assert "the model needs 0.weight of shape (3, 1), and the backbone has one of shape (4, 1)" in (
        capsys.readouterr().err
    )
    assert not Path("t.manifest").exists()
    assert cli.main(["federation", "create", "t.toml"]) == ExitCode.FEDERATION
    assert "`federation create --backbone FILE` names one" in capsys.readouterr().err
