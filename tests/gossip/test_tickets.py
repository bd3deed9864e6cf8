"""Tickets: every way of not being valid has its own reason; the text form has one spelling."""

import base64
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId, verify
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.manifest import Manifest, from_toml
from p2pfl.gossip.successions import succeed
from p2pfl.gossip.tickets import (
    MAX_SKEW_SECONDS,
    PREFIX,
    Credentials,
    Standing,
    Ticket,
    TicketError,
    check,
    check_holder,
    issue,
    parse_ticket_untrusted,
    standing,
)

ISSUER, OTHER, NEWCOMER = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2, 3))
NOW = 1_800_000_000


def manifest(issuer: Identity) -> Manifest:
    return from_toml(
        f"""
        name = "hearts"
        issuers = ["{issuer.peer_id}"]
        task.label = "y"
        task.positive = ["1"]
        task.columns = [{{ name = "x", kind = "numeric", low = 0, high = 1 }}]
        model = {{ kind = "logistic" }}
        training = {{ rounds = 1, learning_rate = 1, sampling_rate = 1, expected_batch = 1 }}
        privacy = {{ mode = "none" }}
        """
    )


MANIFEST = manifest(ISSUER)
TICKET = issue(ISSUER, federation=MANIFEST.digest, peer=NEWCOMER.peer_id, expires=NOW + 86_400)


def refused(ticket: Ticket, now: float = NOW, within: Manifest = MANIFEST, peer: Identity = NEWCOMER) -> str:
    with pytest.raises(TicketError) as caught:
        check(ticket, within, now, peer=peer.peer_id)
    return caught.value.reason


def changed(**fields: object) -> Ticket:
    values = {
        name: getattr(TICKET, name) for name in ("federation", "peer", "issuer", "expires", "signature")
    }
    return Ticket(**(values | fields))


def test_a_good_ticket_admits_until_it_expires() -> None:
    check(TICKET, MANIFEST, NOW, peer=NEWCOMER.peer_id)
    check(TICKET, MANIFEST, NOW + 86_399.9, peer=NEWCOMER.peer_id)
    check_holder(TICKET, MANIFEST.digest, NOW, peer=NEWCOMER.peer_id)
    assert refused(TICKET, now=NOW + 86_400) == "it expired 1 s ago"
    assert refused(TICKET, now=NOW + 86_402.9) == "it expired 2 s ago"
    assert refused(TICKET, now=NOW + 86_400 + 119.9) == "it expired 119 s ago"
    assert refused(TICKET, now=NOW + 86_400 + 120) == "it expired 2 min ago"
    assert refused(TICKET, now=NOW + 86_400 * 2) == "it expired 24 h ago"
    assert refused(TICKET, now=NOW + 86_400 * 11) == "it expired 10 days ago"


def test_every_other_use_has_its_own_reason() -> None:
    assert "another federation" in refused(TICKET, within=manifest(OTHER))
    assert "another peer" in refused(TICKET, peer=OTHER)
    stranger = issue(OTHER, federation=MANIFEST.digest, peer=NEWCOMER.peer_id, expires=NOW + 1)
    assert f"issuer {OTHER.peer_id} is not named" in refused(stranger)


def test_every_altered_field_is_noticed() -> None:
    assert "altered" in refused(changed(expires=NOW + 10**9))
    assert "altered" in refused(changed(issuer=OTHER.peer_id))
    assert "altered" in refused(changed(signature=bytes(64)))
    assert "altered" in refused(changed(peer=OTHER.peer_id), peer=OTHER)
    elsewhere = manifest(OTHER)
    assert "altered" in refused(changed(federation=elsewhere.digest), within=elsewhere)


def stands(text: str, now: float = NOW, peer: Identity = NEWCOMER) -> Standing:
    return standing(MANIFEST, MANIFEST.digest, peer.peer_id, text, now)


def test_who_is_listed_needs_no_ticket_to_be_a_member() -> None:
    listing = replace(MANIFEST, members=(OTHER.peer_id,))
    for text in ("", str(TICKET)):
        assert standing(listing, listing.digest, OTHER.peer_id, text, NOW) is Standing.MEMBER
    # What it shows all the same is read by others, as keys whose place it took.
    assert standing(listing, listing.digest, OTHER.peer_id, "nonsense", NOW) is Standing.STRANGER
    assert stands("", peer=OTHER) is Standing.STRANGER


def test_for_the_author_of_a_presence_there_is_a_grace() -> None:
    """As much as clocks may differ, and as long as presences are gathered."""
    grace = MAX_SKEW_SECONDS + MANIFEST.timing.gather_seconds + MANIFEST.timing.round_seconds
    assert stands(str(TICKET)) is Standing.MEMBER
    assert stands(str(TICKET), TICKET.expires + grace - 1) is Standing.MEMBER
    assert stands(str(TICKET), TICKET.expires + grace) is Standing.EXPIRED


def test_whether_nothing_admits_a_peer_does_not_depend_on_the_time() -> None:
    foreign = issue(ISSUER, federation=bytes(32), peer=NEWCOMER.peer_id, expires=NOW + 86_400)
    unnamed = issue(OTHER, federation=MANIFEST.digest, peer=NEWCOMER.peer_id, expires=NOW + 86_400)
    altered = str(changed(expires=NOW + 99_999_999))
    for now in (0.0, NOW, NOW + 1e9):
        assert stands(str(TICKET), now, peer=OTHER) is Standing.STRANGER
        for text in (str(foreign), str(unnamed), altered, "", "nonsense"):
            assert stands(text, now) is Standing.STRANGER


def test_a_signature_for_another_purpose_is_no_ticket() -> None:
    payload = pack([TICKET.federation, TICKET.peer, TICKET.issuer, TICKET.expires])
    assert "altered" in refused(changed(signature=ISSUER.sign(labels.PRESENCE, payload)))
    check(changed(signature=ISSUER.sign(labels.TICKET, payload)), MANIFEST, NOW, peer=NEWCOMER.peer_id)


def test_the_text_form_is_one_prefixed_line() -> None:
    text = str(TICKET)
    assert text.startswith(PREFIX)
    assert text.isprintable()
    assert " " not in text
    assert parse_ticket_untrusted(f"\n  {text}\r\n") == TICKET


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(1, (1 << 40) - 1),
    st.binary(min_size=64, max_size=64),
    st.binary(min_size=32, max_size=32),
)
def test_text_gives_the_ticket_back(federation: bytes, expires: int, signature: bytes, seed: bytes) -> None:
    ticket = Ticket(federation, Identity.from_seed(seed).peer_id, ISSUER.peer_id, expires, signature)
    assert parse_ticket_untrusted(str(ticket)) == ticket


@given(st.data())
def test_a_changed_character_is_another_ticket_or_none(data: st.DataObject) -> None:
    text = str(TICKET)
    position = data.draw(st.integers(0, len(text) - 1))
    character = data.draw(st.characters())
    other = text[:position] + character + text[position + 1 :]
    if other.strip() == text:
        return
    try:
        found = parse_ticket_untrusted(other)
    except TicketError as error:
        found, reason = None, error.reason
    else:
        reason = "read"
    assert found != TICKET
    assert reason.isprintable()


@given(st.text(max_size=2000) | st.text(max_size=400).map(lambda text: PREFIX + text))
def test_any_text_raises_a_ticket_error(text: str) -> None:
    with pytest.raises(TicketError):
        parse_ticket_untrusted(text)


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(1 << 60), 1 << 60)
        | st.binary(max_size=64)
        | st.text(max_size=9),
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    )
)
def test_any_packed_value_raises_a_ticket_error(value: object) -> None:
    with pytest.raises(TicketError):
        parse_ticket_untrusted(PREFIX + base64.urlsafe_b64encode(pack(value)).rstrip(b"=").decode())


def encoded(*fields: object) -> str:
    return PREFIX + base64.urlsafe_b64encode(pack(list(fields))).rstrip(b"=").decode()


def test_fields_out_of_range_are_refused() -> None:
    good = [TICKET.federation, TICKET.peer, TICKET.issuer, TICKET.expires, TICKET.signature]
    assert parse_ticket_untrusted(encoded(*good)) == TICKET
    for position, value in [
        (0, b"short"),
        (1, "nobody"),
        (2, ""),
        (3, 0),
        (3, True),
        (3, 1 << 40),
        (4, bytes(63)),
    ]:
        with pytest.raises(TicketError, match="damaged"):
            parse_ticket_untrusted(encoded(*good[:position], value, *good[position + 1 :]))


def test_padding_and_other_alphabets_are_refused() -> None:
    text = str(TICKET)
    for other in (
        text + "=",
        text.replace("-", "+").replace("_", "/") + "A",
        text[:60] + "\n" + text[60:],
        text + "A" * 999,
    ):
        with pytest.raises(TicketError):
            parse_ticket_untrusted(other)


def test_what_was_put_in_its_place_is_recognised() -> None:
    for text, words in [
        ("P2PFL-SECRET-KEY-1ABCDEFGHIJKLMNOP", "secret key"),
        ("p2pfl-ticket-v2:AAAA", "another version"),
        ("hello", "not a ticket"),
        ("", "not a ticket"),
    ]:
        with pytest.raises(TicketError, match=words) as caught:
            parse_ticket_untrusted(text)
        assert "ABCDEFGH" not in str(caught.value)


def test_what_a_member_shows_again_and_again_is_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every presence, which come from every neighbour."""
    checked: list[bytes] = []

    def counting(peer: PeerId, label: bytes, data: bytes, signature: bytes) -> bool:
        checked.append(data)
        return verify(peer, label, data, signature)

    for module in ("tickets", "successions", "wire"):
        monkeypatch.setattr(f"p2pfl.gossip.{module}.verify", counting)
    old, new = (Identity.from_seed(bytes([200, number]) * 16) for number in range(2))
    admits = issue(ISSUER, federation=MANIFEST.digest, peer=old.peer_id, expires=NOW)
    shown = str(Credentials((admits,), (succeed(old, new, MANIFEST.digest),)))
    for _ in range(9):
        assert standing(MANIFEST, MANIFEST.digest, new.peer_id, shown, NOW - 1) is Standing.MEMBER
    assert len(checked) == 3


def test_nonsense_cannot_be_issued() -> None:
    for federation, expires in [(b"short", NOW), (bytes(32), 0), (bytes(32), 1 << 40)]:
        with pytest.raises(ValueError, match="expiry"):
            issue(ISSUER, federation=federation, peer=NEWCOMER.peer_id, expires=expires)
