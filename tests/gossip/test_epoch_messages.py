"""The codec of the messages between rounds: what was written is read, and nothing else is."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.epoch_messages import (
    EPOCH_MESSAGES,
    MAX_ADDRESS_BYTES,
    MAX_ADDRESSES,
    MAX_EPOCH,
    MAX_ROSTER,
    MAX_TICKET_BYTES,
    EpochMessage,
    Presence,
    Presences,
    Sync,
    Wanted,
    commitment_to,
)
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.wire import Limits, Message, decode_untrusted, encode, signed

IDENTITIES = [Identity.from_seed(bytes([number]) * 32) for number in range(4)]
SENDER = IDENTITIES[0].peer_id

identities = st.sampled_from(IDENTITIES)
digests = st.binary(min_size=32, max_size=32)
epochs = st.integers(0, MAX_EPOCH - 1)
rounds = st.integers(0, 2**63 - 1)
texts = st.text(
    st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=MAX_ADDRESS_BYTES
)
tickets = st.text(st.characters(codec="ascii"), max_size=MAX_TICKET_BYTES)
addresses = st.lists(texts, max_size=MAX_ADDRESSES).map(tuple)


@st.composite
def presences(draw: st.DrawFn) -> Presence:
    identity = draw(identities)
    context = (draw(digests), draw(epochs), draw(digests), draw(digests), draw(digests))
    return signed(identity, Presence(identity.peer_id, *context, draw(tickets), draw(addresses)))


messages = st.one_of(
    presences(),
    st.builds(Sync, st.just(SENDER), epochs, digests, st.booleans(), digests, rounds),
    st.builds(Wanted, st.just(SENDER), epochs, digests),
    st.builds(
        Presences,
        st.just(SENDER),
        st.lists(presences(), max_size=4, unique_by=lambda each: each.author).map(tuple),
    ),
)


def decode(data: bytes) -> Message:
    return decode_untrusted(SENDER, data, Limits(0), EPOCH_MESSAGES)


def presence(
    count: int = 1, length: int = 10, ticket: int = 0, by: Identity = IDENTITIES[1], previous: int = 0
) -> Presence:
    context = (bytes(32), 3, bytes([previous]) * 32, bytes(32), bytes(32))
    shown = ("t" * ticket, ("x" * length,) * count)
    return signed(by, Presence(by.peer_id, *context, *shown))


@given(messages)
def test_what_is_written_is_read(message: EpochMessage) -> None:
    assert decode(encode(message)) == message


@given(messages, st.data())
def test_any_damage_is_the_senders_fault(message: EpochMessage, data: st.DataObject) -> None:
    wire = bytearray(encode(message))
    at = data.draw(st.integers(0, len(wire) - 1))
    wire[at] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode(bytes(wire))
    except RemoteProtocolError:
        return
    assert not isinstance(decoded, Presence)  # only what is not signed can be another message now
    assert decoded != message


@given(st.binary(max_size=400))
def test_garbage_is_the_senders_fault(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode(data)
    assert caught.value.peer == SENDER


@given(messages, st.integers(0, 2**16))
def test_cut_short(message: EpochMessage, at: int) -> None:
    wire = encode(message)
    with pytest.raises(RemoteProtocolError):
        decode(wire[: at % len(wire)])


def test_a_presence_travels_through_others_and_the_rest_does_not() -> None:
    assert decode(encode(presence())).author == IDENTITIES[1].peer_id
    for message in (
        Sync(IDENTITIES[1].peer_id, 0, bytes(32), True, bytes(32), 0),
        Wanted(IDENTITIES[1].peer_id, 0, bytes(32)),
        Presences(IDENTITIES[1].peer_id, ()),
    ):
        with pytest.raises(RemoteProtocolError, match="another author"):
            decode(encode(message))


def test_bounds() -> None:
    assert decode(encode(presence(MAX_ADDRESSES, MAX_ADDRESS_BYTES, MAX_TICKET_BYTES)))
    for message in (
        presence(MAX_ADDRESSES + 1),
        presence(1, MAX_ADDRESS_BYTES + 1),
        presence(1, 1, MAX_TICKET_BYTES + 1),
        signed(IDENTITIES[1], replace(presence(), epoch=MAX_EPOCH)),
        signed(IDENTITIES[1], replace(presence(), addresses=("ü" * MAX_ADDRESS_BYTES,))),
        signed(IDENTITIES[1], replace(presence(), addresses=("",))),
        signed(IDENTITIES[1], replace(presence(), nonce=bytes(31))),
        replace(presence(), nonce=bytes([1]) * 32),
    ):
        with pytest.raises(RemoteProtocolError):
            decode(encode(message))


def test_a_whole_roster_with_all_its_addresses_fits() -> None:
    authors = [Identity.from_seed(number.to_bytes(32, "big")) for number in range(MAX_ROSTER)]
    longest = (MAX_ADDRESSES, MAX_ADDRESS_BYTES, MAX_TICKET_BYTES)
    whole = tuple(presence(*longest, by=by, previous=number) for by in authors for number in range(2))
    full = Presences(SENDER, whole)
    assert decode(encode(full)) == full


def test_nobody_sends_more_presences_of_an_author_than_a_set_keeps() -> None:
    """Each has signatures to check: one message of a member, full of its own, would take seconds."""
    answer = Presences(SENDER, tuple(presence(previous=number) for number in range(3)))
    with pytest.raises(RemoteProtocolError, match="of an author"):
        decode(encode(answer))


@pytest.mark.parametrize("claimed", [0, 1, 3, 2 * MAX_ROSTER + 1, 1 << 40])
def test_presences_are_as_many_as_is_said(claimed: int) -> None:
    answer = Presences(SENDER, (presence(), presence()))
    body = pack((SENDER, claimed))
    with pytest.raises(RemoteProtocolError):
        decode(pack((Presences.TAG, body, b"", answer.payload())))


def test_another_kind_of_message_is_no_presence() -> None:
    wire = encode(Wanted(SENDER, 0, bytes(32)))
    payload = len(wire).to_bytes(2, "big") + wire
    with pytest.raises(RemoteProtocolError, match="unknown kind"):
        decode(pack((Presences.TAG, pack((SENDER, 1)), b"", payload)))


@given(epochs, digests, digests)
def test_commitments_bind_federation_epoch_author_and_nonce(
    epoch: int, federation: bytes, nonce: bytes
) -> None:
    ours = commitment_to(federation, epoch, SENDER, nonce)
    assert len(ours) == 32
    assert ours != commitment_to(federation, epoch + 1, SENDER, nonce)
    assert ours != commitment_to(federation, epoch, IDENTITIES[1].peer_id, nonce)
    assert ours != commitment_to(federation, epoch, SENDER, nonce[::-1] if nonce != nonce[::-1] else b"")
