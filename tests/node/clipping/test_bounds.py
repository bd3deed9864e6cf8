"""No record adds more than the clip norm, whatever rounding, overflow and underflow do."""

import math
from collections.abc import Callable

import pytest
import torch
from clipping.compositions import COMPOSITIONS, composition
from clipping.oracle import Apply, build, dtypes, spread, values
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from p2pfl.node.training.clipping import ClippedGradient
from p2pfl.node.training.clipping.terms import squares


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
