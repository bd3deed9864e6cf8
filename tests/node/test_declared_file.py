"""Files that a manifest names by their digest."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from p2pfl.node.errors import DataError
from p2pfl.node.storage.declared_file import digest_of_file, read_declared_tensors
from p2pfl.node.storage.own_file import write_own


def written(tmp_path: Path, tensors: Mapping[str, NDArray[np.generic]]) -> Path:
    path = tmp_path / "some.safetensors"
    path.write_bytes(save(dict(tensors)))
    return path


def test_what_the_digest_names_is_read_as_float32(tmp_path: Path) -> None:
    tensors: dict[str, NDArray[np.generic]] = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.ones(2, np.float16),
        "c": np.array([7], np.float32),
    }
    path = written(tmp_path, tensors)
    found = read_declared_tensors(path, digest_of_file(path))
    assert digest_of_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {name: tensor.dtype for name, tensor in found.items()} == dict.fromkeys("abc", np.float32)
    assert all(found[name].tolist() == tensor.tolist() for name, tensor in tensors.items())


def test_a_missing_or_another_file_is_refused_by_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, {"a": np.ones(3)})
    with pytest.raises(DataError, match=r"SHA-256 is [0-9a-f]{64}, but the manifest names 00") as refused:
        read_declared_tensors(path, "00" * 32)
    assert "\n" not in refused.value.what
    with pytest.raises(DataError, match="cannot be read: no such file"):
        read_declared_tensors(tmp_path / "none", "00" * 32)
    with pytest.raises(DataError, match="more than 20 bytes"):
        read_declared_tensors(path, digest_of_file(path), most_bytes=20)


def test_what_only_one_node_may_have_is_no_file_for_all(tmp_path: Path) -> None:
    path = tmp_path / "private.safetensors"
    write_own(path, {"head.weight": np.ones(3)})
    with pytest.raises(DataError, match="from its own records without noise"):
        read_declared_tensors(path, digest_of_file(path))


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        (np.array([1.0, np.nan]), "not finite"),
        (np.array([1e300]), "not finite"),
        (np.array([3]), "int64, not float16"),
    ],
)
def test_only_finite_floats_are_taken(tmp_path: Path, tensor: NDArray[np.generic], what: str) -> None:
    path = written(tmp_path, {"a": tensor})
    with pytest.raises(DataError, match=what):
        read_declared_tensors(path, digest_of_file(path))


def test_what_is_no_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pickle.pt"
    path.write_bytes(b"\x80\x04" + bytes(200))
    with pytest.raises(DataError, match="not a safetensors file"):
        read_declared_tensors(path, digest_of_file(path))
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(DataError, match=r"float16, float32 or float64"):
        read_declared_tensors(path, digest_of_file(path))
