"""What a manifest says about the model: named kinds with bounded sizes, never code.

A record of a model is complete in itself: how many numbers go in and come out is in it, so its parameters can
be counted, and bounded, before anything is allocated. People leave those sizes out: they follow from the task
(:func:`sizes_for`), and a manifest in which the two differ is refused.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

from p2pfl.gossip.declared import ManifestError, require, require_range
from p2pfl.gossip.model_layers import Layer, Parts, chain, linear, norm
from p2pfl.gossip.own_spec import OutsideModel, OutsideTask, PluginModel, PluginTask
from p2pfl.gossip.records import added
from p2pfl.gossip.task_spec import (
    MAX_ALPHABET,
    MAX_CHANNELS,
    MAX_CLASSES,
    MAX_SIDE,
    MAX_WINDOW,
    ImageTask,
    TabularTask,
    TaskSpec,
    TextTask,
)

MAX_LAYERS = 8
MAX_WIDTH = 8192
MAX_KERNEL = 15
MAX_PARAMETERS = 25_000_000  # 100 MB in a ring of 32 bits
MAX_ACTIVATIONS = 1 << 24  # numbers that one record becomes on its way through the model


def _check_widths(widths: Sequence[int], field: str, least: int) -> None:
    fits = least <= len(widths) <= MAX_LAYERS
    require(fits, field, f"must list {least} to {MAX_LAYERS} layer widths")
    for width in widths:
        require_range(width, field, 1, MAX_WIDTH)


@dataclass(frozen=True, slots=True)
class DenseModel(Parts):
    """``logistic``, ``linear``, ``svm``: one linear layer, for classes by log loss, for a number by squared
    error, for classes by hinge loss. ``mlp``: ``hidden`` layers of these widths before it, for either.
    """

    kind: Literal["logistic", "linear", "svm", "mlp"]
    hidden: tuple[int, ...] = ()
    outputs: int = added(1)

    def __post_init__(self) -> None:
        require_range(self.outputs, "model.outputs", 1, MAX_CLASSES)
        if self.kind == "mlp":
            _check_widths(self.hidden, "model.hidden", 1)
            return
        what = f'a {self.kind} model has no hidden layers; use kind = "mlp"'
        require(not self.hidden, "model.hidden", what)

    def every_layer(self, features: int) -> tuple[Layer, ...]:
        """Every layer over ``features`` inputs, the head last."""
        return tuple(chain("", (features, *self.hidden, self.outputs)))

    def activations(self, features: int) -> int:
        """Numbers that one record becomes on its way through."""
        return features + sum(self.hidden) + self.outputs


@dataclass(frozen=True, slots=True)
class ConvolutionalModel(Parts):
    """A block for each of ``channels``: a convolution of ``kernel`` × ``kernel`` that halves height and
    width, with ``norm_groups`` (0: none) a group normalisation, and tanh; then dense layers as in an mlp.

    ``inputs``: channels, height and width of a picture.
    """

    kind: Literal["cnn"]
    channels: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: int
    hidden: tuple[int, ...] = ()
    kernel: int = 5
    norm_groups: int = 0

    def __post_init__(self) -> None:
        require(len(self.inputs) == 3, "model.inputs", "must be channels, height and width of a picture")
        for size, most in zip(self.inputs, (MAX_CHANNELS, MAX_SIDE, MAX_SIDE), strict=True):
            require_range(size, "model.inputs", 1, most)
        require_range(self.outputs, "model.outputs", 1, MAX_CLASSES)
        _check_widths(self.channels, "model.channels", 1)
        _check_widths(self.hidden, "model.hidden", 0)
        require_range(self.kernel, "model.kernel", 1, MAX_KERNEL)
        require(self.kernel % 2 == 1, "model.kernel", f"must be odd, not {self.kernel}")
        require_range(self.norm_groups, "model.norm_groups", 0, MAX_WIDTH)
        for channels in self.channels if self.norm_groups else ():
            what = f"must divide every number of channels, {channels} among them"
            require(channels % self.norm_groups == 0, "model.norm_groups", what)

    @property
    def flat(self) -> int:
        """Numbers that the last block gives."""
        _, height, width = self.inputs
        return self.channels[-1] * _halved(height, len(self.channels)) * _halved(width, len(self.channels))

    def every_layer(self, features: int) -> tuple[Layer, ...]:
        """Every layer, the head last."""
        pairs, kernel = pairwise((self.inputs[0], *self.channels)), (self.kernel, self.kernel)
        filters = (
            Layer(f"filters.{block}", "convolution", (after, before, *kernel))
            for block, (before, after) in enumerate(pairs)
        )
        scaled = enumerate(self.channels if self.norm_groups else ())
        norms = (norm(f"norms.{block}", after) for block, after in scaled)
        return (*filters, *norms, *chain("dense.", (self.flat, *self.hidden, self.outputs)))

    def activations(self, features: int) -> int:
        """Numbers that one record becomes on its way through."""
        _, height, width = self.inputs
        maps = sum(
            channels * _halved(height, depth) * _halved(width, depth)
            for depth, channels in enumerate(self.channels, start=1)
        )
        return features + maps + sum(self.hidden) + self.outputs


@dataclass(frozen=True, slots=True)
class SequenceModel(Parts):
    """Reads characters in order and says after each what comes next.

    ``gru``: ``layers`` recurrent layers of ``width`` units. ``transformer``: ``layers`` blocks of causal
    attention with ``heads`` heads and a dense layer of four times ``width``. ``inputs``: characters of a
    record that are read, at most.
    """

    kind: Literal["gru", "transformer"]
    width: int
    inputs: tuple[int, ...]
    outputs: int
    layers: int = 1
    heads: int = 1

    def __post_init__(self) -> None:
        require(len(self.inputs) == 1, "model.inputs", "must be the characters of a record")
        require_range(self.inputs[0], "model.inputs", 1, MAX_WINDOW)
        require_range(self.outputs, "model.outputs", 1, MAX_ALPHABET)
        require_range(self.width, "model.width", 1, MAX_WIDTH)
        require_range(self.layers, "model.layers", 1, MAX_LAYERS)
        require_range(self.heads, "model.heads", 1, MAX_WIDTH)
        if self.kind == "gru":
            require(self.heads == 1, "model.heads", "only a transformer has heads")
        what = f"must divide the width, {self.width}"
        require(self.width % self.heads == 0, "model.heads", what)

    def every_layer(self, features: int) -> tuple[Layer, ...]:
        """Every layer over an alphabet of ``features`` characters, the head last."""
        width = self.width
        begin = Layer("embedding", "embedding", (features, width), biased=False)
        end = linear("head", width, self.outputs)
        if self.kind == "gru":
            names = (
                f"layers.layers.{at}.{part}" for at in range(self.layers) for part in ("inputs", "states")
            )
            return (begin, *(linear(name, width, 3 * width) for name in names), end)
        places = Layer("positions", "embedding", (self.inputs[0], width), biased=False)
        blocks = (layer for at in range(self.layers) for layer in _block(f"blocks.{at}.", width))
        return (begin, places, *blocks, norm("norm", width), end)

    def activations(self, features: int) -> int:
        """Numbers that one record becomes on its way through."""
        [length] = self.inputs
        block = 12 * self.width if self.kind == "gru" else 12 * self.width + 2 * self.heads * length
        return length * (self.layers * block + self.outputs)


ModelSpec: TypeAlias = DenseModel | ConvolutionalModel | SequenceModel | PluginModel | OutsideModel


def _block(prefix: str, width: int) -> tuple[Layer, ...]:
    """The layers of one block of a transformer."""
    return (
        norm(f"{prefix}attention_norm", width),
        linear(f"{prefix}attention", width, 3 * width),
        linear(f"{prefix}mixed", width, width),
        norm(f"{prefix}dense_norm", width),
        linear(f"{prefix}wide", width, 4 * width),
        linear(f"{prefix}narrow", 4 * width, width),
    )


def sizes_for(task: TaskSpec, kind: str) -> dict[str, object]:
    """``outputs`` and ``inputs`` of a model of ``kind`` for ``task``, as they stand in a record."""
    if isinstance(task, PluginTask | OutsideTask):
        return {}
    sizes: dict[str, object] = {"outputs": task.outputs}
    if isinstance(task, ImageTask) and kind == "cnn":
        sizes["inputs"] = (task.channels, task.height, task.width)
    if isinstance(task, TextTask) and kind in ("gru", "transformer"):
        sizes["inputs"] = (task.window,)
    return sizes


def require_fitting_kind(task: TaskSpec, kind: str) -> None:
    """Raises ManifestError if ``kind`` is one of models, but of none that can learn ``task``."""
    fitting = _kinds_for(task)
    if kind in _LARGEST and kind not in fitting:
        known = ", ".join(f'"{one}"' for one in fitting)
        raise ManifestError("model.kind", f'"{kind}" does not fit the task; use one of {known}')


def require_fit(task: TaskSpec, model: ModelSpec) -> None:
    """Raises ManifestError unless ``model`` can learn ``task``, within bounds."""
    require_fitting_kind(task, model.kind)
    for name, size in sizes_for(task, model.kind).items():
        found = getattr(model, name)
        require(found == size, f"model.{name}", f"must be {size} for this task, not {found}")
    largest = _LARGEST[model.kind]
    model.check_parts(task.features)
    parameters = model.allocated(task.features)
    what = f"{parameters} parameters, at most {MAX_PARAMETERS} are allowed"
    require(parameters <= MAX_PARAMETERS, largest, what)
    numbers = model.activations(task.features) * (3 if model.rank else 1)
    what = f"one record becomes {numbers} numbers in this model, at most {MAX_ACTIVATIONS} are allowed"
    require(numbers <= MAX_ACTIVATIONS, largest, what)


def _kinds_for(task: TaskSpec) -> tuple[str, ...]:
    match task:
        case TabularTask(is_regression=True):
            return ("linear", "mlp")
        case TabularTask():
            return ("logistic", "svm", "mlp")
        case ImageTask():
            return ("logistic", "svm", "mlp", "cnn")
        case TextTask():
            return ("gru", "transformer")
        case PluginTask():
            return ("plugin",)
        case OutsideTask():
            return ("outside",)


_LARGEST = {
    **dict.fromkeys(("logistic", "linear", "svm", "mlp", "cnn"), "model.hidden"),
    **dict.fromkeys(("gru", "transformer"), "model.width"),
    "plugin": "model.size",
    "outside": "model.tensors",
}
"""The field to blame when a model is too large."""


def _halved(size: int, times: int) -> int:
    return -(-size // (1 << times))
