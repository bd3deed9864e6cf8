"""A mask is the plain keystream of its seed, word by word in three widths, and it cancels."""

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
from p2pfl.crypto.masks import add_mask, subtract_mask
from p2pfl.crypto.randomness import Keystream
from p2pfl.crypto.ring import RING_16, RING_32, RING_64, Ring, RingVector

RINGS = [RING_16, RING_32, RING_64]
seeds = st.binary(min_size=32, max_size=32)
each_ring = pytest.mark.parametrize("ring", RINGS, ids=lambda ring: f"{ring.bits} bits")


def oracle(seed: bytes, length: int, ring: Ring = RING_32) -> RingVector:
    """The mask of ``seed``, by one plain call of the cipher."""
    stream = Cipher(AES(seed), CTR(bytes(16))).encryptor().update(bytes(ring.bytes * length))
    words = [
        int.from_bytes(stream[at : at + ring.bytes], "little") for at in range(0, len(stream), ring.bytes)
    ]
    return np.array(words, ring.dtype)


@each_ring
@pytest.mark.parametrize("length", [0, 1, 2, 3, 14, 1000, (1 << 15) - 1, 1 << 15, (1 << 15) + 1, 100_003])
def test_mask_is_the_keystream(length: int, ring: Ring) -> None:
    seed = bytes(range(32))
    values = np.random.default_rng(0).integers(0, 2**ring.bits, length, ring.dtype)
    expected = values + oracle(seed, length, ring)
    add_mask(values, seed)
    assert np.array_equal(values, expected)


@given(seeds, st.integers(0, 200), st.sampled_from(RINGS))
def test_subtract_undoes_add(seed: bytes, length: int, ring: Ring) -> None:
    values = np.arange(length, dtype=ring.dtype)
    add_mask(values, seed)
    subtract_mask(values, seed)
    assert np.array_equal(values, np.arange(length, dtype=ring.dtype))


@given(st.integers(2, 6), st.integers(0, 50), st.sampled_from(RINGS), st.data())
def test_pairwise_masks_cancel_in_the_sum(members: int, length: int, ring: Ring, data: st.DataObject) -> None:
    inputs = [np.full(length, 2**ring.bits - 1 - i, ring.dtype) for i in range(members)]
    masked = [values.copy() for values in inputs]
    for i in range(members):
        for j in range(i + 1, members):
            seed = data.draw(seeds)
            add_mask(masked[i], seed)
            subtract_mask(masked[j], seed)
    total = np.sum(masked, axis=0, dtype=ring.dtype)
    assert np.array_equal(total, np.sum(inputs, axis=0, dtype=ring.dtype))


def test_a_strided_view_is_masked_in_place() -> None:
    values = np.zeros(200_000, np.uint32)
    add_mask(values[::2], bytes(32))
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
        threading.Thread(target=add_mask, args=(result, bytes([i]) * 32)) for i, result in enumerate(results)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(results[0], oracle(bytes(32), 1000))
    assert np.array_equal(results[1], oracle(b"\x01" * 32, 1000))


def test_no_memory_is_allocated_per_mask() -> None:
    values = np.zeros(1_000_000, np.uint32)
    add_mask(values, bytes(32))
    tracemalloc.start()
    try:
        add_mask(values, bytes(32))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4096


def test_other_arrays_and_seeds_are_refused() -> None:
    for values in (np.zeros(4, np.int32), np.zeros(4, np.uint8), np.zeros(4, ">u4"), np.zeros((2, 2), "<u4")):
        for operation in (add_mask, subtract_mask):
            with pytest.raises(ValueError, match="vector over a ring"):
                operation(values, bytes(32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 bytes"):
        add_mask(np.zeros(4, np.uint32), bytes(16))
    read_only = np.zeros(4, np.uint32)
    read_only.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        add_mask(read_only, bytes(32))
