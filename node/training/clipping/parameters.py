"""The trainable parameters of a module as one vector."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one parameter lies in the vector."""

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)

    def of(self, vector: Tensor) -> Tensor:
        """The parameter's part of ``vector``, in its own shape."""
        return vector[self.start : self.stop].view(self.shape)


class Parameters:
    """The parameters of ``module`` that require a gradient, in the order of ``module.named_parameters()``.

    They become views of ``vector``, so whatever is written there is what the module computes with. Do not
    move the module to another device or dtype afterwards.
    """

    def __init__(self, module: nn.Module) -> None:
        """Raises ValueError if there are none, or not all of one device and of float32 or float64."""
        self.trainable = {
            name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad
        }
        kinds = {(parameter.dtype, parameter.device) for parameter in self.trainable.values()}
        if len(kinds) != 1 or next(iter(kinds))[0] not in (torch.float32, torch.float64):
            raise ValueError(
                f"trainable parameters share a device and are all float32 or float64, not {kinds}"
            )
        self.vector = torch.cat([parameter.detach().flatten() for parameter in self.trainable.values()])
        self.layout = tuple(self._slots())
        for slot, parameter in zip(self.layout, self.trainable.values(), strict=True):
            parameter.data = slot.of(self.vector)
        self.slots: dict[Tensor, Slot] = dict(zip(self.trainable.values(), self.layout, strict=True))

    def _slots(self) -> list[Slot]:
        slots: list[Slot] = []
        for name, parameter in self.trainable.items():
            slots.append(Slot(name, slots[-1].stop if slots else 0, tuple(parameter.shape)))
        return slots
