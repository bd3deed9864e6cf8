"""Admission: who is let in, and that everybody else learns why."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import p2pfl.node.membership.admission
from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.exclusions import Retirement
from p2pfl.gossip.manifest import Manifest, from_toml
from p2pfl.gossip.revocations import Revocation, revoke
from p2pfl.gossip.successions import succeed
from p2pfl.gossip.tickets import Credentials, Standing, issue, parse_ticket_untrusted
from p2pfl.node.errors import ClockError, TicketProblem
from p2pfl.node.membership.admission import (
    MAX_GREETING_BYTES,
    MAX_PROVISIONAL,
    FederationAdmission,
    Greeting,
    read_tickets,
)
from p2pfl.node.transport.types import MAX_GREETING, MAX_REASON

ISSUER, MEMBER, GUEST, STRANGER, OWN = (Identity.from_seed(bytes([number]) * 32) for number in range(1, 6))
NOW = 1_800_000_000


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


def manifest(name: str = "hearts", *, issuers: bool = True) -> Manifest:
    members = [MEMBER.peer_id, OWN.peer_id, ISSUER.peer_id]
    return from_toml(
        f"""
        name = "{name}"
        issuers = {[ISSUER.peer_id] if issuers else []}
        members = {members}
        task.label = "y"
        task.positive = ["1"]
        task.columns = [{{ name = "x", kind = "numeric", low = 0, high = 1 }}]
        model = {{ kind = "logistic" }}
        training = {{ rounds = 1, learning_rate = 1, sampling_rate = 1, expected_batch = 1 }}
        privacy = {{ mode = "none" }}
        """
    )


MANIFEST = manifest()


def ticket(holder: Identity, *, by: Identity = ISSUER, within: Manifest = MANIFEST, days: float = 1) -> str:
    expires = int(NOW + days * 86_400)
    return str(issue(by, federation=within.digest, peer=holder.peer_id, expires=expires))


def greeting(text: str = "", **fields: object) -> bytes:
    return dataclasses.replace(Greeting((1,), MANIFEST.digest, NOW, text), **fields).to_bytes()  # type: ignore[arg-type]


def revocation(peer: Identity) -> Revocation:
    line = revoke(ISSUER, federation=MANIFEST.digest, peer=peer.peer_id, issued=NOW, reason="left")
    return Revocation(OWN.peer_id, (line,))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> FederationAdmission:
    return FederationAdmission(MANIFEST.digest, OWN.peer_id, manifest=MANIFEST, clock=clock)


def refusal(admission: FederationAdmission, peer: PeerId, heard: bytes) -> str:
    reason = admission.judge(peer, heard)
    assert reason is not None
    assert reason.isprintable()
    assert len(reason) <= MAX_REASON
    assert peer not in admission.admitted
    return reason


def test_a_member_needs_no_ticket(admission: FederationAdmission) -> None:
    assert admission.judge(MEMBER.peer_id, greeting()) is None
    assert admission.admitted == {MEMBER.peer_id}


def test_members_are_those_listed_and_those_let_in(admission: FederationAdmission) -> None:
    assert admission.is_member(MEMBER.peer_id)
    assert admission.is_member(OWN.peer_id)
    assert not admission.is_member(GUEST.peer_id)
    admission.judge(STRANGER.peer_id, greeting(ticket(GUEST)))
    assert not admission.is_member(STRANGER.peer_id)


def test_who_is_excluded_is_told_so_whatever_admitted_it(admission: FederationAdmission) -> None:
    admit_with_skews(admission, 7200, 7200)
    for peer in (MEMBER, ISSUER, GUEST):
        assert admission.at_handshake(peer.peer_id) is None
        (reason,) = admission.exclude(revocation(peer)).values()
        assert refusal(admission, peer.peer_id, greeting(ticket(peer))) == reason
        assert "issuers revoked it: left" in reason
        assert not admission.is_member(peer.peer_id)
        assert admission.at_handshake(peer.peer_id) == reason  # it was told once
    assert admission.excluded == {peer.peer_id for peer in (MEMBER, ISSUER, GUEST)}
    admission.check_clock(())  # their word does not count any more
    assert admission.judge(STRANGER.peer_id, greeting(ticket(STRANGER))) is None


def test_a_ticket_admits_its_holder(admission: FederationAdmission) -> None:
    assert admission.judge(GUEST.peer_id, greeting(ticket(GUEST))) is None
    assert admission.admitted == {GUEST.peer_id}


def test_a_member_is_let_in_whatever_became_of_its_ticket(admission: FederationAdmission) -> None:
    assert admission.judge(MEMBER.peer_id, greeting(ticket(MEMBER, days=-1))) is None


def test_members_are_known_by_their_tickets_without_having_been_here(
    admission: FederationAdmission, clock: Clock
) -> None:
    """With a grace beyond the expiry, since a roster must be the same everywhere."""
    assert admission.standing(MEMBER.peer_id, "") is Standing.MEMBER
    assert admission.standing(GUEST.peer_id, ticket(GUEST)) is Standing.MEMBER
    assert admission.standing(STRANGER.peer_id, ticket(GUEST)) is Standing.STRANGER
    clock.now += 86_400 + 60
    assert not admission.is_member(GUEST.peer_id)
    assert admission.standing(GUEST.peer_id, ticket(GUEST)) is Standing.MEMBER
    clock.now += 86_400
    assert admission.standing(GUEST.peer_id, ticket(GUEST)) is Standing.EXPIRED


def test_a_node_shows_its_ticket_unless_it_is_listed(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "ticket.txt"
    for holder, shown in ((GUEST, ticket(GUEST)), (MEMBER, "")):
        path.write_text(ticket(holder))
        own = FederationAdmission(MANIFEST.digest, holder.peer_id, path, MANIFEST, clock)
        assert own.shown_ticket == shown
    assert (
        FederationAdmission(MANIFEST.digest, OWN.peer_id, manifest=MANIFEST, clock=clock).shown_ticket == ""
    )


def test_everybody_else_gets_a_reason_of_their_own(admission: FederationAdmission) -> None:
    peer = STRANGER.peer_id
    other = manifest("lungs")
    assert "sent no ticket" in refusal(admission, peer, greeting())
    assert f"p2pfl federation invite {peer}" in refusal(admission, peer, greeting())
    assert "another peer" in refusal(admission, peer, greeting(ticket(GUEST)))
    assert "expired 24 h ago" in refusal(admission, peer, greeting(ticket(STRANGER, days=-1)))
    assert "another federation" in refusal(admission, peer, greeting(ticket(STRANGER, within=other)))
    assert "not named in this federation" in refusal(admission, peer, greeting(ticket(STRANGER, by=MEMBER)))
    assert "you are in federation" in refusal(
        admission, peer, greeting(ticket(STRANGER), federation=other.digest)
    )
    assert "you speak 2, 3, this node 1" in refusal(admission, peer, greeting(versions=(2, 3)))
    assert "damaged" in refusal(admission, peer, greeting(ticket(STRANGER)[:-1]))
    assert "secret key" in refusal(admission, peer, greeting("P2PFL-SECRET-KEY-1ABC"))
    for heard in (b"", b"\xff", greeting()[:-1], greeting() + b"\0", greeting(federation=b"short")):
        assert "malformed" in refusal(admission, peer, heard)


def test_a_newer_version_may_speak_the_old_one(admission: FederationAdmission) -> None:
    assert admission.judge(MEMBER.peer_id, greeting(versions=(1, 2))) is None


def test_a_wrong_clock_is_named_as_a_likely_cause(admission: FederationAdmission) -> None:
    late = ticket(STRANGER, days=-0.1)
    assert "clocks differ" not in refusal(admission, STRANGER.peer_id, greeting(late))
    assert "our clocks differ by 3 h" in refusal(
        admission, STRANGER.peer_id, greeting(late, clock=NOW - 3 * 3600)
    )


def test_the_greeting_of_one_node_is_what_another_reads(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "ticket.txt"
    path.write_text(ticket(GUEST) + "\n")
    guest = FederationAdmission(MANIFEST.digest, GUEST.peer_id, path, clock=clock)
    heard = Greeting.from_untrusted(guest.greeting())
    assert dataclasses.replace(heard, terms={}) == Greeting((1,), MANIFEST.digest, NOW, ticket(GUEST))
    assert len(guest.greeting()) < MAX_GREETING_BYTES <= MAX_GREETING
    host = FederationAdmission(MANIFEST.digest, OWN.peer_id, manifest=MANIFEST, clock=clock)
    assert host.judge(GUEST.peer_id, guest.greeting()) is None
    assert guest.judge(OWN.peer_id, host.greeting()) is None


def test_what_a_later_version_adds_to_a_greeting_is_ignored(clock: Clock) -> None:
    ours = {"clock": NOW, "federation": MANIFEST.digest, "ticket": "", "versions": [1, 2]}
    host = FederationAdmission(MANIFEST.digest, OWN.peer_id, manifest=MANIFEST, clock=clock)
    without = {name: value for name, value in ours.items() if name != "ticket"}
    assert "malformed" in refusal(host, MEMBER.peer_id, pack({**without, "colour": "red"}))
    assert host.judge(MEMBER.peer_id, pack({**ours, "colour": "red"})) is None


# -- a newcomer, before and after it has the manifest
def test_a_newcomer_lets_in_its_federation_until_it_knows_better(clock: Clock) -> None:
    newcomer = FederationAdmission(MANIFEST.digest, OWN.peer_id, clock=clock)
    assert newcomer.judge(MEMBER.peer_id, greeting()) is None
    assert newcomer.judge(STRANGER.peer_id, greeting()) is None
    assert newcomer.judge(GUEST.peer_id, greeting(ticket(GUEST))) is None
    assert "you are in federation" in refusal(newcomer, ISSUER.peer_id, greeting(federation=bytes(32)))
    assert "another peer" in refusal(newcomer, ISSUER.peer_id, greeting(ticket(GUEST)))
    gone = newcomer.adopt(MANIFEST)
    assert set(gone) == {STRANGER.peer_id}
    assert "sent no ticket" in gone[STRANGER.peer_id]
    assert newcomer.admitted == {MEMBER.peer_id, GUEST.peer_id}
    assert "sent no ticket" in refusal(newcomer, STRANGER.peer_id, greeting())


def test_a_ticket_of_a_false_issuer_is_found_out_with_the_manifest(clock: Clock) -> None:
    newcomer = FederationAdmission(MANIFEST.digest, OWN.peer_id, clock=clock)
    assert newcomer.judge(STRANGER.peer_id, greeting(ticket(STRANGER, by=STRANGER))) is None
    assert "not named" in newcomer.adopt(MANIFEST)[STRANGER.peer_id]


def test_another_manifest_is_never_adopted(admission: FederationAdmission) -> None:
    with pytest.raises(ValueError, match="another federation"):
        admission.adopt(manifest("lungs"))


def test_a_crowd_of_strangers_costs_little_memory_and_keeps_nobody_out(clock: Clock) -> None:
    """One more has the place of the one that has been here longest; but not of whom the operator named."""
    newcomer = FederationAdmission(MANIFEST.digest, OWN.peer_id, clock=clock)
    newcomer.keep_places([MEMBER.peer_id, ISSUER.peer_id])
    crowd = [PeerId(f"peer {number}") for number in range(3 * MAX_PROVISIONAL)]
    for peer in (MEMBER.peer_id, *crowd, ISSUER.peer_id, crowd[-1]):
        assert newcomer.judge(peer, greeting()) is None
    here = {MEMBER.peer_id, ISSUER.peer_id, *crowd[-MAX_PROVISIONAL:]}
    assert newcomer.admitted == here
    assert {peer for peer in here if newcomer.is_proved(peer)} == {MEMBER.peer_id, ISSUER.peer_id}
    newcomer.adopt(MANIFEST)
    assert newcomer.is_proved(MEMBER.peer_id)
    assert not newcomer.is_proved(crowd[-1])


def test_there_are_no_more_members_than_a_federation_can_have(
    admission: FederationAdmission, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(p2pfl.node.membership.admission, "MAX_MEMBERS", 1)
    assert admission.judge(MEMBER.peer_id, greeting()) is None
    assert "knows 1 members already" in refusal(admission, GUEST.peer_id, greeting(ticket(GUEST)))


def test_expired_tickets_make_room_and_end_a_stay(admission: FederationAdmission, clock: Clock) -> None:
    assert admission.judge(GUEST.peer_id, greeting(ticket(GUEST))) is None
    assert admission.judge(MEMBER.peer_id, greeting()) is None
    assert admission.expired() == {}
    assert admission.is_member(GUEST.peer_id)
    clock.now += 2 * 86_400
    assert not admission.is_member(GUEST.peer_id)
    assert set(admission.expired()) == {GUEST.peer_id}
    assert admission.admitted == {MEMBER.peer_id}


def test_judging_never_raises_even_when_our_own_ticket_has_expired(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "ticket.txt"
    path.write_text(ticket(GUEST))
    admission = FederationAdmission(MANIFEST.digest, GUEST.peer_id, path, clock=clock)
    for number in range(MAX_PROVISIONAL):
        assert admission.judge(PeerId(f"peer {number}"), greeting()) is None
    clock.now += 2 * 86_400
    assert admission.judge(STRANGER.peer_id, greeting()) is None
    with pytest.raises(TicketProblem, match="expired"):
        admission.adopt(MANIFEST)
    clock.now -= 2 * 86_400
    assert len(admission.adopt(MANIFEST)) == MAX_PROVISIONAL
    clock.now += 2 * 86_400
    assert admission.judge(MEMBER.peer_id, greeting()) is None


def test_without_issuers_strangers_are_told_that_nobody_can_invite_them(clock: Clock) -> None:
    closed = manifest(issuers=False)
    admission = FederationAdmission(closed.digest, OWN.peer_id, manifest=closed, clock=clock)
    heard = greeting(federation=closed.digest)
    assert "no issuer who could invite you" in refusal(admission, STRANGER.peer_id, heard)


# -- several issuers
SECOND = Identity.from_seed(bytes([6]) * 32)
QUORUM = dataclasses.replace(MANIFEST, issuers=(ISSUER.peer_id, SECOND.peer_id), issuer_quorum=2)


@pytest.fixture
def wary(clock: Clock) -> FederationAdmission:
    return FederationAdmission(QUORUM.digest, OWN.peer_id, manifest=QUORUM, clock=clock)


def both(days: float, other: float) -> str:
    tickets = [ticket(GUEST, within=QUORUM, days=days), ticket(GUEST, by=SECOND, within=QUORUM, days=other)]
    return " ".join(tickets)


def test_one_issuer_of_two_admits_nobody(wary: FederationAdmission) -> None:
    one = ticket(GUEST, within=QUORUM)
    for text in (one, f"{one} {one}", f"{one} {ticket(GUEST, by=STRANGER, within=QUORUM)}"):
        reason = refusal(wary, GUEST.peer_id, greeting(text, federation=QUORUM.digest))
        assert "1 of at least 2 issuers" in reason
    assert wary.standing(GUEST.peer_id, one) is Standing.STRANGER


def test_both_do_until_the_first_of_them_expires(wary: FederationAdmission, clock: Clock) -> None:
    assert wary.judge(GUEST.peer_id, greeting(both(3, 1), federation=QUORUM.digest)) is None
    assert wary.is_member(GUEST.peer_id)
    clock.now += 86_400
    assert not wary.is_member(GUEST.peer_id)
    assert "expired" in wary.expired()[GUEST.peer_id]


# -- renewal
def test_others_take_the_later_expiry_from_a_presence(wary: FederationAdmission, clock: Clock) -> None:
    wary.judge(GUEST.peer_id, greeting(both(1, 1), federation=QUORUM.digest))
    for text in (both(9, 9), both(2, 2)):  # and never an earlier one
        assert wary.standing(GUEST.peer_id, text) is Standing.MEMBER
    clock.now += 8 * 86_400
    assert wary.expired() == {}
    assert wary.is_member(GUEST.peer_id)


def test_a_renewed_file_is_shown_and_a_spoilt_one_is_not(clock: Clock, tmp_path: Path) -> None:
    path = tmp_path / "ticket.txt"
    path.write_text(ticket(GUEST, days=1))
    own = FederationAdmission(MANIFEST.digest, GUEST.peer_id, path, MANIFEST, clock)
    assert own.expires == NOW + 86_400
    assert not own.renew(read_tickets(path))
    path.write_text(f"{ticket(GUEST, days=1)}\n{ticket(GUEST, days=30)}\n")
    assert own.renew(read_tickets(path))
    assert (own.expires, own.shown_ticket) == (NOW + 30 * 86_400, ticket(GUEST, days=30))
    path.write_text(ticket(STRANGER))
    with pytest.raises(TicketProblem, match=f"^federation.ticket: {path}: .*another peer"):
        own.renew(read_tickets(path))
    path.write_text(ticket(GUEST, by=STRANGER))
    with pytest.raises(TicketProblem, match=f"^federation.ticket: {path}: .*not named"):
        own.renew(read_tickets(path))
    assert own.shown_ticket == ticket(GUEST, days=30)


# -- another key in the same place
def test_a_successor_takes_a_place_and_what_is_held_against_it(admission: FederationAdmission) -> None:
    chain = Credentials((), (succeed(MEMBER, STRANGER, MANIFEST.digest),))
    assert admission.judge(STRANGER.peer_id, greeting(str(chain))) is None
    assert refusal(admission, GUEST.peer_id, greeting(str(chain))).startswith("the ticket shown is not valid")
    assert admission.exclude(Retirement(OWN.peer_id, chain)).keys() == {MEMBER.peer_id}
    assert admission.is_member(STRANGER.peer_id)
    gone = admission.exclude(revocation(MEMBER))
    assert gone.keys() == {STRANGER.peer_id}
    assert not admission.is_member(STRANGER.peer_id)


def test_a_successor_is_refused_for_what_its_old_key_did(admission: FederationAdmission) -> None:
    """Nobody need have heard of the succession before."""
    admission.exclude(revocation(GUEST))
    old = parse_ticket_untrusted(ticket(GUEST))
    chain = Credentials((old,), (succeed(GUEST, STRANGER, MANIFEST.digest),))
    assert "issuers revoked it" in refusal(admission, STRANGER.peer_id, greeting(str(chain)))


# -- this node's own place
def test_two_peers_that_one_issuer_each_let_in_do_not_make_a_member(wary: FederationAdmission) -> None:
    own = str(succeed(GUEST, STRANGER, QUORUM.digest))
    mixed = [ticket(GUEST, within=QUORUM), ticket(STRANGER, by=SECOND, within=QUORUM)]
    heard = greeting(" ".join([own, *mixed]), federation=QUORUM.digest)
    assert "1 of at least 2 issuers" in refusal(wary, STRANGER.peer_id, heard)
    both = [ticket(GUEST, by=by, within=QUORUM) for by in (ISSUER, SECOND)]
    assert wary.judge(STRANGER.peer_id, greeting(" ".join([own, *both]), federation=QUORUM.digest)) is None


def test_half_a_renewal_after_a_change_of_keys_costs_no_place(clock: Clock, tmp_path: Path) -> None:
    file = tmp_path / "ticket.txt"
    old = [ticket(GUEST, by=by, within=QUORUM) for by in (ISSUER, SECOND)]
    file.write_text("\n".join([*old, ticket(STRANGER, within=QUORUM, days=9)]))
    chain = (succeed(GUEST, STRANGER, QUORUM.digest),)
    own = FederationAdmission(QUORUM.digest, STRANGER.peer_id, file, QUORUM, clock, chain)
    assert own.expires == NOW + 86_400


def test_a_renewed_ticket_is_shown_without_what_came_before_it(clock: Clock, tmp_path: Path) -> None:
    """Others refuse successions of a key that nothing shown admits; a listed place needs no ticket at all."""
    path, chain = tmp_path / "ticket.txt", (succeed(GUEST, STRANGER, MANIFEST.digest),)
    path.write_text(ticket(GUEST))
    own = FederationAdmission(MANIFEST.digest, STRANGER.peer_id, path, MANIFEST, clock, chain)
    assert own.shown_ticket == str(Credentials((parse_ticket_untrusted(ticket(GUEST)),), chain))
    path.write_text(ticket(STRANGER, days=30))
    assert own.renew(read_tickets(path))
    assert own.shown_ticket == ticket(STRANGER, days=30)
    assert own.succession == Credentials((parse_ticket_untrusted(ticket(STRANGER, days=30)),))
    both = f"{chain[0]} {ticket(STRANGER)}"
    assert own.standing(STRANGER.peer_id, both) is Standing.STRANGER
    assert own.standing(STRANGER.peer_id, own.shown_ticket) is Standing.MEMBER
    of_listed = (succeed(MEMBER, STRANGER, MANIFEST.digest),)
    own = FederationAdmission(MANIFEST.digest, STRANGER.peer_id, path, MANIFEST, clock, of_listed)
    assert own.expires is None


def test_one_place_is_not_many_peers_nor_many_clocks(admission: FederationAdmission) -> None:
    """A member that names a successor for every day of the year fills no list, and sets nobody's clock."""
    for number in range(1, 100):
        new = Identity.from_seed(number.to_bytes(32, "big"))
        own = str(succeed(MEMBER, new, MANIFEST.digest))
        admission.judge(new.peer_id, greeting(own, clock=NOW + 7200))
    assert len(admission.admitted) == 2
    admission.check_clock(())


def test_a_node_without_a_place_is_told_how_to_get_one(clock: Clock) -> None:
    with pytest.raises(TicketProblem, match="not a member") as caught:
        FederationAdmission(MANIFEST.digest, GUEST.peer_id, manifest=MANIFEST, clock=clock)
    assert f"p2pfl federation invite {GUEST.peer_id}" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hello", "not a ticket"),
        ("P2PFL-SECRET-KEY-1ABC", "secret key"),
        ("# p2pfl node identity: keep it secret\n# peer id: x\np2pfl-secret-key-1abc\n", "secret key"),
        (ticket(MEMBER), "another peer"),
        (ticket(GUEST, days=-3), "expired 3 days ago"),
        (ticket(GUEST, within=manifest("lungs")), "another federation"),
        (ticket(GUEST, by=STRANGER), "not named"),
    ],
)
def test_a_node_with_a_useless_ticket_does_not_start(
    tmp_path: Path, clock: Clock, text: str, words: str
) -> None:
    path = tmp_path / "ticket.txt"
    path.write_text(text)
    with pytest.raises(TicketProblem, match=words) as caught:
        FederationAdmission(MANIFEST.digest, GUEST.peer_id, path, MANIFEST, clock)
    assert str(path) in caught.value.what


def test_a_missing_or_binary_ticket_file_is_named(tmp_path: Path, clock: Clock) -> None:
    with pytest.raises(TicketProblem, match="no such file"):
        FederationAdmission(MANIFEST.digest, GUEST.peer_id, tmp_path / "gone", clock=clock)
    with pytest.raises(TicketProblem, match="cannot be read"):
        FederationAdmission(MANIFEST.digest, GUEST.peer_id, tmp_path, clock=clock)
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 20)
    with pytest.raises(TicketProblem, match="no usable ticket"):
        FederationAdmission(MANIFEST.digest, GUEST.peer_id, tmp_path / "binary", clock=clock)


# -- clocks
def admit_with_skews(admission: FederationAdmission, *skews: float) -> None:
    for peer, skew in zip((MEMBER, ISSUER, GUEST), skews, strict=False):
        assert admission.judge(peer.peer_id, greeting(ticket(peer), clock=int(NOW + skew))) is None


def test_one_peer_cannot_talk_us_out_of_our_clock(admission: FederationAdmission) -> None:
    admit_with_skews(admission, 1e6)
    admission.check_clock(())
    admit_with_skews(admission, 1e6, 0)
    admission.check_clock(())
    admit_with_skews(admission, 1e6, 0, -1e6)
    admission.check_clock(())


@pytest.mark.parametrize(
    ("skew", "words"), [(7200, "2 h behind"), (-86_400 * 30, "30 days ahead of"), (601, "10 min")]
)
def test_a_majority_can(admission: FederationAdmission, skew: float, words: str) -> None:
    admit_with_skews(admission, skew, skew)
    with pytest.raises(ClockError, match=words):
        admission.check_clock(())
    admit_with_skews(admission, skew, 0, skew)
    with pytest.raises(ClockError):
        admission.check_clock(())


def test_liars_that_come_first_do_not_stop_a_node_that_has_met_others(clock: Clock) -> None:
    """After a power cut the honest start one by one, and two that lie are up already."""
    everybody = [Identity.from_seed(bytes([number]) * 32) for number in range(60, 65)]
    met = {peer.peer_id for peer in everybody}
    admission = FederationAdmission(MANIFEST.digest, OWN.peer_id, manifest=MANIFEST, clock=clock)
    others = len(met | set(MANIFEST.members) - {OWN.peer_id})
    for heard, peer in enumerate(everybody, 1):
        assert admission.judge(peer.peer_id, greeting(ticket(peer), clock=NOW + 7200)) is None
        if 2 * heard > others:
            with pytest.raises(ClockError):
                admission.check_clock(met)
        else:
            admission.check_clock(met)
    assert others < 10


def test_colluders_of_a_group_cannot_even_if_they_are_all_who_is_here(clock: Clock) -> None:
    groups = dataclasses.replace(MANIFEST.groups, colluders=2, minimum=4)
    wary = dataclasses.replace(MANIFEST, groups=groups)
    admission = FederationAdmission(wary.digest, OWN.peer_id, manifest=wary, clock=clock)
    for peer in (MEMBER, ISSUER):
        assert admission.judge(peer.peer_id, greeting(federation=wary.digest, clock=NOW + 7200)) is None
    admission.check_clock(())


# -- anything from anyone
@given(st.binary(max_size=400))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    admission = FederationAdmission(MANIFEST.digest, OWN.peer_id, manifest=MANIFEST, clock=Clock())
    assert "malformed" in str(admission.judge(STRANGER.peer_id, data))


values = st.none() | st.booleans() | st.integers(-5, 1 << 50) | st.binary(max_size=40) | st.text(max_size=20)


@given(
    st.fixed_dictionaries(
        {
            "clock": values,
            "federation": values | st.just(MANIFEST.digest),
            "ticket": values | st.just(ticket(GUEST)),
            "versions": values | st.lists(values, max_size=3) | st.just([1]),
        }
    )
)
def test_any_fields_get_an_answer(fields: dict[str, object]) -> None:
    admission = FederationAdmission(MANIFEST.digest, OWN.peer_id, manifest=MANIFEST, clock=Clock())
    assert isinstance(admission.judge(STRANGER.peer_id, pack(fields)), str)


@given(
    st.lists(st.integers(1, 65_535), min_size=1, max_size=5),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 1 << 39),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
)
def test_greetings_round_trip(versions: list[int], federation: bytes, clock: int, text: str) -> None:
    sent = Greeting(tuple(versions), federation, clock, text)
    assert Greeting.from_untrusted(sent.to_bytes()) == sent
