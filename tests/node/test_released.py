import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.gossip.canonical import pack
from p2pfl.node.released import Released

finite = st.floats(allow_nan=False, allow_infinity=False)


def released(
    round: int = 3, statistics: list[float] | None = None, parameters: list[float] | None = None
) -> Released:
    return Released(round, 1, np.array(statistics or [1.0, 2.0]), np.array(parameters or [0.5]))


@given(
    st.integers(0, 1 << 39),
    st.lists(finite, min_size=1, max_size=5),
    st.lists(finite, min_size=1, max_size=5),
)
def test_round_trip(round: int, statistics: list[float], parameters: list[float]) -> None:
    original = Released(round, 0, np.array(statistics), np.array(parameters))
    copy = Released.from_untrusted(original.to_bytes(), len(statistics), len(parameters))
    assert copy.digest == original.digest
    assert copy.round == round
    assert np.array_equal(copy.parameters, original.parameters)


def test_digest_names_round_and_values() -> None:
    digests = {
        released().digest,
        released(round=4).digest,
        released(statistics=[1.0, 2.5]).digest,
        released(parameters=[0.25]).digest,
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pack([1, 2, b"", b""]),
        pack([-1, 0, bytes(16), bytes(8)]),
        pack([1, 1 << 41, bytes(16), bytes(8)]),
        pack([1, 0, bytes(16), bytes(9)]),
        pack([1, 0, np.array([np.nan, 0.0]).tobytes(), bytes(8)]),
        pack([True, "0", bytes(16), bytes(8)]),
        bytes(1000),
    ],
)
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Released.from_untrusted(data, 2, 1)


@pytest.mark.parametrize("sizes", [(1, 1), (31, 32), (8191, 8192), (5, 10_000)])
def test_any_size_comes_back(sizes: tuple[int, int]) -> None:
    statistics, parameters = (np.arange(size, dtype=np.float64) for size in sizes)
    original = Released(7, 1, statistics, parameters)
    assert Released.from_untrusted(original.to_bytes(), *sizes).digest == original.digest


def test_lists_in_the_place_of_vectors_are_not_built() -> None:
    """A parser that knows nothing of vectors makes a hundred bytes of each."""
    count = 100_000
    bomb = b"\x94\x01\x00\xdd" + count.to_bytes(4, "big") + b"\x90" * (8 * count)
    tracemalloc.start()
    with pytest.raises(ValueError):
        Released.from_untrusted(bomb, 2, count)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(bomb)


@given(st.binary(max_size=100))
def test_any_bytes_parse_or_raise_value_error(data: bytes) -> None:
    try:
        Released.from_untrusted(data, 2, 1)
    except ValueError:
        pass
