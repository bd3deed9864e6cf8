"""Real daemons over real libp2p on loopback: trained together, killed, restarted, joined late, refused."""

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from real_federation import Federation, Member, p2pfl, wait_until

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.evidence import Accusation, contradiction
from p2pfl.gossip.messages import Result
from p2pfl.gossip.wire import signed
from p2pfl.node.released import Released
from p2pfl.node.storage.identity_file import load_identity
from p2pfl.node.storage.store import Exclusion, Store

Make = Callable[..., Federation]


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Make]:
    made: list[Federation] = []

    def make(
        members: int, *, rounds: int, epoch_rounds: int = 5, change: Mapping[str, str] | None = None
    ) -> Federation:
        made.append(Federation(tmp_path, members, rounds=rounds, epoch_rounds=epoch_rounds, change=change))
        return made[0]

    yield make
    for each in made:
        each.stop()


def identity_of(member: Member) -> Identity:
    return load_identity(member.directory / "identity.key")


def released_by(member: Member) -> Released:
    with Store.open(member.directory / "state", identity_of(member), readonly=True) as store:
        store.verify()
        released = store.released()
    assert released is not None
    return released


def rounds_of(member: Member) -> int:
    return int(member.status.get("completed", 0))


def test_a_killed_member_resumes_and_all_finish_with_one_model(federation: Make) -> None:
    four = federation(4, rounds=80)
    for member in four.members:
        four.start(member, "--until-done")
    victim = four.members[2]
    wait_until(lambda: rounds_of(victim) >= 4, 180, "four rounds")
    victim.kill()
    before = len(ledger_of(victim))
    others = [member for member in four.members if member is not victim]
    reached = max(map(rounds_of, others))
    wait_until(lambda: min(map(rounds_of, others)) >= reached + 2, 180, "two rounds without the victim")
    four.start(victim, "--until-done")
    for member in four.members:
        assert member.wait(240) == 0, member.log
    assert len(ledger_of(victim)) > before
    assert len({released_by(member).digest for member in four.members}) == 1
    for member in four.members:
        assert 0 < member.status["epsilon"] <= 8.0
        spent = json.loads(p2pfl("privacy", "--config", member.directory / "node.toml", "--json").stdout)
        assert spent["epsilon"] == pytest.approx(member.status["epsilon"])
    assert victim.status["own_evaluation"]["accuracy"] > 0.6


LONG = {
    'kind = "logistic"': 'kind = "mlp"\nhidden = [700, 700]',
    'mode = "distributed"\nepsilon = 8.0\ndelta = 1e-4': 'mode = "none"',
    "expected_batch = 50.0": "expected_batch = 50.0\nring_bits = {bits}",
    "phase_seconds = 3.0\nround_seconds = 12.0": "phase_seconds = 10.0\nround_seconds = 60.0",
}
"""493,501 parameters: too many to send to everybody, so they go in chunks."""


@pytest.mark.parametrize("bits", [32, pytest.param(64, marks=pytest.mark.slow)])
def test_a_long_vector_goes_in_chunks_and_outlives_a_kill(federation: Make, bits: int) -> None:
    four = federation(4, rounds=10, change={old: new.format(bits=bits) for old, new in LONG.items()})
    for member in four.members:
        four.start(member, "--until-done", "--log-level", "debug")
    victim = four.members[1]
    wait_until(lambda: rounds_of(victim) >= 3, 180, "three rounds")
    victim.kill()
    for member in four.members:
        assert member is victim or member.wait(240) == 0, member.log
    others = [member for member in four.members if member is not victim]
    assert len({released_by(member).digest for member in others}) == 1
    assert all(member.status["training_completed"] >= 8 for member in others), "a death costs a round at most"
    assert all(f": {tag}" in others[0].log for tag in ("pledge", "held", "plan", "part", "check"))


def test_a_member_that_returns_after_the_end_takes_the_final_model(federation: Make) -> None:
    four = federation(4, rounds=10)
    for member in four.members:
        four.start(member)
    victim, *others = reversed(four.members)
    wait_until(lambda: rounds_of(victim) >= 2, 180, "two rounds")
    victim.kill()
    wait_until(lambda: all(member.status.get("phase") == "done" for member in others), 180, "the end")
    four.start(victim, "--until-done")
    assert victim.wait(240) == 0, victim.log
    assert len({released_by(member).digest for member in four.members}) == 1


def ledger_of(member: Member) -> list[object]:
    with Store.open(member.directory / "state", identity_of(member), readonly=True) as store:
        return list(store.mechanisms())


def test_a_fifth_member_joins_with_id_ticket_and_one_address(federation: Make) -> None:
    five = federation(4, rounds=60, epoch_rounds=3)
    for member in five.members:
        five.start(member)
    wait_until(lambda: min(map(rounds_of, five.members)) >= 3, 180, "three rounds")
    fifth = five.invite("fifth")
    five.start(fifth)
    wait_until(lambda: rounds_of(fifth) >= 3, 180, f"three rounds with the fifth: {fifth.log}")
    assert len(fifth.status["group"]) == 5
    assert "took over the model" in fifth.log
    assert "manifest received" in fifth.log
    for member in five.members:
        assert member.process is not None
        member.process.send_signal(signal.SIGTERM)
    for member in five.members:
        assert member.wait(60) == 0, member.log


def test_who_contradicted_itself_is_out_everywhere_and_the_others_go_on(federation: Make) -> None:
    """One member has seen it, and comes back with what it kept."""
    five = federation(5, rounds=200, epoch_rounds=3)
    *honest, accused = five.members
    for member in five.members:
        five.start(member)
    wait_until(lambda: min(map(rounds_of, five.members)) >= 2, 180, "two rounds")
    witness = honest[1]
    witness.kill()
    with Store.open(witness.directory / "state", identity_of(witness)) as store:
        store.exclude(Exclusion(1_800_000_000, accusation_of(accused, by=witness)))
    five.start(witness)
    for member in honest:
        if member is not witness:
            said = f"peer {accused.peer} is excluded: it signed two contradicting result messages"
            wait_until(lambda: said in member.log, 120, f"{member.log}")  # noqa: B023
    wait_until(lambda: "this node is excluded" in accused.log, 60, f"it learns of it: {accused.log}")
    wait_until(lambda: "does not admit this node: you are excluded" in accused.log, 60, "and is refused")
    reached = max(map(rounds_of, honest))
    wait_until(lambda: min(map(rounds_of, honest)) >= reached + 6, 180, "rounds without it")
    assert all(accused.peer not in member.status["group"] for member in honest)
    shown = p2pfl("status", "--config", honest[3].directory / "node.toml").stdout
    assert f"excluded: {accused.peer}: it signed two contradicting result messages" in shown
    assert "Traceback" not in "".join(member.log for member in five.members)


def accusation_of(accused: Member, by: Member) -> Accusation:
    liar = identity_of(accused)
    place = (1, 0, bytes(32), bytes(32))
    results = [signed(liar, Result(liar.peer_id, *place, bytes([n]) * 32)) for n in (1, 2)]
    proof = contradiction(results)
    assert proof is not None
    ticket = (accused.directory / "ticket.txt").read_text().strip()
    return Accusation(identity_of(by).peer_id, ticket, proof)


def test_strangers_are_refused_with_a_reason_on_both_sides(federation: Make) -> None:
    some = federation(1, rounds=5)
    host = some.members[0]
    some.start(host)
    wait_until(lambda: host.status.get("addresses"), 90, "the host listens")
    stranger = Member(some.directory / "stranger", seed=9)
    stranger.start("--federation", some.id, "--bootstrap", host.address)
    try:
        wait_until(lambda: "sent no ticket" in stranger.log, 90, "a reason at the stranger")
        wait_until(
            lambda: stranger.peer in host.log and "sent no ticket" in host.log, 60, "a reason at the host"
        )
    finally:
        stranger.kill()
    assert "Traceback" not in stranger.log + host.log


def test_tickets_that_cannot_work_are_refused_before_anything_starts(federation: Make) -> None:
    some = federation(2, rounds=5)
    one, other = some.members
    ticket = one.directory / "ticket.txt"
    stolen = (other.directory / "ticket.txt").read_text()
    altered = stolen[:-8] + ("A" if stolen[-8] != "A" else "B") + stolen[-7:]
    for text, reason in ((stolen, other.peer), (altered, "ticket"), ("", "ticket")):
        ticket.write_text(text)
        command = ("node", "--config", one.directory / "node.toml", "--federation", some.manifest)
        refused = p2pfl(*command, "--ticket", ticket, code=6)
        assert reason in refused.stderr
        assert refused.stderr.startswith("p2pfl: error:")
        assert "Traceback" not in refused.stderr
