"""Modules that are taken a record at a time, saying so, and those that are refused."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from clipping.compositions import Tied
from clipping.oracle import Apply, agree, build, indices, spread, values
from torch import Tensor, nn
from torch.nn.functional import linear

from p2pfl.node.errors import PrivacyError
from p2pfl.node.training.clipping import ClippedGradient


class Functional(Tied):
    def forward(self, text: Tensor) -> Any:
        return linear(torch.tanh(self.characters(text)), self.characters.weight)


class Free(nn.Module):
    """A parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(3)), nn.Linear(3, 2)

    def forward(self, values: Tensor) -> Any:
        return self.layer(values * self.scale)


class PlacesFirst(nn.Module):
    """Positions before records, as torch's recurrent layers have it by default."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, values: Tensor) -> Any:
        return self.layer(values.transpose(0, 1)).mean(0)


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(3, 2, batch_first=True)

    def forward(self, values: Tensor) -> Any:
        return self.layers(values)[0]


OTHERS = {
    "functional": (Functional, indices(7, 6, 4), "characters.weight is used outside its layer"),
    "unknown layer": (lambda: nn.Sequential(nn.Linear(3, 3), nn.PReLU()), values(6, 3), "1 is a PReLU"),
    "own parameter": (Free, values(6, 3), "the module is a Free"),
    "places first": (PlacesFirst, values(6, 4, 3), "not one per record"),
    "places first, as many": (PlacesFirst, values(6, 2, 3), "part in another's loss"),
    "fused": (Fused, values(6, 4, 3), "layers is a LSTM"),
    "weight norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)),
        values(6, 3),
        "ParametrizedLinear",
    ),
    "old weight norm": (lambda: nn.utils.weight_norm(nn.Linear(3, 2)), values(6, 3), "Linear with changes"),
}


@pytest.mark.parametrize(("make", "inputs", "reason"), OTHERS.values(), ids=list(OTHERS))
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_everything_else_falls_back_and_says_so_once(
    caplog: pytest.LogCaptureFixture, make: Callable[[], nn.Module], inputs: Tensor, reason: str
) -> None:
    for _ in range(2):  # a node's trial before it starts, and its training
        clipped = agree(build(make), inputs, 0.7)
        clipped(inputs, torch.ones(len(inputs)), 0.7)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert reason in caplog.text
    assert "torch.func" in caplog.text


@pytest.mark.parametrize("late", [False, True])
def test_a_record_is_not_clipped_by_others(caplog: pytest.LogCaptureFixture, late: bool) -> None:
    """A module that mixes records is taken a record at a time, wherever it mixes them."""
    mixing = Apply(lambda found: found - found.mean(0))
    layers = [nn.Linear(3, 3), mixing] if late else [mixing, nn.Linear(3, 3)]
    module = build(lambda: nn.Sequential(*layers))
    nn.init.zeros_(module.get_parameter("0.bias" if late else "1.bias"))
    agree(module, values(5, 3), 0.7)
    assert "part in another's loss" in caplog.text


def test_mixing_is_seen_behind_a_layer_of_zeros(caplog: pytest.LogCaptureFixture) -> None:
    """No gradient comes through at first."""
    mixing = Apply(lambda found: found - found.mean(0))
    module = build(lambda: nn.Sequential(nn.Embedding(7, 3), mixing, nn.Linear(3, 3)))
    nn.init.zeros_(module.get_parameter("2.weight"))
    clipped = ClippedGradient(module, spread)
    clipped(indices(7, 5), torch.ones(5), 0.7)
    assert "part in another's loss" in caplog.text
    assert not module.get_parameter("2.weight").any()


class Overwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, values: Tensor) -> Any:
        doubled = 2 * values
        found = self.layer(doubled)
        doubled.zero_()
        return found


def test_inputs_changed_after_their_use_are_seen() -> None:
    clipped = ClippedGradient(build(Overwriting), spread)
    with pytest.raises(RuntimeError, match="was changed after its use"):
        clipped(values(4, 3), torch.ones(4), 1.0)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), nn.InstanceNorm1d(3, track_running_stats=True)])
def test_layers_that_mix_records_are_refused(layer: nn.Module) -> None:
    module = nn.Sequential(nn.Linear(3, 3), layer)
    with pytest.raises(PrivacyError, match="layer 1 is a") as caught:
        ClippedGradient(module, spread)
    assert "GroupNorm" in caught.value.hint
    clipped = ClippedGradient(module.eval(), spread)
    module.train()
    with pytest.raises(PrivacyError):
        clipped(torch.ones(2, 3), torch.ones(2), 1.0)


def test_a_norm_of_batches_that_keeps_no_statistics_always_mixes() -> None:
    with pytest.raises(PrivacyError):
        ClippedGradient(
            nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)).eval(), spread
        )


def test_a_frozen_norm_of_batches_is_a_fixed_map() -> None:
    module = build(lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 2)))
    agree(module.eval(), values(5, 3), 0.7)
