"""The arithmetic of thresholds, against a search over all ways in which members may help."""

import pytest

from p2pfl.gossip.thresholds import Thresholds, thresholds


@pytest.mark.parametrize(
    ("members", "colluders", "threshold", "drops"),
    [(3, 1, 3, 0), (4, 1, 3, 1), (5, 2, 4, 1), (6, 3, 5, 1), (8, 3, 6, 2), (10, 3, 7, 3), (16, 5, 11, 5)],
)
def test_known_rows(members: int, colluders: int, threshold: int, drops: int) -> None:
    assert thresholds(members, colluders) == Thresholds(members, colluders, threshold, threshold, drops)


@pytest.mark.parametrize(
    ("members", "colluders"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (4, -1), (2, 2)]
)
def test_too_small_to_hide_anyone(members: int, colluders: int) -> None:
    with pytest.raises(ValueError):
        thresholds(members, colluders)


def two_sets_possible(members: int, colluders: int, threshold: int) -> bool:
    """Whether honest members can be split in two that both reach it with the colluders."""
    honest = members - colluders
    return any(
        part + colluders >= threshold and honest - part + colluders >= threshold for part in range(honest + 1)
    )


@pytest.mark.parametrize("members", range(2, 33))
def test_it_is_the_smallest_that_leaves_no_room_for_two_sets(members: int) -> None:
    for colluders in range(members):
        try:
            got = thresholds(members, colluders)
        except ValueError:
            assert members < colluders + 3 or colluders == 0, (members, colluders)
            continue
        assert not two_sets_possible(members, colluders, got.threshold)
        assert two_sets_possible(members, colluders, got.threshold - 1) or got.threshold - 1 <= colluders
        assert got.minimum_survivors - colluders >= 2
        assert got.tolerated_drops == members - got.threshold >= 0
