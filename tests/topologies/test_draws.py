from collections import Counter
from itertools import permutations

import pytest

from p2pfl.topologies.draws import Draws


def test_words_are_frozen() -> None:
    # SHA-256(b"label" 00 SHA-256(b"key") 0000000000000007 counter), cut into four words each.
    draws = Draws(b"label", b"key", 7)
    assert [draws.word() for _ in range(5)] == [
        0xDC6C6408187AB168,
        0xA982A4994188D08A,
        0xE91D74A86E05DDAF,
        0x65F2F31744F714E8,
        0xDEE65FB71561EDFA,
    ]


@pytest.mark.parametrize("bound", [1, 2, 3, 7, 1 << 63, (1 << 63) + 1, 1 << 64])
def test_below_stays_below(bound: int) -> None:
    draws = Draws(b"label", b"key")
    assert all(0 <= draws.below(bound) < bound for _ in range(200))


def test_below_draws_again_what_would_bias_it() -> None:
    # With this bound, half of all words are beyond the last (only) multiple, and taking them would show.
    bound = (1 << 63) + 1
    words, draws = Draws(b"label", b"key"), Draws(b"label", b"key")
    kept = [word for word in (words.word() for _ in range(400)) if word < bound]
    assert len(kept) < 250
    assert [draws.below(bound) for _ in kept] == kept


def test_permutations_are_uniform() -> None:
    draws = Draws(b"label", b"key")
    counts = Counter(tuple(draws.permutation("abcd")) for _ in range(24 * 400))
    assert set(counts) == set(permutations("abcd"))
    # Chi-squared with 23 degrees of freedom: below 49.7 with probability 0.999.
    assert sum((count - 400) ** 2 / 400 for count in counts.values()) < 49.7


def test_label_key_and_tweak_each_give_another_stream() -> None:
    streams = [Draws(b"a", b"k"), Draws(b"b", b"k"), Draws(b"a", b"l"), Draws(b"a", b"k", 1)]
    assert len({stream.word() for stream in streams}) == 4
