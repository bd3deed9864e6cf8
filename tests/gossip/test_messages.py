"""The codec: what goes in comes out, and from anybody's bytes comes a message or a RemoteProtocolError."""

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfl.crypto import labels
from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.chunks import BROADCAST_BYTES, MAX_CHUNKS
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.messages import (
    MAX_ATTEMPTS,
    MAX_MEMBERS,
    ROUND_MESSAGES,
    Ack,
    Bundle,
    Check,
    Fetch,
    Held,
    Masked,
    Part,
    Plan,
    Pledge,
    Proposal,
    Ready,
    Result,
    Reveal,
    Survivors,
    parts_digest,
    roster_digest,
    survivors_digest,
)
from p2pfl.gossip.vector_messages import MAX_CHECK_BYTES
from p2pfl.gossip.wire import Limits, Message, Reader, decode_untrusted, digest, encode, longest, signed

LIMITS = Limits(max_dim=6)
ALICE, BOB = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
ME, OTHER = ALICE.peer_id, BOB.peer_id
PLACE = (7, 1, bytes(range(32)))


def a_ready(identity: Identity = ALICE) -> Ready:
    place = (b"f" * 32, b"e" * 32, 7, 1)
    ready = Ready(identity.peer_id, *place, "training", 6, b"m" * 32, b"b" * 32, b"c" * 32, b"s" * 32)
    return signed(identity, ready)


def an_example_of_each() -> list[Message]:
    words = np.arange(6, dtype="<u4") * np.uint32(0x12345678)
    masked = Masked.of(ME, PLACE, 3, words.tobytes())
    entries = ((0, masked.digest), (4, b"d" * 32))
    part = digest(labels.PART_DIGEST, b"a part")
    return [
        a_ready(),
        signed(ALICE, Proposal(ME, 7, 1, (a_ready(), a_ready(BOB)))),
        signed(ALICE, Bundle(ME, *PLACE, OTHER, b"sealed")),
        signed(ALICE, Ack(ME, *PLACE)),
        signed(ALICE, masked),
        signed(ALICE, Pledge(ME, *PLACE, (masked.digest, b"d" * 32))),
        signed(ALICE, Held(ME, *PLACE, entries)),
        signed(ALICE, Plan(ME, *PLACE, entries, (0, 4))),
        signed(ALICE, Part(ME, *PLACE, b"p" * 32, 3, part, b"a part")),
        signed(ALICE, Check(ME, *PLACE, b"p" * 32, (part, b"d" * 32), b"words")),
        signed(ALICE, Survivors(ME, *PLACE, entries, b"s" * 32)),
        Fetch(ME, *PLACE, Part.TAG, OTHER, 3, b"d" * 32),
        signed(ALICE, Reveal(ME, *PLACE, b"u" * 32, (b"x" * 33, b"y" * 33))),
        signed(ALICE, Result(ME, *PLACE, b"u" * 32, b"r" * 32)),
    ]


def decode(data: bytes) -> Message:
    return decode_untrusted(ME, data, LIMITS, ROUND_MESSAGES)


each = pytest.mark.parametrize("message", an_example_of_each(), ids=lambda message: message.TAG)


@each
def test_round_trip(message: Message) -> None:
    copy = decode(encode(message))
    assert copy == message
    assert copy.signature == message.signature
    assert copy.payload() == message.payload()


def test_every_kind_has_an_example_and_a_label_of_its_own() -> None:
    assert {message.TAG for message in an_example_of_each()} == set(ROUND_MESSAGES)
    used = [kind.LABEL for kind in ROUND_MESSAGES.values() if kind.LABEL is not None]
    assert len(set(used)) == len(used) == len(ROUND_MESSAGES) - 1


@each
def test_every_bit_counts(message: Message) -> None:
    """A message with one bit changed is refused; only the unsigned Fetch may become another valid one."""
    wire = encode(message)
    for place in range(len(wire)):
        for bit in (0, 3, 7):
            changed = bytearray(wire)
            changed[place] ^= 1 << bit
            try:
                got = decode(bytes(changed))
            except RemoteProtocolError as error:
                assert error.peer == ME  # noqa: PT017  most are refused, and the few others are looked at below
                continue
            assert isinstance(got, Fetch)
            assert encode(got) == bytes(changed)


@each
def test_no_other_length(message: Message) -> None:
    wire = encode(message)
    for end in range(len(wire)):
        with pytest.raises(RemoteProtocolError):
            decode(wire[:end])
    with pytest.raises(RemoteProtocolError):
        decode(wire + b"\0")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_politely(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ROUND_MESSAGES)), st.data())
def test_any_fields_are_refused_politely(tag: str, data: st.DataObject) -> None:
    """Well-formed and well-signed, with fields that mean nothing."""
    leaf = (
        st.integers(-2, 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=9) | st.booleans() | st.none()
    )
    fields = data.draw(st.lists(leaf | st.lists(leaf, max_size=3), max_size=10))
    good = pack([ME, *PLACE, *fields])
    body = data.draw(st.sampled_from([good, pack(fields), pack([ME, *fields]), pack(ME), pack(None)]))
    label = ROUND_MESSAGES[tag].LABEL
    signature = b"" if label is None else ALICE.sign(label, body)
    wire = pack((tag, body, signature, data.draw(st.binary(max_size=12))))
    try:
        message = decode(wire)
    except RemoteProtocolError:
        return
    assert encode(message) == wire


def forged(message: Message, **changes: object) -> bytes:
    """With changed fields, and signed again: only the content is wrong."""
    return encode(signed(ALICE, replace(message, **changes)))  # type: ignore[arg-type]  # what is tested


EXAMPLE: dict[str, Message] = {message.TAG: message for message in an_example_of_each()}
ODD_ENTRIES: dict[str, tuple[object, ...]] = {
    "too many members": tuple((number, bytes(32)) for number in range(MAX_MEMBERS + 1)),
    "three parts": ((0, bytes(32), 1),),
    "one part": ((0,),),
    "a member by its name": ((ME, bytes(32)),),
    "members before the first": ((-1, bytes(32)),),
    "members beyond the last": ((MAX_MEMBERS, bytes(32)),),
    "another order": ((0, bytes(32)), (2, bytes(32)), (1, bytes(32))),
    "a member twice": ((0, bytes(32)), (0, bytes(32))),
}
WRONG: dict[str, Callable[[], bytes]] = {
    "another attempt than there are": lambda: forged(EXAMPLE["ack"], attempt=MAX_ATTEMPTS),
    "a round before the first": lambda: forged(EXAMPLE["ack"], round=-1),
    "a short digest": lambda: forged(EXAMPLE["ack"], roster=bytes(31)),
    "a long key": lambda: forged(EXAMPLE["ready"], mask_key=bytes(33)),
    "no stage": lambda: forged(EXAMPLE["ready"], stage=""),
    "a long stage": lambda: forged(EXAMPLE["ready"], stage="x" * 33),
    "a stage that prints badly": lambda: forged(EXAMPLE["ready"], stage="a\x1b[31m"),
    "too many shares": lambda: forged(EXAMPLE["reveal"], shares=(b"",) * (MAX_MEMBERS + 1)),
    "a long share": lambda: forged(EXAMPLE["reveal"], shares=(bytes(41),)),
    "a long seal": lambda: forged(EXAMPLE["bundle"], sealed=bytes(257)),
    "a recipient that is none": lambda: forged(EXAMPLE["bundle"], recipient="12D3KooW"),
    "an author that is none": lambda: forged(EXAMPLE["ack"], author="nobody"),
    **{
        f"{name} in {tag}": partial(forged, EXAMPLE[tag], entries=entries)
        for tag in ("held", "plan", "survivors")
        for name, entries in ODD_ENTRIES.items()
    },
    "the digest of some parts": lambda: forged(EXAMPLE["survivors"], parts=bytes(31)),
    "a chunk that is too long": lambda: encode(signed(ALICE, Masked.of(ME, PLACE, 0, bytes(6 * 8 + 1)))),
    "another vector": lambda: forged(EXAMPLE["masked"], data=bytes(24)),
    "a chunk beyond the last": lambda: forged(EXAMPLE["masked"], chunk=MAX_CHUNKS),
    "another part": lambda: forged(EXAMPLE["part"], data=b"a port"),
    "a part that is too long": lambda: forged(
        EXAMPLE["part"], data=bytes(49), digest=digest(labels.PART_DIGEST, bytes(49))
    ),
    "a part of no chunk": lambda: forged(EXAMPLE["part"], chunk=MAX_CHUNKS),
    "a pledge of too many": lambda: forged(EXAMPLE["pledge"], digests=(bytes(32),) * (MAX_CHUNKS + 1)),
    "a pledge of a short digest": lambda: forged(EXAMPLE["pledge"], digests=(bytes(31),)),
    "too many owners": lambda: forged(EXAMPLE["plan"], owners=tuple(range(MAX_MEMBERS + 1))),
    "an owner that is none": lambda: forged(EXAMPLE["plan"], owners=(MAX_MEMBERS,)),
    "owners in another order": lambda: forged(EXAMPLE["plan"], owners=(4, 0)),
    "an owner twice": lambda: forged(EXAMPLE["plan"], owners=(0, 0)),
    "a check of too many parts": lambda: forged(EXAMPLE["check"], parts=(bytes(32),) * (MAX_CHUNKS + 1)),
    "too many words": lambda: forged(EXAMPLE["check"], words=bytes(MAX_CHECK_BYTES + 1)),
    "a fetch of a bundle": lambda: encode(Fetch(ME, *PLACE, Bundle.TAG, OTHER, 0, bytes(32))),
    "a signed fetch": lambda: encode(replace(EXAMPLE["fetch"], signature=bytes(64))),
    "an unsigned ack": lambda: encode(replace(EXAMPLE["ack"], signature=b"")),
    "a short signature": lambda: encode(replace(EXAMPLE["ack"], signature=bytes(63))),
    "a proposal of itself": lambda: forged(EXAMPLE["proposal"], readies=(EXAMPLE["proposal"],)),
    "a proposal with a forged ready": lambda: forged(
        EXAMPLE["proposal"], readies=(replace(a_ready(BOB), signature=a_ready().signature),)
    ),
    "too large a proposal": lambda: forged(EXAMPLE["proposal"], readies=(a_ready(),) * (MAX_MEMBERS + 1)),
    "an unknown kind": lambda: pack(("nonsense", b"", b"", b"")),
    "a payload without a place": lambda: pack(("ack", EXAMPLE["ack"].signed_bytes(), bytes(64), b"x")),
}


@pytest.mark.parametrize("case", WRONG)
def test_no_honest_member_sends(case: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(WRONG[case]())


def test_only_vectors_and_what_checks_them_arrive_through_others() -> None:
    for message in an_example_of_each():
        if isinstance(message, Masked | Part | Check):
            assert decode_untrusted(OTHER, encode(message), LIMITS, ROUND_MESSAGES).author == ME
        else:
            with pytest.raises(RemoteProtocolError) as caught:
                decode_untrusted(OTHER, encode(message), LIMITS, ROUND_MESSAGES)
            assert caught.value.peer == OTHER


def test_what_is_read_suffices_for_the_longest_vector_and_hardly_for_more() -> None:
    """A whole one where vectors are broadcast; a chunk of a longer one is no longer, but of a huge one."""
    for dim, longest_bytes in ((1000, 8000), (1 << 27, BROADCAST_BYTES), (1 << 30, (1 << 30) // 512 * 8)):
        limits = Limits(max_dim=dim)
        masked = signed(ALICE, Masked.of(ME, PLACE, 0, bytes(longest_bytes)))
        assert decode_untrusted(ME, encode(masked), limits, ROUND_MESSAGES) == masked
        assert len(encode(masked)) <= longest(limits, ROUND_MESSAGES) < len(encode(masked)) + (1 << 17)


def test_the_longest_bodies_are_read() -> None:
    many, everybody = (b"d" * 32,) * MAX_CHUNKS, tuple(range(MAX_MEMBERS))
    for message in (
        signed(ALICE, Pledge(ME, *PLACE, many)),
        signed(ALICE, Plan(ME, *PLACE, tuple((number, b"m" * 32) for number in everybody), everybody)),
        signed(ALICE, Check(ME, *PLACE, b"p" * 32, many, bytes(MAX_CHECK_BYTES))),
    ):
        assert decode(encode(message)) == message


def test_a_signature_is_good_for_one_kind_only() -> None:
    """An ack and a proposal may have the same bytes, never the same signature."""
    body = EXAMPLE["ack"].signed_bytes()
    for kind in ROUND_MESSAGES.values():
        if kind.LABEL is not None and kind is not Ack:
            wire = pack((Ack.TAG, body, ALICE.sign(kind.LABEL, body), b""))
            with pytest.raises(RemoteProtocolError):
                decode(wire)


def nested(size: int) -> bytes:
    return b"\x91" * (size - 1) + b"\x90"


@pytest.mark.parametrize(
    "build",
    [
        lambda: b"\x94\xa6masked" + nested(1 << 22),
        lambda: pack(("masked", nested(1 << 22), bytes(64), b"")),
        lambda: pack(("masked", EXAMPLE["masked"].signed_bytes(), bytes(64), bytes(1 << 22))),
        lambda: b"\x94\xa6masked\xc6\xff\xff\xff\xff",
        lambda: b"\x94\xa6masked" + b"\x90" * (1 << 22),
    ],
    ids=["nesting", "nesting in the body", "too long", "an empty promise", "many lists"],
)
def test_a_peer_cannot_make_us_allocate(build: Callable[[], bytes]) -> None:
    data = build()
    limits = Limits(max_dim=1 << 20)
    tracemalloc.start()
    with pytest.raises(RemoteProtocolError):
        decode_untrusted(ME, data, limits, ROUND_MESSAGES)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 2 * len(data) + (1 << 17)


def test_digests_depend_on_everything() -> None:
    readies = (a_ready(), a_ready(BOB))
    digests = {roster_digest(readies), roster_digest(readies[::-1]), roster_digest(readies[:1])}
    first = readies[0]
    others = [
        replace(first, stage="other"),
        replace(first, dim=5),
        replace(first, attempt=2),
        replace(first, round=8),
        replace(first, mask_key=bytes(32)),
        replace(first, bundle_key=bytes(32)),
        replace(first, commitment=bytes(32)),
        replace(first, federation=bytes(32)),
        replace(first, epoch_roster=bytes(32)),
    ]
    digests |= {roster_digest((other, readies[1])) for other in others}
    assert len(digests) == 3 + len(others)
    assert roster_digest((replace(readies[0], signature=bytes(64)), readies[1])) == roster_digest(readies)
    entries = ((0, b"m" * 32), (1, b"o" * 32))
    marks = {survivors_digest(roster, chosen) for roster in digests for chosen in (entries, entries[:1], ())}
    assert len(marks) == 3 * len(digests)
    for author in (ME, OTHER):  # nor on who makes the plan, or pledges
        place = (7, 1, b"r" * 32)
        marks |= {Plan(author, *place, entries, owners).mark for owners in ((0, 1), (0,))}
        marks |= {Plan(author, *place, entries[:1], (0,)).mark, Pledge(author, *place, (b"m" * 32,)).mark}
        marks |= {parts_digest(survivors, (b"m" * 32,)) for survivors in (b"u" * 32, b"v" * 32)}
        marks |= {Plan(author, 7, 1, b"q" * 32, entries, (0,)).mark}
    assert len(marks) == 3 * len(digests) + 7


@dataclass(frozen=True, slots=True)
class Greeting(Message):
    """A message of another module."""

    TAG: ClassVar[str] = "greeting"
    LABEL: ClassVar[bytes | None] = labels.PRESENCE
    text: str
    loud: bool

    def body(self) -> tuple[object, ...]:
        return (self.text, self.loud)

    @classmethod
    def read(cls, author: PeerId, fields: Reader, payload: memoryview) -> Self:
        return cls(author, fields.text(10), fields.flag())


def test_other_modules_bring_their_own_kinds() -> None:
    greeting = signed(ALICE, Greeting(ME, "hello", True))
    kinds = {**ROUND_MESSAGES, Greeting.TAG: Greeting}
    assert decode_untrusted(ME, encode(greeting), LIMITS, kinds) == greeting
    with pytest.raises(RemoteProtocolError):
        decode(encode(greeting))
