"""The layers of a model by name and shape, and which of them a federation trains and averages.

Counting is all that is done with them here, so that a manifest's sizes are bounded before anything is
allocated; ``node/training/networks.py`` makes torch modules of the same names and shapes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from p2pfl.gossip.declared import require, require_distinct, require_range
from p2pfl.gossip.records import added, shown, suggest

MAX_RANK = 1024
MAX_PRIVATE = 64
_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Layer:
    """``weight``: the shape of ``name``.weight; ``name``.bias, if ``biased``, has its first size."""

    name: str
    kind: Literal["linear", "convolution", "embedding", "norm"]
    weight: tuple[int, ...]
    biased: bool = True

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of its parameters, in their order."""
        bias = {f"{self.name}.bias": self.weight[:1]} if self.biased else {}
        return {f"{self.name}.weight": self.weight} | bias

    @property
    def parameters(self) -> int:
        """Entries of its tensors."""
        return math.prod(self.weight) + (self.weight[0] if self.biased else 0)

    @property
    def adaptable(self) -> bool:
        """Whether a low-rank adapter can stand beside it."""
        return self.kind in ("linear", "convolution")

    @property
    def narrowest(self) -> int:
        """The rank of its weights at most, as a matrix of a row for each output."""
        return min(self.weight[0], math.prod(self.weight[1:]))

    def adapter(self, rank: int) -> int:
        """Entries of a low-rank adapter beside it."""
        return rank * (self.weight[0] + math.prod(self.weight[1:]))


def linear(name: str, inputs: int, outputs: int) -> Layer:
    """A linear layer."""
    return Layer(name, "linear", (outputs, inputs))


def norm(name: str, units: int) -> Layer:
    """A normalisation's scales and offsets."""
    return Layer(name, "norm", (units,))


def chain(prefix: str, widths: Sequence[int]) -> Iterator[Layer]:
    """Linear layers of these ``widths``."""
    for position, (before, after) in enumerate(pairwise(widths)):
        yield linear(f"{prefix}{position}", before, after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Which layers of a model are trained, and which of those are averaged. The last layer is its head.

    ``backbone``: the SHA-256 (hexadecimal) of a safetensors file with all layers but the head, which stay as
    they are there. Then ``train``: only the ``head``, or with it ``adapters``: beside every frozen linear
    layer and convolution W a product of two matrices of ``rank``, which starts at zero. Without a backbone
    ``all`` layers are trained. ``private``: the layers, by name, or ``head`` or ``norms``, that each member
    trains for itself and never contributes. ``initial``: the SHA-256 of a safetensors file with the values
    that training starts from, by name, in the place of drawn ones.
    """

    backbone: str = added("")
    train: Literal["all", "head", "adapters"] = added("all")
    rank: int = added(0)
    private: tuple[str, ...] = added(())
    initial: str = added("")

    def every_layer(self, features: int) -> tuple[Layer, ...]:
        """Every layer over ``features`` inputs, in the order of the parameters; the last is the head."""
        raise NotImplementedError

    def parameters(self, features: int) -> int:
        """Entries of the vector that members average."""
        return self.trained(features) - sum(layer.parameters for layer in self.private_layers(features))

    def trained(self, features: int) -> int:
        """Entries of all that a member trains, private layers included."""
        *below, head = self.every_layer(features)
        if self.train == "all":
            return sum(layer.parameters for layer in below) + head.parameters
        return head.parameters + self._adapters(below)

    def allocated(self, features: int) -> int:
        """Entries of all there is, frozen layers included."""
        *below, head = self.every_layer(features)
        return sum(layer.parameters for layer in below) + head.parameters + self._adapters(below)

    def _adapters(self, below: Sequence[Layer]) -> int:
        return sum(layer.adapter(self.rank) for layer in below if layer.adaptable) if self.rank else 0

    def private_layers(self, features: int) -> tuple[Layer, ...]:
        """The layers that ``private`` means."""
        *below, head = self.every_layer(features)
        chosen = {"head": [head], "norms": [layer for layer in below if layer.kind == "norm"]}
        names = {layer.name for word in self.private for layer in chosen.get(word, [])} | {*self.private}
        return tuple(layer for layer in (*below, head) if layer.name in names)

    def check_parts(self, features: int) -> None:
        """Raises ManifestError unless backbone, train, rank and private fit each other and the layers."""
        _require_digest(self.initial or "0" * 64, "model.initial")
        self._check_backbone(self.every_layer(features)[:-1])
        require_distinct(self.private, "model.private", MAX_PRIVATE)
        if not self.private:
            return
        trained = self.every_layer(features)[-1 if self.backbone else 0 :]
        norms = ["norms"] if any(layer.kind == "norm" for layer in trained) else []
        known = ["head", *norms, *(layer.name for layer in trained)]
        for name in self.private:
            what = f"no trained layer {shown(name)} here; {suggest(name, known)}"
            require(name in known, "model.private", what)
        what = "names every layer that is trained, and nothing would be left to average"
        require(self.parameters(features) > 0, "model.private", what)

    def _check_backbone(self, below: Sequence[Layer]) -> None:
        if not self.backbone:
            what = 'must be "all" without a backbone; `federation create --backbone FILE` names one'
            require(self.train == "all", "model.train", what)
            require(self.rank == 0, "model.rank", "only adapters have a rank")
            return
        _require_digest(self.backbone, "model.backbone")
        require(bool(below), "model.backbone", "this model has nothing below its head")
        what = 'must be "head" or "adapters" with a backbone, whose layers are frozen'
        require(self.train != "all", "model.train", what)
        if self.train == "head":
            require(self.rank == 0, "model.rank", "only adapters have a rank")
            return
        require_range(self.rank, "model.rank", 1, MAX_RANK)
        for layer in below:
            fits = not layer.adaptable or self.rank <= layer.narrowest
            what = f"at most {layer.narrowest}, the rank that layer {layer.name} can have itself"
            require(fits, "model.rank", what)


def _require_digest(text: str, field: str) -> None:
    digest = len(text) == 64 and set(text) <= _DIGITS
    require(digest, field, "must be a SHA-256 in 64 digits of lower-case hexadecimal")
