"""Sums of clipped gradients of one layer, of every kind, against the oracle."""

from itertools import product
from typing import Literal

import pytest
import torch
from clipping.oracle import CLIP_NORMS, Apply, agree, build, clip_norms, dtypes, indices, values
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from p2pfl.node.training.clipping import GRU, LSTM

records = st.integers(1, 4)
sizes = st.integers(1, 5)
properties = settings(max_examples=25, deadline=None)


@properties
@given(records, st.lists(sizes, max_size=2), sizes, sizes, st.booleans(), clip_norms, dtypes)
def test_linear(
    count: int, places: list[int], ins: int, outs: int, bias: bool, clip_norm: float, dtype: torch.dtype
) -> None:
    module = build(lambda: nn.Linear(ins, outs, bias=bias), dtype)
    agree(module, values(count, *places, ins, dtype=dtype), clip_norm)


@pytest.mark.filterwarnings("ignore:Using padding")
@properties
@given(
    records,
    st.sampled_from([1, 2]),
    st.sampled_from([(1, 1, 1), (2, 4, 2), (3, 3, 3), (2, 3, 1)]),
    st.integers(1, 3),
    st.integers(1, 3),
    st.one_of(st.integers(0, 2), st.just("valid"), st.just("same")),
    st.integers(1, 2),
    st.sampled_from(["zeros", "reflect", "circular"]),
    st.booleans(),
    clip_norms,
    dtypes,
)
def test_convolutions(
    count: int,
    along: int,
    channels: tuple[int, int, int],
    kernel: int,
    stride: int,
    padding: int | str,
    dilation: int,
    mode: Literal["zeros", "reflect", "circular"],
    bias: bool,
    clip_norm: float,
    dtype: torch.dtype,
) -> None:
    ins, outs, groups = channels
    kind = nn.Conv1d if along == 1 else nn.Conv2d
    if padding == "same":
        stride = 1
    module = build(
        lambda: kind(
            ins,
            outs,
            kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            padding_mode=mode,
        ),
        dtype,
    )
    agree(module, values(count, ins, *(7, 6)[:along], dtype=dtype), clip_norm)


def test_convolution_of_different_sides() -> None:
    module = build(lambda: nn.Conv2d(2, 4, (3, 1), stride=(1, 2), padding=(0, 2), dilation=(2, 1), groups=2))
    agree(module, values(3, 2, 8, 5), 0.7)
    agree(module, values(3, 2, 5, 8).mT, 0.7)


@properties
@given(
    records, st.lists(sizes, max_size=2), sizes, st.one_of(st.none(), st.integers(0, 2)), clip_norms, dtypes
)
def test_embedding(
    count: int, places: list[int], width: int, padding: int | None, clip_norm: float, dtype: torch.dtype
) -> None:
    module = build(lambda: nn.Embedding(3, width, padding_idx=padding), dtype)
    agree(module, indices(3, count, *places), clip_norm)


@properties
@given(
    records,
    st.lists(st.integers(2, 5), min_size=1, max_size=3),
    st.integers(1, 3),
    st.booleans(),
    clip_norms,
    dtypes,
)
def test_layer_norm(
    count: int, shape: list[int], normal: int, bias: bool, clip_norm: float, dtype: torch.dtype
) -> None:
    module = build(lambda: nn.LayerNorm(shape[-normal:], bias=bias), dtype)
    agree(module, values(count, *shape, dtype=dtype), clip_norm)


@properties
@given(records, st.sampled_from([(1, 3), (2, 4), (3, 3)]), st.lists(sizes, max_size=2), clip_norms, dtypes)
def test_group_norm(
    count: int, channels: tuple[int, int], places: list[int], clip_norm: float, dtype: torch.dtype
) -> None:
    module = build(lambda: nn.GroupNorm(*channels), dtype)
    agree(module, values(count, channels[1], *places, 2, dtype=dtype), clip_norm)


@pytest.mark.parametrize(("ours", "theirs"), [(GRU, nn.GRU), (LSTM, nn.LSTM)])
def test_recurrent_layers_are_those_of_torch(ours: type[nn.Module], theirs: type[nn.Module]) -> None:
    own, other = build(lambda: ours(3, 4, 2)), build(lambda: theirs(3, 4, 2, batch_first=True))
    with torch.no_grad():
        for at, layer in enumerate(own.layers):  # type: ignore[arg-type]
            for name, kind in product(("weight", "bias"), ("inputs", "states")):
                parameter = getattr(other, f"{name}_{'ih' if kind == 'inputs' else 'hh'}_l{at}")
                getattr(getattr(layer, kind), name).copy_(parameter)
    (states, ends), (their_states, their_ends) = own(values(5, 6, 3)), other(values(5, 6, 3))
    torch.testing.assert_close(states, their_states)
    torch.testing.assert_close(ends, their_ends)


@pytest.mark.parametrize("clip_norm", CLIP_NORMS)
@pytest.mark.parametrize("kind", [GRU, LSTM])
def test_recurrent_layers(quick: None, kind: type[nn.Module], clip_norm: float) -> None:
    module = build(lambda: nn.Sequential(kind(3, 4, 2), Apply(lambda found: found[0]), nn.Linear(4, 2)))
    agree(module, values(4, 6, 3), clip_norm)
