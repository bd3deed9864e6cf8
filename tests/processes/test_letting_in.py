"""Members that are put out, renew their tickets and change their keys, while real nodes run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from real_federation import Federation, Member, p2pfl, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def four(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path, 4, rounds=500, epoch_rounds=3)
    for member in made.members:
        made.start(member)
    yield made
    made.stop()


def rounds_of(member: Member) -> int:
    return int(member.status.get("training_completed", 0))


def test_revoked_renewed_rotated_and_the_rest_go_on(four: Federation) -> None:
    *honest, revoked = four.members
    met = lambda member: member.status.get("connected") == 3  # noqa: E731
    wait_until(lambda: all(map(met, four.members)) and max(map(rounds_of, four.members)) >= 2, 180, "rounds")
    revoke(four, revoked)
    for member in honest:
        wait_until(lambda: f"{revoked.peer} is excluded" in member.log, 30, "it spreads")  # noqa: B023
    wait_until(lambda: "this node is excluded: issuers revoked it" in revoked.log, 30, "it is told")
    waiting = honest[0].directory / "state" / "statements"
    wait_until(lambda: not list(waiting.iterdir()), 15, "it is in the journal")

    four.ticket(honest[1], "--days", "90")
    wait_until(lambda: "the ticket was renewed" in honest[1].log, 30, "it is read")

    spent = len(ledger(honest[2]))
    old = rotate(four, honest[2])
    for member in honest[:2]:
        wait_until(lambda: f"peer {old} takes part no more" in member.log, 180, old)  # noqa: B023
    wait_until(going_on(honest), 180, "rounds of the three")
    assert honest[2].peer in honest[0].status["group"]
    assert len(ledger(honest[2])) > spent
    shown = p2pfl("status", "--config", honest[1].directory / "node.toml").stdout
    assert "ticket: 90.0 days left" in shown
    assert f"excluded: {revoked.peer}: issuers revoked it: left the consortium" in shown
    assert f"excluded: {old}: its organisation changed its key: it is {honest[2].peer} now" in shown
    assert "Traceback" not in "".join(member.log for member in four.members)


def revoke(four: Federation, member: Member) -> None:
    statement = four.directory / "statement.txt"
    p2pfl(
        "federation", "revoke", member.peer, "--federation", four.manifest, "--reason", "left the consortium",
        "--identity", four.directory / "issuer" / "identity.key", "--out", statement,
    )  # fmt: skip
    p2pfl("federation", "deliver", statement, "--config", four.members[0].directory / "node.toml")


def rotate(four: Federation, member: Member) -> str:
    """Returns the peer id that it had."""
    old, config = member.peer, member.directory / "node.toml"
    member.kill()
    member.peer = p2pfl("rotate", "--config", config).stdout.strip()
    four.start(member)
    return old


def going_on(members: list[Member]) -> Callable[[], bool]:
    reached = max(map(rounds_of, members))
    return lambda: min(map(rounds_of, members)) >= reached + 4


def ledger(member: Member) -> list[object]:
    from p2pfl.node.storage.identity_file import load_identity
    from p2pfl.node.storage.store import Store

    identity = load_identity(member.directory / "identity.key")
    with Store.open(member.directory / "state", identity, readonly=True) as store:
        return list(store.charges())
