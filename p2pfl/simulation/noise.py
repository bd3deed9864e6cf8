"""Gaussian noise for all nodes at once: quantiles that are picked at random.

Torch's own takes 32 random bits for each value, and making those is most of its work. Here 16 bits pick one
of 65,536 equally likely values, the Gaussian's quantiles: mean 0, standard deviation 1, none beyond 4.33.
Good enough to ask what will happen, not to protect anybody.
"""

import torch
from torch import Tensor


def _quantiles() -> Tensor:
    middles = (torch.arange(1 << 16, dtype=torch.float64) + 0.5) / (1 << 16)
    values: Tensor = torch.special.ndtri(middles)
    return values.div_(values.std(correction=0)).float()


class Gaussian:
    """Numbers drawn with ``generator``, on its device."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._quantiles = _quantiles().to(generator.device)

    def fill(self, values: Tensor) -> Tensor:
        """Overwrite ``values``, contiguous and float32, with independent numbers; the same tensor."""
        words = torch.empty(-(-values.numel() // 4), dtype=torch.int64, device=values.device)
        words.random_(-(1 << 63), None, generator=self._generator)
        picked = words.view(torch.uint16)[: values.numel()].int()
        torch.index_select(self._quantiles, 0, picked, out=values.view(-1))
        return values
