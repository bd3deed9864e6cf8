"""What a manifest says about a task whose code is not p2pfl's. Code is named or outlined here, never shipped.

    plugin    an installed Python package, by name and version: its records, its torch module, its loss
    outside   a training loop of the organisation's own, of which the manifest knows only the model's shapes

How many parameters there are stands in the manifest in both cases, so it is bounded before anything is
imported, and before anything is allocated.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from p2pfl.gossip.declared import (
    MAX_MAGNITUDE,
    MAX_TEXT,
    require,
    require_range,
    require_text,
)
from p2pfl.gossip.records import shown

MAX_ARGUMENTS = 64
MAX_INTEGER = 1 << 53
MAX_OUTPUTS = 1 << 16
MAX_TENSORS = 1024
MAX_DIMENSIONS = 8
MAX_SIZE = 1 << 31  # of a model, before it is held to what any model may have
_ARGUMENT = re.compile(r"[a-z][a-z0-9_]{0,63}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+!_-]{0,63}")


@dataclass(frozen=True, slots=True)
class IntegerArgument:
    """A whole number, of at most 2^53 in size."""

    kind: Literal["integer"]
    name: str
    value: int

    def __post_init__(self) -> None:
        require_range(self.value, f"task.arguments.{self.name}", -MAX_INTEGER, MAX_INTEGER)


@dataclass(frozen=True, slots=True)
class NumberArgument:
    """Any other finite number."""

    kind: Literal["number"]
    name: str
    value: float

    def __post_init__(self) -> None:
        require_range(self.value, f"task.arguments.{self.name}", -MAX_MAGNITUDE, MAX_MAGNITUDE)


@dataclass(frozen=True, slots=True)
class TextArgument:
    """A word or a line, possibly empty."""

    kind: Literal["text"]
    name: str
    value: str

    def __post_init__(self) -> None:
        field = f"task.arguments.{self.name}"
        require(len(self.value) <= MAX_TEXT, field, f"must have at most {MAX_TEXT} characters")
        require(self.value.isprintable(), field, f"must be printable: {shown(self.value)}")


Argument: TypeAlias = IntegerArgument | NumberArgument | TextArgument


class _Opaque:
    """What a task of code that p2pfl does not have says to those who ask every task."""

    __slots__ = ()
    arguments: tuple[Argument, ...]

    @property
    def columns(self) -> tuple[()]:
        """None: nothing is measured before training."""
        return ()

    @property
    def features(self) -> int:
        """Nothing is known of the inputs."""
        return 0

    @property
    def left_out(self) -> str:
        """What of a file may not become a record."""
        return "records"

    @property
    def by_name(self) -> dict[str, int | float | str]:
        """:attr:`arguments` as their code gets them."""
        return {argument.name: argument.value for argument in self.arguments}


@dataclass(frozen=True, slots=True)
class PluginTask(_Opaque):
    """``name``: of an entry point in the group ``p2pfl.tasks``. ``version``: of the package that registers
    it. ``arguments``: what it is made with, by ascending names.
    """

    kind: Literal["plugin"]
    name: str
    version: str
    arguments: tuple[Argument, ...] = ()

    def __post_init__(self) -> None:
        require_text(self.name, "task.name")
        what = f"must be a version as packages have, such as 1.0, not {shown(self.version)}"
        require(_VERSION.fullmatch(self.version) is not None, "task.version", what)
        _check_arguments(self.arguments)


@dataclass(frozen=True, slots=True)
class OutsideTask(_Opaque):
    """``arguments``: what the members' training loops are told, by ascending names."""

    kind: Literal["outside"]
    arguments: tuple[Argument, ...] = ()

    def __post_init__(self) -> None:
        _check_arguments(self.arguments)


class _Whole:
    """What a model whose layers are not known says to those who ask every model: all of it is averaged."""

    __slots__ = ()
    backbone: ClassVar[str] = ""
    initial: ClassVar[str] = ""
    rank: ClassVar[int] = 0
    private: ClassVar[tuple[str, ...]] = ()

    def parameters(self, features: int) -> int:
        """Entries of the vector that members average."""
        raise NotImplementedError

    def trained(self, features: int) -> int:
        """The same."""
        return self.parameters(features)

    def allocated(self, features: int) -> int:
        """The same, as far as is known."""
        return self.parameters(features)

    def private_layers(self, features: int) -> tuple[()]:
        """None."""
        return ()

    def check_parts(self, features: int) -> None:
        """There are none."""


@dataclass(frozen=True, slots=True)
class PluginModel(_Whole):
    """``size``: how many parameters the plug-in's module has; 0: not known yet. ``outputs``: how many numbers
    it gives for a record.
    """

    kind: Literal["plugin"]
    size: int = 0
    outputs: int = 0

    def __post_init__(self) -> None:
        require_range(self.size, "model.size", 0, MAX_SIZE)
        require_range(self.outputs, "model.outputs", 0, MAX_OUTPUTS)
        together = (self.size == 0) == (self.outputs == 0)
        require(together, "model.size", "give it with model.outputs, or neither: the plug-in is asked")

    @property
    def known(self) -> bool:
        """Whether the plug-in has been asked."""
        return self.size > 0

    def parameters(self, features: int) -> int:
        """Of the whole module."""
        return self.size

    def activations(self, features: int) -> int:
        """Numbers that one record becomes, as far as they are declared."""
        return max(1, self.outputs)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One array of the model, in row-major order. ``start``: its first values; ``drawn`` as for other models,
    which makes those with less than two dimensions zero.
    """

    name: str
    shape: tuple[int, ...]
    start: Literal["drawn", "zeros", "ones"] = "drawn"

    def __post_init__(self) -> None:
        require_text(self.name, "model.tensors.name")
        field = f"model.tensors.{self.name}.shape"
        require(len(self.shape) <= MAX_DIMENSIONS, field, f"must have at most {MAX_DIMENSIONS} dimensions")
        for size in self.shape:
            require_range(size, field, 1, MAX_SIZE)

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class OutsideModel(_Whole):
    """The arrays that make up the model, one after the other."""

    kind: Literal["outside"]
    tensors: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        require_range(len(self.tensors), "model.tensors", 1, MAX_TENSORS)
        names = {tensor.name for tensor in self.tensors}
        require(len(names) == len(self.tensors), "model.tensors", "names something twice")

    def parameters(self, features: int) -> int:
        """Of all arrays together."""
        return sum(tensor.size for tensor in self.tensors)

    def activations(self, features: int) -> int:
        """No record comes here."""
        return 1


def complete(manifest: dict[str, object]) -> None:
    """Put ``[task.arguments]`` of a ``manifest`` in TOML into the form of records; if training loops outside
    are named, also what a manifest says of steps, which people leave out then.

    Raises ManifestError for an argument that is neither a number nor text.
    """
    task, training = manifest.get("task"), manifest.get("training")
    if not isinstance(task, dict):
        return
    if isinstance(task.get("arguments"), dict):
        task["arguments"] = _records_of(task["arguments"])
    if task.get("kind") == "outside" and isinstance(training, dict):
        for name in ("learning_rate", "sampling_rate", "expected_batch"):
            training.setdefault(name, STEPS_OUTSIDE[name])


STEPS_OUTSIDE: Mapping[str, float] = {
    "learning_rate": 1.0,
    "sampling_rate": 1.0,
    "expected_batch": 1.0,
    "local_steps": 1,
    "weight_decay": 0.0,
    "proximal": 0.0,
}
"""What ``[training]`` says of steps that p2pfl does not take."""


def _records_of(table: Mapping[str, object]) -> list[dict[str, object]]:
    kinds: dict[type, str] = {int: "integer", float: "number", str: "text"}
    for name, value in table.items():
        what = f"must be a number, or text in quotes, not {shown(value)}"
        field = f"task.arguments.{name if name.isidentifier() else shown(name)}"
        require(type(value) in kinds, field, what)
    return [{"kind": kinds[type(table[name])], "name": name, "value": table[name]} for name in sorted(table)]


def _check_arguments(arguments: tuple[Argument, ...]) -> None:
    names = [argument.name for argument in arguments]
    require(len(names) <= MAX_ARGUMENTS, "task.arguments", f"at most {MAX_ARGUMENTS} are allowed")
    for name in names:
        what = f"names are small letters, digits and _, at most 64, not {shown(name)}"
        require(_ARGUMENT.fullmatch(name) is not None, "task.arguments", what)
    require(names == sorted(set(names)), "task.arguments", "must be in the order of their names, none twice")
