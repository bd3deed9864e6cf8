"""Pictures of one declared size, from IDX files, NumPy files, or a folder of PNG and JPEG for each class.

Nothing is resized or guessed: a picture of another size, or a label that is no declared class, is refused.
"""

import gzip
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, NoReturn, cast
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from p2pfl.gossip.manifest import ImageTask
from p2pfl.node.errors import DataError, reason_of
from p2pfl.node.storage.regular_file import regular_only

Array = NDArray[np.generic]

SUFFIXES: Final = (".png", ".jpg", ".jpeg")
_IDX_TYPES: Final = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_GZIP: Final = b"\x1f\x8b"
_NUMPY: Final = b"\x93NUMPY"
_ZIP: Final = b"PK"
_MODES: Final = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class Pictures(NamedTuple):
    """Of the type in the file, (n, channels, height, width); ``labels`` int64 (n,), positions in the classes;
    nothing is ever left out.
    """

    pictures: Array
    labels: NDArray[np.int64]
    dropped: int = 0


def load_pictures(path: Path, task: ImageTask, most: int) -> Pictures:
    """The labelled pictures at ``path``: a folder with one folder for each class; an ``.npz`` file with
    arrays ``images`` and ``labels``; or an IDX (also ``.gz``) or ``.npy`` file with
    "images" in its name, beside one of the same name with "labels" there.

    Raises DataError if they are not as ``task`` declares, none, or more than ``most``.
    """
    with _readable(path):
        if path.is_dir():
            pictures, labels = _load_folders(path, task, most)
        else:
            pictures = _shaped(path, _array(path, "images", most, task.features), task)
            labels = _labels(path, _label_array(path, most), task)
        if len(pictures) != len(labels):
            what = f"{path}: {len(pictures)} pictures, but {len(labels)} labels"
            raise DataError(what, "give every picture one label")
        if len(pictures) == 0:
            raise DataError(f"{path}: no pictures", "a node needs at least one record")
    return Pictures(pictures, labels)


def load_unlabelled_pictures(path: Path, task: ImageTask, most: int) -> tuple[tuple[str, ...], Array]:
    """Names of the pictures at ``path``, and the pictures: files in a folder, and in its folders of classes,
    by name; others by number.
    """
    with _readable(path):
        if not path.is_dir():
            pictures = _shaped(path, _array(path, "images", most, task.features), task)
            return tuple(map(str, range(len(pictures)))), pictures
        folders = (path, *(path / name for name in task.classes))
        files = [file for folder in folders if folder.is_dir() for file in _picture_files(folder)]
        if len(files) > most:
            raise DataError(f"{path}: more than {most} pictures", "predict a part of them at a time")
        return tuple(str(file.relative_to(path)) for file in files), _opened(files, task)


def scaled_pictures(pictures: Array, task: ImageTask) -> NDArray[np.float32]:
    """What the model sees: the declared range of a number scaled to [-1, 1], and cut there."""
    middle, half = np.float32((task.low + task.high) / 2), np.float32((task.high - task.low) / 2)
    inputs = pictures.astype(np.float32)
    inputs -= middle
    inputs /= half
    return np.clip(inputs, -1, 1, out=inputs)


def _label_array(path: Path, most: int) -> Array:
    """Beside MNIST's train-images-idx3-ubyte.gz lies train-labels-idx1-ubyte.gz."""
    with open(path, "rb", opener=regular_only) as file:
        if file.read(len(_ZIP)) == _ZIP:
            return _array(path, "labels", most, 1)
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if beside == path:
        hint = 'name it with "images", and the file of the labels beside it the same but with "labels"'
        raise DataError(f'{path}: the name has no "images", so its labels cannot be found', hint)
    with _readable(beside):
        return _array(beside, "labels", most, 1)


def _array(path: Path, name: str, most: int, each: int) -> Array:
    """Of at most ``most`` records with ``each`` numbers in an IDX file, before any is read."""
    with open(path, "rb", opener=regular_only) as file:
        start = file.read(len(_NUMPY))
    if start == _NUMPY:
        found: Array = np.load(path, allow_pickle=False, mmap_mode="r")
    elif start.startswith(_ZIP):
        with np.load(path, allow_pickle=False) as archive:
            if name not in archive:
                hint = "save it with numpy.savez(file, images=…, labels=…)"
                raise DataError(f"{path}: no array named {name} inside", hint)
            found = archive[name]
    else:
        opened: Callable[..., Any] = gzip.open if start.startswith(_GZIP) else open
        with opened(path, "rb") as stream:
            found = _idx(path, stream, most, each)
    if found.ndim == 0 or len(found) > most:
        raise DataError(f"{path}: not an array of 1 to {most} records", "give this node fewer records")
    return found


def _idx(path: Path, file: BinaryIO, most: int, each: int) -> Array:
    """Two zeros, the type, the number of dimensions, each as 4 bytes, then the numbers, big-endian."""
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _IDX_TYPES or not 1 <= head[3] <= 4:
        _refuse(path, "neither IDX nor NumPy", "give IDX (.gz too), .npy, .npz, or a folder for each class")
    shape = np.frombuffer(_exactly(path, file, 4 * head[3]), ">u4").tolist()
    kind = np.dtype(_IDX_TYPES[head[2]])
    if shape[0] > most or math.prod(shape[1:]) != each:
        what = f"{shape[0]} records of {' × '.join(map(str, shape[1:])) or 1} numbers"
        _refuse(path, what, f"the manifest declares {each} in each; at most {most} records fit one node")
    data = _exactly(path, file, math.prod(shape) * kind.itemsize)
    if file.read(1):  # which also makes gzip compare its checksum
        _refuse(path, "has more bytes than it announces", "copy it again")
    return np.frombuffer(data, kind).reshape(shape)


def _exactly(path: Path, file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        _refuse(path, f"ends after {len(data)} of {size} bytes", "copy it again")
    return data


def _shaped(path: Path, array: Array, task: ImageTask) -> Array:
    """``array`` as (n, channels, height, width); the channels may be last, or missing if there is one."""
    sizes = (task.height, task.width)
    if array.ndim == 3 and task.channels == 1 and array.shape[1:] == sizes:
        array = array[:, np.newaxis]
    elif array.ndim == 4 and array.shape[1:] == (*sizes, task.channels):
        array = array.transpose(0, 3, 1, 2)
    elif array.ndim != 4 or array.shape[1:] != (task.channels, *sizes):
        declared = f"{task.height} × {task.width} × {task.channels}"
        what = f"pictures of {' × '.join(map(str, array.shape[1:]))}, not {declared} as declared"
        _refuse(path, what, "resize them, or agree on another federation")
    if array.dtype.kind not in "buif":
        _refuse(path, f"numbers of type {array.dtype}", "save whole numbers or reals")
    if array.dtype.kind == "f" and not np.isfinite(array.astype(np.float64)).all():
        _refuse(path, "a number is not finite", "replace it")
    return array


def _labels(path: Path, array: Array, task: ImageTask) -> NDArray[np.int64]:
    if array.ndim != 1 or array.dtype.kind not in "ui":
        _refuse(path, f"labels of type {array.dtype} and shape {array.shape}", "one whole number a picture")
    labels = array.astype(np.int64)
    wrong = labels[(labels < 0) | (labels >= len(task.classes))]
    if len(wrong):
        _refuse(
            path, f"label {wrong[0]}", f"the manifest declares {len(task.classes)} classes, numbered from 0"
        )
    return labels


def _load_folders(path: Path, task: ImageTask, most: int) -> tuple[Array, NDArray[np.int64]]:
    strange = sorted({item.name for item in path.iterdir() if item.is_dir()} - set(task.classes))
    if strange:
        what = f"folder {strange[0]!a} is not a declared class"
        _refuse(path, what, f"the manifest declares: {', '.join(task.classes)}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(task.classes):
        found = _picture_files(path / name) if (path / name).is_dir() else []
        files.extend(found)
        labels.extend([label] * len(found))
    if len(files) > most:
        _refuse(path, f"more than {most} pictures", "give this node fewer records")
    return _opened(files, task), np.array(labels, np.int64)


def _picture_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _opened(files: list[Path], task: ImageTask) -> Array:
    if task.channels not in _MODES:
        hint = "give the pictures as .npz"
        raise DataError(f"PNG and JPEG have 1 to 4 channels, the manifest declares {task.channels}", hint)
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        hint = "install it (pip install 'p2pfl-node[images]'), or give the pictures as .npz or IDX"
        raise DataError("reading PNG and JPEG needs Pillow, which is not installed", hint) from None
    shape = (len(files), task.height, task.width, task.channels)
    pictures = np.zeros(shape, np.uint8)
    for position, file in enumerate(files):
        try:
            with open(file, "rb", opener=regular_only) as opened, Image.open(opened) as image:
                if image.size != (task.width, task.height):
                    what = (
                        f"{image.height} × {image.width} pixels, not {task.height} × {task.width} as declared"
                    )
                    _refuse(file, what, "resize it, or agree on another federation")
                if image.mode[0] in "IF":
                    _refuse(file, "more than 8 bits in a pixel", "save it with 8, or give .npz files")
                pixels = np.asarray(image.convert(_MODES[task.channels]))
        except (UnidentifiedImageError, SyntaxError, ValueError) as error:
            _refuse(file, f"not a picture ({ascii(str(error))[1:-1][:80].lower()})", "save it again")
        pictures[position] = pixels.reshape(shape[1:])
    return cast(Array, pictures.transpose(0, 3, 1, 2))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, BadZipFile, ValueError, zlib.error, gzip.BadGzipFile) as error:
        _refuse(path, f"damaged ({ascii(str(error))[1:-1][:80].lower()})", "copy it again")
    except MemoryError:
        _refuse(path, "more than fits the memory of this machine", "give this node fewer records")
    except OSError as error:
        hint = "check the path and its permissions"
        raise DataError(f"{path}: cannot be read: {reason_of(error)}", hint) from None


def _refuse(path: Path, what: str, hint: str) -> NoReturn:
    raise DataError(f"{path}: {what}", hint)
