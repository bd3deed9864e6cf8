"""A mask is the plain keystream of its seed, word by word, and it cancels."""

import threading
import tracemalloc
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from p2pfl.crypto import masks
from p2pfl.crypto.masks import Mask
from p2pfl.crypto.randomness import Keystream

seeds = st.binary(min_size=32, max_size=32)


def oracle(seed: bytes, length: int, width: int = 4) -> NDArray[Any]:
    """The mask of ``seed``, in words of ``width`` bytes, by one plain call of the cipher."""
    stream = Cipher(AES(seed), CTR(bytes(16))).encryptor().update(bytes(width * length))
    words = [int.from_bytes(stream[width * i : width * (i + 1)], "little") for i in range(length)]
    return np.array(words, dtype=f"<u{width}")


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("length", [0, 1, 2, 3, 14, 1000, (1 << 15) - 1, 1 << 15, (1 << 15) + 1, 100_003])
def test_mask_is_the_keystream(length: int, width: int) -> None:
    seed = bytes(range(32))
    values = (np.arange(length, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(f"<u{width}")
    expected = values + oracle(seed, length, width)
    Mask(seed).add_to(values)
    assert np.array_equal(values, expected)


@given(seeds, st.sampled_from((2, 4, 8)), st.lists(st.integers(0, 100), max_size=8))
def test_slices_go_on_where_the_last_one_ended(seed: bytes, width: int, lengths: list[int]) -> None:
    values = np.zeros(sum(lengths), f"<u{width}")
    mask, start = Mask(seed), 0
    for length in lengths:
        mask.add_to(values[start : start + length])
        start += length
    assert np.array_equal(values, oracle(seed, len(values), width))


@given(seeds, st.integers(0, 200))
def test_subtract_undoes_add(seed: bytes, length: int) -> None:
    values = np.arange(length, dtype=np.uint32)
    Mask(seed).add_to(values)
    Mask(seed).take_from(values)
    assert np.array_equal(values, np.arange(length, dtype=np.uint32))


@given(st.integers(2, 6), st.integers(0, 50), st.data())
def test_pairwise_masks_cancel_in_the_sum(members: int, length: int, data: st.DataObject) -> None:
    inputs = [np.full(length, 2**32 - 1 - i, np.uint32) for i in range(members)]
    masked = [values.copy() for values in inputs]
    for i in range(members):
        for j in range(i + 1, members):
            seed = data.draw(seeds)
            Mask(seed).add_to(masked[i])
            Mask(seed).take_from(masked[j])
    total = np.sum(masked, axis=0, dtype=np.uint32)
    assert np.array_equal(total, np.sum(inputs, axis=0, dtype=np.uint32))


def test_a_strided_view_is_masked_in_place() -> None:
    values = np.zeros(200_000, np.uint32)
    Mask(bytes(32)).add_to(values[::2])
    assert np.array_equal(values[::2], oracle(bytes(32), 100_000))
    assert not values[1::2].any()


def test_threads_do_not_share_the_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    both_filled = threading.Barrier(2)

    class MeetingKeystream(Keystream):
        """Lets neither thread use its block before the other has filled its own."""

        def fill(self, out: NDArray[Any]) -> None:
            super().fill(out)
            both_filled.wait(timeout=30)

    monkeypatch.setattr(masks, "Keystream", MeetingKeystream)
    results = [np.zeros(1000, np.uint32), np.zeros(1000, np.uint32)]
    threads = [
        threading.Thread(target=Mask(bytes([i]) * 32).add_to, args=(result,))
        for i, result in enumerate(results)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(results[0], oracle(bytes(32), 1000))
    assert np.array_equal(results[1], oracle(b"\x01" * 32, 1000))


def test_no_memory_is_allocated_per_mask() -> None:
    values = np.zeros(1_000_000, np.uint32)
    Mask(bytes(32)).add_to(values)
    tracemalloc.start()
    try:
        Mask(bytes(32)).add_to(values)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4096


def test_other_arrays_and_seeds_are_refused() -> None:
    for values in (
        np.zeros(4, np.int32),
        np.zeros(4, np.uint8),
        np.zeros(4, ">u4"),
        np.zeros((2, 2), np.uint32),
    ):
        for operation in (Mask(bytes(32)).add_to, Mask(bytes(32)).take_from):
            with pytest.raises(ValueError, match="a vector over a ring"):
                operation(values)
    with pytest.raises(ValueError, match="32 bytes"):
        Mask(bytes(16))
    read_only = np.zeros(4, np.uint32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        Mask(bytes(32)).add_to(read_only)
