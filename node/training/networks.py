"""The networks that a manifest can name, as torch modules over a batch of records.

All of them use tanh: bounded activations lose less to gradient clipping (Papernot et al. 2021). The last
layer of each is its last linear one.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from p2pfl.gossip.errors import LocalProtocolError
from p2pfl.gossip.manifest import (
    ConvolutionalModel,
    DenseModel,
    ModelSpec,
    OutsideModel,
    PluginModel,
    SequenceModel,
)
from p2pfl.gossip.model_layers import Parts
from p2pfl.node.training.adapters import partly_frozen
from p2pfl.node.training.clipping import GRU


def network(spec: ModelSpec, features: int) -> nn.Module:
    """The network of ``spec`` over ``features`` inputs (characters, for text), its parameters not set yet.
    What it has frozen requires no gradient.

    It maps (n, features), (n, channels, height, width) or (n, length) to (n, outputs), (n,) if there is one
    output, or (n, length, outputs).
    """
    with torch.device("meta"):  # nothing is drawn from torch's own generator
        match spec:
            case DenseModel():
                module: nn.Module = Dense((features, *spec.hidden, spec.outputs))
            case ConvolutionalModel():
                module = Convolutions(spec)
            case SequenceModel(kind="gru"):
                module = Recurrent(spec, features)
            case SequenceModel():
                module = Transformer(spec, features)
            case PluginModel() | OutsideModel():
                raise LocalProtocolError(f"no network of p2pfl's own is of kind {spec.kind}")
        if isinstance(spec, Parts) and spec.backbone:
            partly_frozen(module, spec, features)
    return _with_room(module)


def _with_room(module: nn.Module) -> nn.Module:
    """``module``, made on the device meta, with memory for its values. As torch's own ``to_empty``, which
    imports sympy and 480 other modules on the way: a second and 35 MB of every start.
    """
    for part in module.modules():
        for name, value in part.named_parameters(recurse=False):
            room = torch.empty(value.shape, dtype=value.dtype)
            setattr(part, name, nn.Parameter(room, requires_grad=value.requires_grad))
    return module


class Dense(nn.ModuleList):
    """Linear layers of these ``widths`` with tanh between them."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__(nn.Linear(*pair) for pair in pairwise(widths))

    def forward(self, values: Tensor) -> Tensor:
        """(n, …) flattened to (n, widths[0]), to (n, widths[-1]), or (n,) if that is 1."""
        values = values.flatten(1)
        for position, layer in enumerate(self):
            values = layer(values if position == 0 else torch.tanh(values))
        return values.squeeze(-1) if values.shape[-1] == 1 else values


class Convolutions(nn.Module):
    """Convolutions that halve the picture, each followed by tanh, then dense layers."""

    def __init__(self, spec: ConvolutionalModel) -> None:
        super().__init__()
        channels = (spec.inputs[0], *spec.channels)
        self.filters = nn.ModuleList(
            nn.Conv2d(before, after, spec.kernel, stride=2, padding=spec.kernel // 2)
            for before, after in pairwise(channels)
        )
        groups = spec.norm_groups
        self.norms = nn.ModuleList(nn.GroupNorm(groups, after) for after in spec.channels if groups)
        self.dense = Dense((spec.flat, *spec.hidden, spec.outputs))

    def forward(self, values: Tensor) -> Tensor:
        """(n, channels, height, width) to (n, outputs)."""
        for position, layer in enumerate(self.filters):
            values = layer(values)
            if self.norms:
                values = self.norms[position](values)
            values = torch.tanh(values)
        scores: Tensor = self.dense(values)
        return scores


class Recurrent(nn.Module):
    """Gated recurrent layers over embedded characters."""

    def __init__(self, spec: SequenceModel, alphabet: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, spec.width)
        self.layers = GRU(spec.width, spec.width, spec.layers)
        self.head = nn.Linear(spec.width, spec.outputs)

    def forward(self, characters: Tensor) -> Tensor:
        """(n, length) whole numbers to (n, length, outputs)."""
        states, _ = self.layers(self.embedding(characters))
        scores: Tensor = self.head(states)
        return scores


class Transformer(nn.Module):
    """Blocks of causal attention and a dense layer, each normalised before and added to what it reads."""

    def __init__(self, spec: SequenceModel, alphabet: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(alphabet, spec.width)
        self.positions = nn.Embedding(spec.inputs[0], spec.width)
        self.blocks = nn.ModuleList(Block(spec.width, spec.heads) for _ in range(spec.layers))
        self.norm = nn.LayerNorm(spec.width)
        self.head = nn.Linear(spec.width, spec.outputs)

    def forward(self, characters: Tensor) -> Tensor:
        """(n, length) whole numbers to (n, length, outputs)."""
        places = torch.arange(characters.shape[1]).expand(characters.shape)
        values = self.embedding(characters) + self.positions(places)
        for block in self.blocks:
            values = block(values)
        scores: Tensor = self.head(self.norm(values))
        return scores


class Block(nn.Module):
    """One block of a transformer, (n, length, width) to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention = nn.Linear(width, 3 * width)
        self.mixed = nn.Linear(width, width)
        self.dense_norm = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def forward(self, values: Tensor) -> Tensor:
        """Attend to what came before, then think about it."""
        values = values + self.mixed(self._attended(self.attention_norm(values)))
        dense: Tensor = self.narrow(torch.tanh(self.wide(self.dense_norm(values))))
        return values + dense

    def _attended(self, values: Tensor) -> Tensor:
        shape = (*values.shape[:2], self.heads, -1)
        queries, keys, found = (
            part.unflatten(-1, shape[2:]).transpose(1, 2) for part in self.attention(values).chunk(3, -1)
        )
        attended = scaled_dot_product_attention(queries, keys, found, is_causal=True)
        return attended.transpose(1, 2).flatten(2)
