"""Manifest files, and what people put in their place."""

from pathlib import Path

import pytest

from p2pfl.gossip.manifest import MAX_BYTES, canonical_bytes, from_toml
from p2pfl.node.errors import ManifestProblem
from p2pfl.node.storage.manifest_file import read_manifest, read_manifest_toml

TOML = """
name = "hearts"
issuers = ["12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"]
[task]
label = "y"
positive = ["1"]
columns = [{ name = "x", kind = "numeric", low = 0, high = 1 }]
[model]
kind = "logistic"
[training]
rounds = 1
learning_rate = 1
sampling_rate = 1
expected_batch = 1
[privacy]
mode = "none"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_both_forms_are_read(path: Path) -> None:
    manifest = from_toml(TOML)
    path.write_text(TOML)
    assert read_manifest_toml(path) == manifest
    path.write_bytes(canonical_bytes(manifest))
    assert read_manifest(path) == manifest


@pytest.mark.parametrize(
    ("content", "words", "hint"),
    [
        (TOML.encode(), "this is the TOML", "p2pfl federation create"),
        (TOML.replace("rounds", "ronds").encode(), "this is the TOML", "p2pfl federation create"),
        (b"\xff\xfe", "not a manifest", "copy it as binary"),
        (canonical_bytes(from_toml(TOML))[:-1], "not a manifest", "copy it as binary"),
        (b"# mine\nP2PFL-SECRET-KEY-1ABC", "this is a secret key", "keep it to yourself"),
        (b"p2pfl-ticket-v1:AAAA\n", "this is a ticket", "under `ticket`"),
        (bytes(MAX_BYTES + 1), "larger than", "check the path"),
    ],
)
def test_what_is_no_manifest_is_told_apart(path: Path, content: bytes, words: str, hint: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ManifestProblem, match=words) as caught:
        read_manifest(path)
    assert str(path) in caught.value.what
    assert hint in caught.value.hint
    assert "ABC" not in caught.value.what + caught.value.hint


def test_what_is_no_toml_is_told_apart(path: Path) -> None:
    path.write_text(TOML.replace("rounds = 1", "rounds = 0"))
    with pytest.raises(ManifestProblem, match=r"training\.rounds: must be at least 1") as caught:
        read_manifest_toml(path)
    assert caught.value.hint == "correct training.rounds and run the command again"
    path.write_bytes(canonical_bytes(from_toml(TOML)).replace(b"hearts", b"\xff" * 6))
    with pytest.raises(ManifestProblem, match="not a text file"):
        read_manifest_toml(path)


def test_a_file_that_cannot_be_read_is_named(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestProblem, match="no such file"):
        read_manifest(path)
    with pytest.raises(ManifestProblem, match="cannot be read"):
        read_manifest_toml(tmp_path)
