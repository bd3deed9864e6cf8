"""Sums of clipped gradients against the slow obvious way: one record, one backward pass at a time."""

import logging
import math
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from p2pfl.node.errors import PrivacyError
from p2pfl.node.training.clipping import GRU, LSTM, ClippedGradient
from p2pfl.node.training.clipping import gradient as clipping_gradient
from p2pfl.node.training.clipping.chain import Chain
from p2pfl.node.training.clipping.terms import squares

CLIP_NORMS = (1e-9, 0.05, 0.7, 5.0, math.inf)


@pytest.fixture(autouse=True)
def _nothing_said_yet() -> None:
    clipping_gradient._warn.cache_clear()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Any:
        return self.function(values)


def spread(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that depends on every output in a way of its own; ``targets`` scale a record's gradient."""
    flat = outputs.reshape(len(outputs), -1)
    return (torch.sin(flat + torch.arange(flat.shape[1]).to(flat)) * targets[:, None].to(flat)).sum(1)


def gradients(module: nn.Module, inputs: Tensor, targets: Tensor) -> list[Tensor]:
    """Of every record, as vectors in the order of named_parameters()."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    found = []
    for at in range(len(inputs)):
        loss = spread(module(inputs[at : at + 1]), targets[at : at + 1])[0]
        parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        found.append(torch.cat([part.flatten() for part in parts]))
    return found


def oracle(module: nn.Module, inputs: Tensor, targets: Tensor, clip_norm: float) -> Tensor:
    total = torch.zeros(sum(p.numel() for p in module.parameters() if p.requires_grad)).double()
    for gradient in gradients(module, inputs, targets):
        norm = float(gradient.double().norm())
        total += gradient.double() * (1.0 if norm <= clip_norm else clip_norm / norm)
    return total


def agree(
    module: nn.Module,
    inputs: Tensor,
    clip_norm: float,
    memory: int = 1 << 26,
    slopes: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> ClippedGradient:
    """Asserts that the sum is the oracle's, to 1e-11 of the largest it can be in float64, 1e-3 in float32."""
    targets = torch.linspace(-2.0, 2.0, len(inputs))
    clipped = ClippedGradient(module, spread, slopes, memory)
    expected = oracle(module, inputs, targets, clip_norm)
    found = clipped(inputs, targets, clip_norm)
    exact = found.dtype == torch.float64
    norms = [min(clip_norm, float(gradient.norm())) for gradient in gradients(module, inputs, targets)]
    assert found.shape == expected.shape == (clipped.dimension,)
    assert float((found.double() - expected).norm()) <= (1e-11 if exact else 1e-3) * sum(norms)
    assert clipped.left_out == 0
    return clipped


def build(make: Callable[[], nn.Module], dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    return make().to(dtype)


def values(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(dtype)


def indices(most: int, *shape: int) -> Tensor:
    return torch.randint(most, shape, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def quick(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Asserts that nothing had to be taken a record at a time."""
    yield
    assert not caplog.records


clip_norms = st.sampled_from(CLIP_NORMS)
dtypes = st.sampled_from([torch.float64, torch.float32])
records = st.integers(1, 4)
sizes = st.integers(1, 5)
properties = settings(max_examples=25, deadline=None)


# -- layers


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


# -- compositions


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


@composition
@pytest.mark.parametrize("clip_norm", CLIP_NORMS)
def test_compositions(quick: None, make: Callable[[], nn.Module], inputs: Tensor, clip_norm: float) -> None:
    agree(build(make), inputs, clip_norm)


@composition
def test_single_precision(quick: None, make: Callable[[], nn.Module], inputs: Tensor) -> None:
    agree(build(make, torch.float32), inputs if inputs.dtype == torch.int64 else inputs.float(), 0.7)


@composition
def test_frozen_parameters_are_no_part_of_it(
    quick: None, make: Callable[[], nn.Module], inputs: Tensor
) -> None:
    module = build(make)
    names = [name for name, _ in module.named_parameters()]
    for frozen in names:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name != frozen)
        clipped = agree(module, inputs, 0.7)
        assert [slot.name for slot in clipped.layout] == [name for name in names if name != frozen]


@composition
@pytest.mark.parametrize("memory", [0, 4000, 20000])
def test_large_batches_go_in_blocks(make: Callable[[], nn.Module], inputs: Tensor, memory: int) -> None:
    agree(build(make), inputs, 0.7, memory)


@pytest.mark.parametrize("channels", [1, 2])
def test_images_lie_with_channels_last(quick: None, channels: int) -> None:
    """In the usual order torch takes several times as long to pool them."""

    def look(values: Tensor) -> Tensor:
        seen.append(values.is_contiguous(memory_format=torch.channels_last))
        return values

    seen: list[bool] = []
    layers = nn.Conv2d(channels, 4, 3), Apply(look), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    module, inputs = build(lambda: nn.Sequential(*layers)), values(9, channels, 6, 6)
    agree(module, inputs, 0.7)
    seen.clear()
    clipped = ClippedGradient(module, spread)
    for clip_norm in (0.7, math.inf):
        clipped(inputs, torch.ones(len(inputs)), clip_norm)
    assert seen == [True] * 3  # two records are tried first


def test_a_module_that_counts_on_the_usual_order_gets_it(quick: None) -> None:
    rows = Apply(lambda values: values.view(len(values), -1))
    agree(build(lambda: nn.Sequential(nn.Conv2d(2, 4, 3), rows, nn.Linear(16, 3))), values(9, 2, 4, 4), 0.7)


def test_blocks_are_of_the_records_that_fit() -> None:
    seen: list[int] = []

    def look(values: Tensor) -> Tensor:
        seen.append(len(values))
        return values

    module = nn.Sequential(Apply(look), nn.Linear(1000, 1))
    clipped = ClippedGradient(module, spread, memory=1 << 15)
    clipped(torch.ones(100, 1000), torch.ones(100), 1.0)
    assert sum(seen[1:]) == 100
    assert seen[0] == 2
    assert 2 <= max(seen) <= 8


# -- chains


def slopes(outputs: Tensor, targets: Tensor) -> Tensor:
    """∂ spread / ∂ outputs."""
    flat = outputs.reshape(len(outputs), -1)
    slope = torch.cos(flat + torch.arange(flat.shape[1]).to(flat)) * targets[:, None].to(flat)
    return slope.view(outputs.shape)


class Hidden(nn.ModuleList):
    """A chain in words of its own."""

    def __init__(self) -> None:
        super().__init__([nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 1)])

    def forward(self, values: Tensor) -> Any:
        values = values.flatten(1)
        for at, layer in enumerate(self):
            values = layer(values if at == 0 else torch.tanh(values))
        return values.squeeze(-1)


CHAINS = {
    "linear": (lambda: nn.Linear(6, 3), values(9, 6)),
    "on sequences": (
        lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)),
        values(9, 2, 6),
    ),
    "of modules": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)),
        values(9, 2, 3),
    ),
    "in words": (Hidden, values(9, 3, 2)),
}
chain = pytest.mark.parametrize(("make", "inputs"), CHAINS.values(), ids=list(CHAINS))


@chain
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("clip_norm", CLIP_NORMS)
def test_chains(
    quick: None, make: Callable[[], nn.Module], inputs: Tensor, clip_norm: float, dtype: torch.dtype
) -> None:
    clipped = agree(build(make, dtype), inputs.to(dtype), clip_norm, slopes=slopes)
    assert isinstance(clipped._engine, Chain)


@chain
def test_chains_with_frozen_parameters(make: Callable[[], nn.Module], inputs: Tensor) -> None:
    module = build(make)
    for frozen, _ in module.named_parameters():
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name != frozen)
        agree(module, inputs, 0.7, slopes=slopes)


@composition
def test_what_is_no_chain_does_without_slopes(
    quick: None, make: Callable[[], nn.Module], inputs: Tensor
) -> None:
    agree(build(make), inputs, 0.7, slopes=slopes)


def test_wrong_slopes_are_refused() -> None:
    clipped = ClippedGradient(build(lambda: nn.Linear(6, 3)), spread, lambda outputs, targets: outputs)
    with pytest.raises(ValueError, match="slopes"):
        clipped(values(4, 6), torch.ones(4), 1.0)


# -- batches


@composition
def test_no_records_give_zero(make: Callable[[], nn.Module], inputs: Tensor) -> None:
    clipped = ClippedGradient(build(make), spread)
    for clip_norm in (0.7, math.inf):
        assert not clipped(inputs[:0], torch.empty(0), clip_norm).any()
    agree(clipped._module, inputs, 0.7)


@composition
def test_batches_may_vary(quick: None, make: Callable[[], nn.Module], inputs: Tensor) -> None:
    module, out = build(make), torch.empty(0)
    clipped = ClippedGradient(module, spread)
    out = torch.full_like(clipped.vector, math.nan)
    for count in (1, 9, 0, 4, 1):
        targets = torch.ones(count)
        found = clipped(inputs[:count], targets, 0.7, out=out)
        assert found is out
        torch.testing.assert_close(found, oracle(module, inputs[:count], targets, 0.7), rtol=0, atol=1e-11)


def test_the_vector_is_the_module() -> None:
    module = build(images_of_two)
    clipped = ClippedGradient(module, spread)
    kept = clipped.read()
    parts = [parameter.detach().flatten() for parameter in module.parameters()]
    assert torch.equal(kept, torch.cat(parts))
    clipped.write(torch.zeros(clipped.dimension, dtype=torch.float64))
    assert not any(parameter.any() for parameter in module.parameters())
    assert kept.any()
    for slot, parameter in zip(clipped.layout, module.parameters(), strict=True):
        assert slot.shape == parameter.shape
        assert slot.stop - slot.start == parameter.numel()
    clipped.vector[clipped.layout[0].start] = 3.0
    assert next(module.parameters()).flatten()[0] == 3.0


@pytest.mark.parametrize("clip_norm", [0.0, -1.0, math.nan, 1e-20])
def test_clip_norms_that_cannot_be(clip_norm: float) -> None:
    clipped = ClippedGradient(nn.Linear(2, 1), spread)
    with pytest.raises(ValueError, match="clip norm"):
        clipped(torch.ones(1, 2), torch.ones(1), clip_norm)


def test_losses_are_one_per_record() -> None:
    clipped = ClippedGradient(nn.Linear(2, 1), lambda outputs, targets: (outputs[:, 0] - targets).mean())
    with pytest.raises(ValueError, match="one per record"):
        clipped(torch.ones(3, 2), torch.ones(3), 1.0)


def test_parameters_of_two_kinds_are_no_vector() -> None:
    with pytest.raises(ValueError, match="float32 or float64"):
        ClippedGradient(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), spread)
    with pytest.raises(ValueError, match="float32 or float64"):
        ClippedGradient(nn.Linear(2, 2).requires_grad_(False), spread)


# -- bounds


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(COMPOSITIONS)),
    st.integers(0, 8),
    st.floats(1e-9, 1e6),
    st.floats(1e-6, 1e6),
    dtypes,
)
def test_no_record_exceeds_the_clip_norm(
    name: str, at: int, clip_norm: float, scale: float, dtype: torch.dtype
) -> None:
    make, inputs = COMPOSITIONS[name]
    record = inputs[at : at + 1] if inputs.dtype == torch.int64 else inputs[at : at + 1].to(dtype) * scale
    clipped = ClippedGradient(build(make, dtype), spread)
    slack = 2.0**-10 if dtype == torch.float32 else 2.0**-40
    norm = clipped(record, torch.tensor([scale]), clip_norm).double().norm()
    assert norm <= clip_norm * (1 + slack)


@pytest.mark.parametrize("entries", [512, 4096, 1 << 16])
def test_what_is_too_small_to_add_hides_no_norm(entries: int) -> None:
    """Beside a one, what is below half a unit of rounding vanishes in its lane."""
    vector = torch.full((entries,), 2.0**-13)
    vector[0] = 1.0
    assert float(squares(vector)) >= float(vector.double().square().sum())


@pytest.mark.parametrize("closeness", [1e-2, 1e-4, 1e-5, 1e-6])
def test_cancellation_hides_no_norm(closeness: float) -> None:
    """Two positions whose gradients nearly cancel: what is left, single precision cannot see in the products
    of positions, and yet it must not escape the bound.
    """
    for seed in range(20):
        torch.manual_seed(seed)
        difference = Apply(lambda found: found[:, 0] - found[:, 1])
        module = nn.Sequential(nn.Linear(64, 64, bias=False), difference)
        first = torch.randn(1, 1, 64)
        inputs = torch.cat([first, first * (1 + closeness * torch.randn(1, 1, 64))], 1)
        left = float(8 * (inputs[0, 0].double() - inputs[0, 1].double()).norm())
        clipped = ClippedGradient(module, lambda outputs, targets: outputs.sum(1))
        for clip_norm in (left / 100, left / 2, left):
            norm = clipped(inputs, torch.ones(1), clip_norm).double().norm()
            assert norm <= clip_norm * (1 + 2.0**-10)


@pytest.mark.parametrize("positions", [0, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_underflow_hides_no_norm(positions: int, dtype: torch.dtype) -> None:
    """A huge input and a tiny slope: the square of the slope is zero, and the gradient is not."""
    module = nn.Sequential(nn.Linear(64, 64, bias=False)).to(dtype)
    clipped = ClippedGradient(module, lambda outputs, targets: outputs.flatten(1).sum(1) * targets)
    clipped.vector.zero_()
    huge, tiny = (2e18, 2.6e-23) if dtype == torch.float32 else (1e153, 1e-165)
    inputs = torch.full((1, *[positions] * bool(positions), 64), huge, dtype=dtype)
    slopes = torch.full((1,), tiny, dtype=dtype)
    left = 64 * huge * tiny * max(positions, 1)
    clip_norm = left / 30
    assert clip_norm > 1e-12
    norm = clipped(inputs, slopes, clip_norm).double().norm()
    assert clipped.left_out == 0
    assert 0 < norm <= clip_norm * (1 + 2.0**-10)


def test_one_record_more_moves_a_large_sum_by_no_more_than_the_clip_norm() -> None:
    """Its part is C at most; but in single precision the sum of so many is rounded to 2^-8 C."""
    module = nn.Linear(1000, 1, bias=False)
    clipped = ClippedGradient(module, lambda outputs, targets: outputs[:, 0] * targets)
    inputs = torch.full((1, 1000), 1000**-0.5).expand((1 << 16) + 1, 1000)
    whole, fewer = (clipped(some, torch.ones(len(some)), 1.0) for some in (inputs, inputs[1:]))
    assert float((whole.double() - fewer.double()).norm()) <= 1 + 2.0**-10
    assert whole.double().norm() == pytest.approx(len(inputs), rel=1e-4)


@pytest.mark.parametrize("records", [128, 300, 512, 513])
def test_a_few_hundred_records_are_added_up_in_float32_and_more_in_float64(records: int) -> None:
    module, slower = (build(lambda: nn.Linear(1000, 9, bias=False), torch.float32) for _ in range(2))
    inputs, targets = values(records, 1000, dtype=torch.float32), torch.ones(records)
    found = ClippedGradient(module, spread)(inputs, targets, 0.7)
    exact = ClippedGradient(slower.double(), spread)(inputs.double(), targets.double(), 0.7)
    assert found.dtype == (torch.float32 if records <= 512 else torch.float64)
    assert float((found.double() - exact).norm()) < 0.7 * 2.0**-9
    out = torch.empty_like(found)
    assert ClippedGradient(module, spread)(inputs, targets, 0.7, out=out) is out
    assert torch.equal(out, found)


@pytest.mark.parametrize("clip_norm", [0.7, math.inf])
@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e25])
@composition
def test_what_is_not_finite_counts_as_zero(
    make: Callable[[], nn.Module], inputs: Tensor, poison: float, clip_norm: float
) -> None:
    module, targets = build(make, torch.float32), torch.ones(len(inputs))
    inputs = inputs if inputs.dtype == torch.int64 else inputs.float()
    clipped = ClippedGradient(module, spread)
    expected = clipped(torch.cat([inputs[:2], inputs[3:]]), torch.ones(len(inputs) - 1), clip_norm)
    targets[2] = poison
    found = clipped(inputs, targets, clip_norm)
    assert clipped.left_out == (1 if poison != 1e25 or clip_norm != math.inf else 0)
    if clipped.left_out:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    clipped(inputs, torch.ones(len(inputs)), clip_norm)
    assert clipped.left_out == 0
    assert not clipped(inputs, torch.full((len(inputs),), math.nan), clip_norm).any()
    assert clipped.left_out == len(inputs)


# -- other ways


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


def test_the_module_is_as_before() -> None:
    """No hooks stay, and no gradients; parameters are what they were."""
    module = build(images_of_two)
    before = [parameter.clone() for parameter in module.parameters()]
    inputs = values(4, 2, 5, 5)
    ClippedGradient(module, lambda o, t: cross_entropy(o, t, reduction="none"))(inputs, indices(3, 4), 1.0)
    for parameter, kept in zip(module.parameters(), before, strict=True):
        assert torch.equal(parameter, kept)
        assert parameter.grad is None
    assert not any(layer._forward_hooks for layer in module.modules())
