"""Models of which a part is frozen: layers from a file, a head that is trained, low-rank adapters.

An adapter (LoRA: Hu et al. 2021) adds to a frozen linear map W a product of two matrices of a small rank,
up · down, of which ``up`` starts at zero: a model begins as its backbone. Frozen parameters are in no vector,
so they cost no gradient, no norm and no noise.
"""

import torch
from torch import Tensor, nn

from p2pfl.gossip.model_layers import Parts
from p2pfl.node.storage.declared_file import Tensors, require_layers


class Adapted(nn.Module):
    """``base``, frozen, and beside it a product of ``rank``."""

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.base = base
        if isinstance(base, nn.Linear):
            self.in_features = base.in_features
            self.down: nn.Module = nn.Linear(base.in_features, rank, bias=False)
            self.up: nn.Module = nn.Linear(rank, base.out_features, bias=False)
        else:
            kernel, stride, padding = base.kernel_size, base.stride, base.padding
            self.down = nn.Conv2d(base.in_channels, rank, kernel, stride, padding, bias=False)  # type: ignore[arg-type]  # pairs, as our convolutions have
            self.up = nn.Conv2d(rank, base.out_channels, 1, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """What ``base`` makes of ``values``, and the adapter's part."""
        outputs: Tensor = self.base(values) + self.up(self.down(values))
        return outputs


def partly_frozen(module: nn.Module, spec: Parts, features: int) -> None:
    """Freeze all of ``module``, the network of ``spec``, but its head, and set the adapters of ``spec``."""
    *below, head = spec.every_layer(features)
    module.requires_grad_(False)
    module.get_submodule(head.name).requires_grad_(True)
    for layer in below if spec.rank else ():
        if layer.adaptable:
            base = module.get_submodule(layer.name)
            assert isinstance(base, nn.Linear | nn.Conv2d)
            module.set_submodule(layer.name, Adapted(base, spec.rank))


def fill_frozen(module: nn.Module, spec: Parts, features: int, backbone: Tensors) -> None:
    """Give the frozen layers of ``module`` the values of the tensors of their names in ``backbone``; others
    in it, such as a head for other classes, are left alone.

    Raises DataError if one is missing or has another shape.
    """
    require_layers(spec, features, backbone)
    for layer in spec.every_layer(features)[:-1]:
        within = f"{layer.name}.base" if spec.rank and layer.adaptable else layer.name
        for name in layer.tensors:
            parameter = module.get_parameter(f"{within}.{name.rpartition('.')[2]}")
            with torch.no_grad():
                parameter.copy_(torch.from_numpy(backbone[name]))
