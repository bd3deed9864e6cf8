"""Small networks of several layers, by name, and inputs for them."""

from typing import Any

import pytest
import torch
from clipping.oracle import indices, values
from torch import Tensor, nn


class Tied(nn.Module):
    """One table for characters on their way in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.characters, self.middle = nn.Embedding(7, 5, padding_idx=1), nn.Linear(5, 5)
        self.scores = nn.Linear(5, 7)
        self.scores.weight = self.characters.weight

    def forward(self, text: Tensor) -> Any:
        return self.scores(torch.tanh(self.middle(self.characters(text))))


class Again(nn.Module):
    """The same layers, more than once, on vectors and on sequences, the last use leading nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.characters = nn.Linear(5, 5), nn.LayerNorm(5), nn.Embedding(7, 5)
        self.filter, self.idle = nn.Conv1d(4, 4, 3, padding=1, groups=2), nn.Linear(5, 5)

    def forward(self, text: Tensor) -> Any:
        values = self.characters(text) + self.characters((text + 1) % 7)
        for _ in range(3):
            values = torch.tanh(self.filter(self.norm(self.layer(values))))
        self.idle(values)
        return self.layer(values.mean(1))


class Residual(nn.Module):
    """Activations that overwrite what they read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.norm, self.last = nn.GroupNorm(2, 2), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Any:
        values = self.norm(self.first(images)).relu_()
        values = values + self.second(values).relu_()
        return self.last(values.flatten(1))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.characters, self.places = nn.Embedding(7, 4), nn.Embedding(6, 4)
        self.before, self.parts, self.joined = nn.LayerNorm(4), nn.Linear(4, 12), nn.Linear(4, 4)

    def forward(self, text: Tensor) -> Any:
        places = torch.arange(text.shape[1]).expand(text.shape)
        values = self.characters(text) + self.places(places)
        query, key, value = self.parts(self.before(values)).chunk(3, -1)
        return values + self.joined(torch.softmax(query @ key.mT, -1) @ value)


def images_of_one() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2, 1), nn.Flatten(), nn.Linear(16, 3))


def images_of_two() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 3))


COMPOSITIONS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)), values(9, 6)),
    "cnn": (images_of_two, values(9, 2, 5, 5)),
    "cnn, one channel": (images_of_one, values(9, 1, 5, 5)),
    "residual": (Residual, values(9, 2, 2, 2)),
    "tied": (Tied, indices(7, 9, 4)),
    "again": (Again, indices(7, 9, 4)),
    "attention": (Attention, indices(7, 9, 6)),
}
composition = pytest.mark.parametrize(("make", "inputs"), COMPOSITIONS.values(), ids=list(COMPOSITIONS))
