"""Σ over records of clip(∇ loss, C): what DP-SGD releases with noise.

A record whose gradient is not finite, or too large for its square to be, counts as zero: it neither spoils
the sum nor breaks the bound C. Such records are counted.

How well C bounds one record's part of the sum in spite of rounding: it stays below C (1 + 2^-10) in float32
and C (1 + 2^-40) in float64. Norms err upwards (:mod:`.terms`); the rest is the rounding of what is summed.
What a record changes when it comes or goes is a little more, as the others are then rounded in other company:
:mod:`.sums`.
"""

import logging
import math
from collections.abc import Callable
from functools import cache, reduce
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from p2pfl.node.errors import PrivacyError
from p2pfl.node.training.clipping.bookkeeping import BookKeeping, Losses, Unsupported
from p2pfl.node.training.clipping.chain import Chain
from p2pfl.node.training.clipping.parameters import Parameters, Slot
from p2pfl.node.training.clipping.per_record import PerRecord
from p2pfl.node.training.clipping.sums import Sum, block, even

log = logging.getLogger(__name__)

SMALLEST_CLIP_NORM: Final = 1e-15
"""The square of a smaller one comes too near the smallest float32."""
MEMORY: Final = 1 << 26
"""Bytes. More is slower where the caches are left behind and fresh pages are asked for."""
_SMALL: Final = 1 << 13
"""Parameters. Where they are so few, a sum in float64 is quicker than one in blocks."""
_MARGIN: Final = 256
"""Units of rounding added to a squared norm: more than a sum of squares, a root and a quotient lose."""


class ClippedGradient:
    """Σ over records of clip(∇ loss, C), with clip(g, C) = g min(1, C / |g|), over the trainable parameters
    of ``module`` as one vector. Not thread safe.

    ``losses(outputs, targets)`` gives one loss per record, shape (B,). A parameter frozen by now
    (``requires_grad`` False) is no part of the vector. The others become views of the vector: do not move the
    module afterwards, nor give it to another of these.

    ``slopes(outputs, targets)``, where known, is ∂ loss / ∂ outputs in closed form: chains of linear layers
    are quicker with it. ``memory``: bytes that intermediate results may take, about; larger batches are taken
    in blocks. ``left_out``: how many records of the last call counted as zero.
    """

    def __init__(
        self, module: nn.Module, losses: Losses, slopes: Losses | None = None, memory: int = MEMORY
    ) -> None:
        """Raises PrivacyError if a layer of ``module`` mixes records, ValueError if its trainable parameters
        are none, or of several dtypes or devices.
        """
        self._mixing = {name: layer for name, layer in module.named_modules() if _keeps_statistics(layer)}
        self._refuse_mixing()
        self._parameters = Parameters(module)
        self._module, self._losses, self._slopes, self._memory = module, losses, slopes, memory
        self._engine: BookKeeping | Chain | PerRecord | None = None
        self._arranged: Callable[[Tensor], Tensor] = _as_it_is
        self._block = 0
        self.left_out = 0

    @property
    def dimension(self) -> int:
        """Number of trainable parameters."""
        return self.vector.numel()

    @property
    def layout(self) -> tuple[Slot, ...]:
        """Where each parameter lies in the vector."""
        return self._parameters.layout

    @property
    def vector(self) -> Tensor:
        """The parameters themselves, shape (dimension,): to write here is to change the module."""
        return self._parameters.vector

    def read(self) -> Tensor:
        """A copy of the parameters, shape (dimension,)."""
        return self.vector.clone()

    def write(self, vector: Tensor) -> None:
        """Set the parameters to ``vector``, shape (dimension,)."""
        self.vector.copy_(vector)

    def __call__(
        self, inputs: Tensor, targets: Tensor, clip_norm: float, out: Tensor | None = None
    ) -> Tensor:
        """The sum over the records (``inputs[i]``, ``targets[i]``), shape (dimension,), in float64 where
        float32 is not enough for so many; written to ``out`` if there is one.

        Zero without records. An infinite ``clip_norm`` clips nothing; one below 1e-15 raises ValueError.
        """
        if not clip_norm >= SMALLEST_CLIP_NORM:
            raise ValueError(f"a clip norm is at least {SMALLEST_CLIP_NORM}, not {clip_norm}")
        self._refuse_mixing()
        with torch.no_grad():
            try:
                total = self._sum(inputs, targets, clip_norm, out)
            except Unsupported as reason:
                self._fall_back(reason)
                total = self._sum(inputs, targets, clip_norm, out)
        return total if out is None or out is total else out.copy_(total)

    def _sum(self, inputs: Tensor, targets: Tensor, clip_norm: float, out: Tensor | None) -> Tensor:
        self.left_out = 0
        if self._engine is None and len(inputs):
            self._engine = self._chosen(inputs[[0, -1]], targets[[0, -1]])
        inputs = self._arranged(inputs)
        parts = list(even(len(inputs), max(1, self._block)))
        most, dtype = block([part.stop - part.start for part in parts]), self.vector.dtype
        single = most is not None and (len(inputs) <= most or self.dimension > _SMALL)
        if dtype == torch.float64 or not single:
            most, dtype = None, torch.float64
        fits = out is not None and out.dtype == dtype and out.shape == self.vector.shape
        sum_ = Sum(out if out is not None and fits else torch.empty_like(self.vector, dtype=dtype), most)
        for part in parts:
            if clip_norm != math.inf or not self._add_whole(inputs[part], targets[part], sum_.total):
                self._add_clipped(inputs[part], targets[part], clip_norm, sum_)
        return sum_.total

    def _chosen(self, inputs: Tensor, targets: Tensor) -> BookKeeping | Chain:
        """The quickest way that is right for the module, going by two records. Raises Unsupported."""
        keeping = BookKeeping(self._module, self._losses, self._parameters)
        self._arranged, held = self._arrangement(keeping, inputs, targets)
        self._block = self._records(held)
        if self._slopes is None:
            return keeping
        self._require_slopes(inputs, targets)
        try:
            return Chain(self._module, self._slopes, self._parameters)
        except Unsupported:
            return keeping

    def _arrangement(
        self, keeping: BookKeeping, inputs: Tensor, targets: Tensor
    ) -> tuple[Callable[[Tensor], Tensor], int]:
        """How inputs lie in memory, and the bytes that a record then takes. Raises Unsupported."""
        if inputs.dim() == 4 and any(isinstance(each, nn.Conv2d) for each in self._module.modules()):
            try:
                return _channels_last, keeping.check(_channels_last(inputs), targets)
            except RuntimeError as failed:  # ``view`` in the module, for one, counts on the usual order
                log.debug("the module does not take channels last: %s", failed)
        return _as_it_is, keeping.check(inputs, targets)

    def _require_slopes(self, inputs: Tensor, targets: Tensor) -> None:
        assert self._slopes is not None
        outputs = self._module(inputs)
        with torch.enable_grad():
            outputs.requires_grad_()
            (expected,) = torch.autograd.grad(self._losses(outputs, targets).sum(), outputs)
        if not torch.allclose(self._slopes(outputs.detach(), targets), expected, 1e-3, 1e-5, equal_nan=True):
            raise ValueError("the slopes given are not those of the losses")

    def _records(self, bytes_per_record: int) -> int:
        return max(1, self._memory // max(1, bytes_per_record))

    def _fall_back(self, reason: Unsupported) -> None:
        _warn(str(reason))
        self._engine = PerRecord(self._module, self._losses, self._parameters)
        self._block = self._records(self._engine.bytes_per_record)

    def _add_clipped(self, inputs: Tensor, targets: Tensor, clip_norm: float, total: Sum) -> None:
        if len(inputs) == 0:
            return
        assert self._engine is not None
        terms = self._engine.terms(inputs, targets)
        if not terms:
            return
        squared = reduce(torch.add, (term.squared_norms() for _, term in terms))
        if not math.isfinite(squared.sum()):
            finite = squared.isfinite()
            if not finite.all():
                # Once more without them, for zero times what they hold is not zero.
                self.left_out += int((~finite).sum())
                self._add_clipped(inputs[finite], targets[finite], clip_norm, total)
                return
        lowered = clip_norm * (1 - _MARGIN * torch.finfo(squared.dtype).eps)
        total.add(terms, squared.rsqrt_().mul_(lowered).clamp_(max=1.0))

    def _add_whole(self, inputs: Tensor, targets: Tensor, total: Tensor) -> bool:
        """Without clipping, in an ordinary backward pass; False, and nothing added, if that is not finite."""
        trained = tuple(self._parameters.trainable.values())
        with torch.enable_grad():
            loss = self._losses(self._module(inputs), targets).sum()
            parts = torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)
        whole = torch.cat([part.flatten() for part in parts])
        finite = bool(whole.isfinite().all())
        if finite:
            total.add_(whole)
        return finite

    def _refuse_mixing(self) -> None:
        for name, layer in self._mixing.items():
            if layer.training or layer.running_mean is None:
                raise PrivacyError(
                    f"layer {name or 'of the model'} is a {type(layer).__name__}, which mixes records: "
                    "no record's part in the gradient can be told",
                    "use torch.nn.GroupNorm in its place, or freeze it by eval()",
                )


@cache
def _warn(reason: str) -> None:
    """Once a process for each ``reason``: a node tries its model before it starts, and trains it then."""
    log.warning("%s: its gradients are taken by torch.func, which is slower", reason)


def _as_it_is(inputs: Tensor) -> Tensor:
    return inputs


def _channels_last(images: Tensor) -> Tensor:
    """The same images (B, C, H, W), with a pixel's channels side by side in memory: torch convolves them as
    quickly, and pools them several times as quickly.
    """
    if images.shape[1] != 1:
        return images.contiguous(memory_format=torch.channels_last)
    # One channel lies both ways at once; by its strides torch tells which way the rest is to lie.
    pixels, width = math.prod(images.shape[1:]), images.shape[3]
    return images.contiguous().as_strided(images.shape, (pixels, 1, width, 1))


def _keeps_statistics(layer: nn.Module) -> bool:
    """Whether it computes with statistics of the batch, or updates them, as long as it is in training."""
    return isinstance(layer, _BatchNorm) or (isinstance(layer, _InstanceNorm) and layer.track_running_stats)
