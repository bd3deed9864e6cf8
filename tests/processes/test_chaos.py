"""Real daemons that are killed at random moments and come back: no round is lost without a word, nobody's
ledger or model is harmed, and in the end they all have the same one.
"""

import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from real_federation import Federation, Member, wait_until

from p2pfl.node.storage.identity_file import load_identity
from p2pfl.node.storage.receipts import Receipt
from p2pfl.node.storage.store import Store

TIMING = {
    "gather_seconds = 3.0\nready_seconds = 3.0\nphase_seconds = 3.0\nround_seconds = 12.0": (
        "gather_seconds = {0}\nready_seconds = {0}\nphase_seconds = {0}\nround_seconds = 60.0"
    )
}
pytestmark = pytest.mark.slow

PATIENCE = 600
"""Seconds that anything at all may take: how the deaths are spread over the rounds does not depend on how
fast the machine is.
"""


class Chaos:
    """Kills members, up to ``most`` dead at a time and never those it ``spares``, and starts each again some
    rounds later.
    """

    def __init__(self, federation: Federation, most: int, seed: int, spares: Sequence[Member] = ()) -> None:
        self.federation = federation
        self.most = most
        self.kills = 0
        self.random = random.Random(seed)
        self.back: dict[str, int] = {}
        self._spares = spares
        self._strike_at = self.round + 1

    @property
    def alive(self) -> list[Member]:
        return [member for member in self.federation.members if member.peer not in self.back]

    @property
    def round(self) -> int:
        return max(int(member.status.get("round", -1)) for member in self.federation.members)

    def run(self, until: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while (round := self.round) < until:
            assert time.monotonic() < deadline, f"round {round} of {until} after {PATIENCE} s"
            self.step(round)
            time.sleep(self.random.uniform(0.05, 0.5))
        self._return(until + PATIENCE)

    def step(self, round: int) -> None:
        """What is due in ``round``."""
        self._all_run()
        self._return(round)
        if round >= self._strike_at and len(self.back) < self.most:
            self._strike(round)
            self._strike_at = round + self.random.randint(1, 3)

    def _all_run(self) -> None:
        for member in self.alive:
            assert member.process is not None
            assert member.process.poll() is None, member.log

    def _strike(self, round: int) -> None:
        victim = self.random.choice([member for member in self.alive if member not in self._spares])
        victim.kill()
        self.kills += 1
        self.back[victim.peer] = round + self.random.randint(1, 6)

    def _return(self, round: int) -> None:
        for member in self.federation.members:
            if self.back.get(member.peer, round + 1) <= round:
                del self.back[member.peer]
                self.federation.start(member)


def _receipts(member: Member) -> list[Receipt]:
    """The rounds of ``member``, once its ledger, its journal and every signature in it have been verified."""
    with Store.open(
        member.directory / "state", load_identity(member.directory / "identity.key"), readonly=True
    ) as store:
        store.verify()
        kept = store.receipts()
    assert not [wrong for one in kept if (wrong := one.false())]
    return [one.receipt for one in kept]


@pytest.mark.parametrize(
    ("members", "size", "rounds", "most", "seconds"),
    [
        pytest.param(5, 4, 40, 1, 5.0, id="5"),
        pytest.param(12, 8, 120, 4, 12.0, id="12"),
    ],
)
def test_killed_at_random_they_end_with_one_model(
    tmp_path: Path, members: int, size: int, rounds: int, most: int, seconds: float
) -> None:
    change = {old: new.format(seconds) for old, new in TIMING.items()} | {"size = 4": f"size = {size}"}
    federation = Federation(tmp_path, members, rounds=rounds, change=change)
    try:
        for member in federation.members:
            federation.start(member)
        wait_until(lambda: all(m.status.get("completed") for m in federation.members), PATIENCE, "a round")
        chaos = Chaos(federation, most, seed=members)
        chaos.run(until=rounds - 4)
        for member in federation.members:
            ended = lambda: member.status.get("phase") == "done"  # noqa: B023, E731
            wait_until(ended, PATIENCE, f"the end: {member.log}")
        for member in federation.members:
            assert member.process is not None
            member.process.send_signal(signal.SIGTERM)
        for member in federation.members:
            assert member.wait(60) == 0, member.log
    finally:
        federation.stop()
    print(f"{chaos.kills} times a member was killed")
    assert chaos.kills >= rounds // 12
    _agree(federation, rounds)


def _agree(federation: Federation, rounds: int) -> None:
    models = {Path(member.status["model"]).read_bytes() for member in federation.members}
    assert len(models) == 1
    assert all(0 < member.status["epsilon"] <= 8.0 for member in federation.members)
    assert "Traceback" not in "".join(member.log for member in federation.members)
    completed = [one for member in federation.members for one in _receipts(member) if one.completed]
    by_round: dict[int, dict[bytes, Receipt]] = {}
    for one in completed:
        first = by_round.setdefault(one.round, {}).setdefault(one.roster, one)
        assert (first.survivors, first.result) == (one.survivors, one.result), "one roster, one sum"
    for sums in by_round.values():
        everybody = [peer for one in sums.values() for peer in one.survivors]
        assert len(everybody) == len(set(everybody)), "nobody is in two sums of a round"
    apart = sum(len(sums) > 1 for sums in by_round.values())
    print(f"{len(by_round)} of {rounds} rounds completed, {apart} of them by two rosters apart")
    assert len(by_round) >= rounds // 2
