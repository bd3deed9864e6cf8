"""Pictures: every format gives the same records, and whatever is not as declared is refused."""

import gzip
import struct
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from p2pfl.gossip.manifest import ImageTask, TextTask
from p2pfl.node.errors import DataError
from p2pfl.node.training.images import scaled_pictures
from p2pfl.node.training.table import check_readable, load_table
from p2pfl.node.training.unlabelled import load_unlabelled

TASK = ImageTask("images", 3, 2, ("cat", "dog"))
PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 3, 2) * 10
LABELS = np.array([1, 0, 0, 1], np.uint8)


def idx(array: NDArray[np.uint8], code: int = 8) -> bytes:
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return head + array.tobytes()


def written(folder: Path, kind: str) -> Path:
    match kind:
        case "idx":
            (folder / "train-images-idx3-ubyte").write_bytes(idx(PIXELS))
            (folder / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
            return folder / "train-images-idx3-ubyte"
        case "idx.gz":
            (folder / "images.gz").write_bytes(gzip.compress(idx(PIXELS)))
            (folder / "labels.gz").write_bytes(gzip.compress(idx(LABELS)))
            return folder / "images.gz"
        case "npy":
            np.save(folder / "images.npy", PIXELS)
            np.save(folder / "labels.npy", LABELS)
            return folder / "images.npy"
        case "npz":
            np.savez(folder / "data.npz", images=PIXELS, labels=LABELS)
            return folder / "data.npz"
        case "channels last":
            np.savez(folder / "data.npz", images=PIXELS[..., np.newaxis], labels=LABELS)
            return folder / "data.npz"
    raise AssertionError(kind)


@pytest.mark.parametrize("kind", ["idx", "idx.gz", "npy", "npz", "channels last"])
def test_every_format_gives_the_same_records(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, kind)
    table = load_table(path, TASK)
    np.testing.assert_array_equal(table.features, PIXELS[:, np.newaxis])
    assert table.labels.tolist() == [1, 0, 0, 1]
    assert table.labels.dtype == np.int64
    assert (len(table), table.dropped) == (4, 0)
    check_readable(path)
    names = load_unlabelled(path, TASK)
    assert names.rows == (("0",), ("1",), ("2",), ("3",))
    np.testing.assert_array_equal(names.table.features, table.features)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_a_folder_for_each_class(tmp_path: Path, mode: str, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 2, channels), np.uint8)
    for name, position in (("dog/a.png", 0), ("cat/b.PNG", 1), ("dog/c.png", 2)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        squeezed = pixels[position].squeeze() if channels == 1 else pixels[position]
        Image.fromarray(squeezed).convert(mode).save(tmp_path / name)
    (tmp_path / "dog" / "notes.txt").write_text("not a picture")
    table = load_table(tmp_path, replace(TASK, channels=channels))
    assert table.labels.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(table.features, pixels[[1, 0, 2]].transpose(0, 3, 1, 2))
    check_readable(tmp_path)
    flat = load_unlabelled(tmp_path / "dog", replace(TASK, channels=channels))
    assert flat.rows == (("a.png",), ("c.png",))
    whole = load_unlabelled(tmp_path, replace(TASK, channels=channels))
    assert whole.rows == (("cat/b.PNG",), ("dog/a.png",), ("dog/c.png",))
    np.testing.assert_array_equal(whole.table.features, table.features)


def test_a_jpeg_is_read(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (2, 3), (200, 100, 50)).save(tmp_path / "cat" / "a.jpeg", quality=95)
    table = load_table(tmp_path, replace(TASK, channels=3))
    assert table.features.shape == (1, 3, 3, 2)
    assert abs(int(table.features[0, 0, 0, 0]) - 200) < 10


def test_the_declared_range_becomes_one_to_either_side() -> None:
    task = replace(TASK, low=-100.0, high=100.0)
    pictures = np.array([-300, -100, 0, 50, 100, 255], np.int16).reshape(1, 1, 3, 2)
    scaled = scaled_pictures(pictures, task)
    assert scaled.ravel().tolist() == [-1, -1, 0, 0.5, 1, 1]
    assert scaled.dtype == np.float32
    assert pictures.ravel()[0] == -300


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (PIXELS[:, :2], LABELS, r"pictures of 2 × 2, not 3 × 2 × 1 as declared"),
        (PIXELS[0], LABELS, "not 3 × 2 × 1 as declared"),
        (PIXELS, LABELS[:3], "4 pictures, but 3 labels"),
        (PIXELS[:0], LABELS[:0], "no pictures"),
        (PIXELS, LABELS + 1, "label 2"),
        (PIXELS, LABELS.astype(np.int8) - 1, "label -1"),
        (PIXELS, LABELS.astype(np.float64), "labels of type float64"),
        (PIXELS, LABELS[:, np.newaxis], "labels of type uint8 and shape"),
        (PIXELS.astype("S3"), LABELS, "numbers of type"),
        (np.where(PIXELS == 0, np.nan, PIXELS), LABELS, "a number is not finite"),
        (np.array([*PIXELS.tolist(), None], object)[:4], LABELS, "damaged"),
    ],
)
def test_what_is_not_as_declared_is_refused(
    tmp_path: Path, images: NDArray[np.generic], labels: NDArray[np.generic], words: str
) -> None:
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    with pytest.raises(DataError, match=words) as caught:
        load_table(tmp_path / "data.npz", TASK)
    assert caught.value.what.isprintable()
    assert caught.value.hint


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.array([{"a": 1}] * 4, object), allow_pickle=True)
    np.save(tmp_path / "labels.npy", LABELS)
    with pytest.raises(DataError, match="damaged"):
        load_table(tmp_path / "images.npy", TASK)


@pytest.mark.parametrize("kind", ["idx", "idx.gz", "npy", "npz"])
@pytest.mark.parametrize("cut", [1, 3, 10, 30])
def test_files_cut_short_are_refused(tmp_path: Path, kind: str, cut: int) -> None:
    path = written(tmp_path, kind)
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match=str(path)):
        load_table(path, TASK)


def test_an_idx_that_announces_the_world_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "labels").write_bytes(idx(LABELS))
    for shape in ((4, 3, 1 << 31), (1 << 31, 3, 2), (4, 1 << 30, 1 << 30)):
        (tmp_path / "images").write_bytes(struct.pack(">BBBBIII", 0, 0, 8, 3, *shape) + bytes(24))
        with pytest.raises(DataError):
            load_table(tmp_path / "images", TASK)
    (tmp_path / "images").write_bytes(idx(PIXELS, code=7))
    with pytest.raises(DataError, match="neither IDX nor NumPy"):
        load_table(tmp_path / "images", TASK)


def test_labels_that_cannot_be_found(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_bytes(idx(PIXELS))
    with pytest.raises(DataError, match='the name has no "images"'):
        load_table(tmp_path / "pictures", TASK)
    (tmp_path / "images").write_bytes(idx(PIXELS))
    with pytest.raises(DataError, match=r"labels: cannot be read: no such file"):
        load_table(tmp_path / "images", TASK)
    with pytest.raises(DataError, match="cannot be read"):
        load_table(tmp_path / "absent", TASK)
    np.savez(tmp_path / "half.npz", images=PIXELS)
    with pytest.raises(DataError, match="no array named labels inside"):
        load_table(tmp_path / "half.npz", TASK)


def test_pictures_in_folders_that_are_not_as_declared(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    picture = tmp_path / "cat" / "a.png"
    Image.new("L", (3, 2)).save(picture)
    with pytest.raises(DataError, match="2 × 3 pixels, not 3 × 2 as declared"):
        load_table(tmp_path, TASK)
    Image.new("I;16", (2, 3)).save(picture)
    with pytest.raises(DataError, match="more than 8 bits"):
        load_table(tmp_path, TASK)
    picture.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    with pytest.raises(DataError, match=r"not a picture|damaged"):
        load_table(tmp_path, TASK)
    picture.unlink()
    with pytest.raises(DataError, match="no pictures"):
        load_table(tmp_path, TASK)
    (tmp_path / "cow").mkdir()
    with pytest.raises(DataError, match="folder 'cow' is not a declared class") as caught:
        load_table(tmp_path, TASK)
    assert "cat, dog" in caught.value.hint


def test_without_pillow_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cat").mkdir()
    Image.new("L", (2, 3)).save(tmp_path / "cat" / "a.png")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match="needs Pillow") as caught:
        load_table(tmp_path, TASK)
    assert "pip install 'p2pfl-node[images]'" in caught.value.hint


def test_a_folder_without_pictures_has_nothing_to_predict(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="no records") as caught:
        load_unlabelled(tmp_path, TASK)
    assert "a folder for each class" in caught.value.hint


def test_text_has_nothing_to_predict(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing to predict"):
        load_unlabelled(tmp_path / "x", TextTask("text", "ab", 4, "line"))
