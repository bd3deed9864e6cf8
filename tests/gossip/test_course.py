"""What a round machine says of who dropped when, and who agreed on the sum."""

import numpy as np
import pytest

from p2pfl.crypto import labels
from p2pfl.crypto.identity import verify
from p2pfl.gossip.events import Completed, Skipped
from p2pfl.gossip.messages import Result
from p2pfl.gossip.rehearsal import Rehearsal

VALUES = np.random.default_rng(1).integers(0, 2**32, (5, 5), dtype=np.uint32)
NEVER = 1e6


def require_true(rehearsal: Rehearsal) -> None:
    """Everybody who completed names all of its group, each in one place, and true signatures of one sum."""
    for peer, end in rehearsal.completed.items():
        course, dropped = end.course, [gone for gone, _ in end.course.dropped]
        assert course.group == rehearsal.group
        assert course.members == end.members
        missing = {phase for gone, phase in course.dropped if gone not in end.survivors}
        assert missing <= {"absent", "forming", "masked"}
        assert {*dropped} | {*end.survivors} == {*course.group}
        results = rehearsal.agreed[peer].results
        assert peer in {result.author for result in results} <= {*end.survivors}
        for result in results:
            assert isinstance(result, Result)
            assert (result.roster, result.survivors) == (course.roster, course.settled)
            assert verify(result.author, labels.RESULT, result.signed_bytes(), result.signature)


def test_a_round_without_faults_is_confirmed_by_all() -> None:
    rehearsal = Rehearsal(VALUES, colluders=1).run()
    require_true(rehearsal)
    assert len(rehearsal.completed) == 5
    assert all(end.course.dropped == () for end in rehearsal.completed.values())
    assert all(len(agreed.results) == 5 for agreed in rehearsal.agreed.values())


@pytest.mark.parametrize("steps", range(4, 60, 7))
def test_whoever_crashes_is_named_with_the_phase(steps: int) -> None:
    rehearsal = Rehearsal(VALUES, colluders=1, crashes={4: steps}).run()
    require_true(rehearsal)
    crashed = rehearsal.group[4]
    assert len(rehearsal.completed) >= 4
    for peer, end in rehearsal.completed.items():
        if peer != crashed:
            assert crashed in end.survivors or crashed in dict(end.course.dropped)


def test_who_is_connected_and_mute_is_told_from_who_is_away() -> None:
    mute = Rehearsal(VALUES, colluders=1, prepared_at=[0, 0, 0, 0, NEVER]).run()
    away = Rehearsal(VALUES, colluders=1, crashes={4: 0}).run()
    for rehearsal, phase in ((mute, "forming"), (away, "absent")):
        ends = [end for peer, end in rehearsal.ended.items() if peer != rehearsal.group[4]]
        assert [type(end) for end in ends] == [Completed] * 4
        assert {end.course.dropped for end in ends} == {((rehearsal.group[4], phase),)}


def test_a_skipped_round_names_who_kept_it_waiting() -> None:
    rehearsal = Rehearsal(VALUES, colluders=1, prepared_at=[0, 0, NEVER, NEVER, NEVER]).run()
    for peer in rehearsal.group[:2]:
        end = rehearsal.ended[peer]
        assert isinstance(end, Skipped)
        assert {*end.course.dropped} >= {(gone, "forming") for gone in rehearsal.group[2:]}
        assert end.course.roster == b""
