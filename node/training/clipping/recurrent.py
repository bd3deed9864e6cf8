"""GRU and LSTM made of linear layers, so that a record's part in their gradients can be told.

They compute what torch.nn.GRU and torch.nn.LSTM do with ``batch_first=True`` and stand in for them; those run
as one operation that shows nobody its steps. Gates lie in torch's order, so weights can be copied across.
"""

import torch
from torch import Tensor, nn


class GRU(nn.Module):
    """``layers`` gated recurrent layers (Cho et al. 2014), from ``features`` numbers a step to ``width``."""

    def __init__(self, features: int, width: int, layers: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GRULayer(width if at else features, width) for at in range(layers))

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, features) to the states of the last layer, (B, T, width), and of every layer at the end,
        (layers, B, width). States start at zero.
        """
        ends = []
        for layer in self.layers:
            values = layer(values)
            ends.append(values[:, -1])
        return values, torch.stack(ends)


class GRULayer(nn.Module):
    """One layer of :class:`GRU`."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.inputs, self.states = nn.Linear(features, 3 * width), nn.Linear(width, 3 * width)

    def forward(self, values: Tensor) -> Tensor:
        """(B, T, features) to (B, T, width)."""
        state = values.new_zeros(values.shape[0], self.states.in_features)
        states = []
        for given in self.inputs(values).unbind(1):
            gates, candidate = given.tensor_split([2 * state.shape[1]], 1)
            past_gates, past_candidate = self.states(state).tensor_split([2 * state.shape[1]], 1)
            reset, update = torch.sigmoid(gates + past_gates).chunk(2, 1)
            state = torch.lerp(torch.tanh(candidate + reset * past_candidate), state, update)
            states.append(state)
        return torch.stack(states, 1)


class LSTM(nn.Module):
    """``layers`` layers of long short-term memory, from ``features`` numbers a step to ``width``."""

    def __init__(self, features: int, width: int, layers: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(LSTMLayer(width if at else features, width) for at in range(layers))

    def forward(self, values: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T, features) to the states of the last layer, (B, T, width), and the states and the cells of
        every layer at the end, (layers, B, width) each. Both start at zero.
        """
        states, cells = [], []
        for layer in self.layers:
            values, cell = layer(values)
            states.append(values[:, -1])
            cells.append(cell)
        return values, (torch.stack(states), torch.stack(cells))


class LSTMLayer(nn.Module):
    """One layer of :class:`LSTM`."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.inputs, self.states = nn.Linear(features, 4 * width), nn.Linear(width, 4 * width)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, features) to (B, T, width) and the cell at the end, (B, width)."""
        state = cell = values.new_zeros(values.shape[0], self.states.in_features)
        states = []
        for given in self.inputs(values).unbind(1):
            take, keep, candidate, show = (given + self.states(state)).chunk(4, 1)
            cell = torch.sigmoid(keep) * cell + torch.sigmoid(take) * torch.tanh(candidate)
            state = torch.sigmoid(show) * torch.tanh(cell)
            states.append(state)
        return torch.stack(states, 1), cell
