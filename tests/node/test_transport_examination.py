"""Examination: what two nodes find out about each other's arithmetic, and what nobody can make one do."""

import numpy as np
import pytest
import trio
import trio.testing
from transports import identity, pair, run, running, transport

from p2pfl.crypto.agreement import OneTimeKey
from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.randomness import system_random
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.node.errors import NetworkError
from p2pfl.node.examination import (
    EXAMINATION_EVERY_SECONDS,
    EXAMINATION_WORDS,
    MAX_EXAMINATION_BYTES,
    MOST_EXAMINED,
    REQUEST,
    Examiner,
    check_untrusted,
    examine,
    versions,
)
from p2pfl.node.transport.network import RequestRefused

ASKER, ASKED = identity(1).peer_id, identity(2).peer_id
FEDERATION = bytes(32)
CONTEXT = pack([FEDERATION, ASKER, ASKED])
KEY = OneTimeKey.from_secret(bytes(range(32)))


def answer(context_peer: PeerId = ASKER, now: float = 1e9) -> bytes:
    return trio.run(Examiner(FEDERATION, ASKED, clock=lambda: now).answer, context_peer, KEY.public)


def test_masks_cancel_and_clock_and_versions_come_along() -> None:
    assert check_untrusted(answer(), KEY, CONTEXT) == (10**9, versions())


def test_what_is_sent_looks_like_noise() -> None:
    """Zeros under two masks: the share of ones among 2^21 bits is a half, but for about 0.0004."""
    fields = unpack_untrusted(answer(), MAX_EXAMINATION_BYTES)
    assert isinstance(fields, dict)
    bits = np.unpackbits(np.frombuffer(fields["masked"], np.uint8))
    assert len(bits) == 32 * EXAMINATION_WORDS
    assert abs(bits.mean() - 0.5) < 0.003


@pytest.mark.parametrize("place", ["first", "last"])
def test_one_wrong_element_is_noticed(place: str) -> None:
    fields = unpack_untrusted(answer(), MAX_EXAMINATION_BYTES)
    assert isinstance(fields, dict)
    masked = bytearray(fields["masked"])
    masked[0 if place == "first" else -1] ^= 1
    with pytest.raises(ValueError, match="do not cancel"):
        check_untrusted(pack({**fields, "masked": bytes(masked)}), KEY, CONTEXT)


def test_an_answer_to_somebody_else_does_not_cancel() -> None:
    with pytest.raises(ValueError, match="do not cancel"):
        check_untrusted(answer(identity(3).peer_id), KEY, CONTEXT)


@pytest.mark.parametrize(
    "change",
    [
        {"masked": b""},
        {"masked": bytes(4 * EXAMINATION_WORDS + 4)},
        {"seed": b"short"},
        {"key": bytes(32)},
        {"key": b""},
        {"clock": -1},
        {"clock": True},
        {"versions": {"p2pfl": "x" * 65}},
        {"versions": {"p2pfl": "\x1b[2J"}},
        {"versions": 1},
    ],
)
def test_an_answer_that_is_none_is_not_believed(change: dict[str, object]) -> None:
    fields = unpack_untrusted(answer(), MAX_EXAMINATION_BYTES)
    assert isinstance(fields, dict)
    with pytest.raises(ValueError, match=r"^\S"):
        check_untrusted(pack({**fields, **change}), KEY, CONTEXT)


@pytest.mark.parametrize("body", [b"", bytes(32), bytes(31), bytes(33)])
def test_what_is_no_key_is_refused(body: bytes) -> None:
    with pytest.raises(RequestRefused, match="not a one-time key"):
        trio.run(Examiner(FEDERATION, ASKED).answer, ASKER, body)


def test_a_peer_is_examined_now_and_then_and_the_others_meanwhile() -> None:
    async def main() -> None:
        examiner = Examiner(FEDERATION, ASKED)
        await examiner.answer(ASKER, KEY.public)
        with pytest.raises(RequestRefused, match="again in 10 s"):
            await examiner.answer(ASKER, KEY.public)
        await examiner.answer(identity(3).peer_id, KEY.public)
        await trio.sleep(EXAMINATION_EVERY_SECONDS)
        await examiner.answer(ASKER, KEY.public)
        assert len(examiner._answered) == 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_few_peers_are_asked_and_who_says_nothing_holds_nobody_up() -> None:
    peers = [identity(number).peer_id for number in range(2, 20)]
    asked: list[PeerId] = []

    async def ask(peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        assert (name, len(body), most) == (REQUEST, 32, MAX_EXAMINATION_BYTES)
        asked.append(peer)
        if len(asked) == 1:
            await trio.sleep_forever()
        if len(asked) == 2:
            raise NetworkError("does not know it", "none")
        if len(asked) == 3:
            return b""
        return await Examiner(FEDERATION, peer).answer(ASKER, body)

    async def main() -> None:
        found = {one.peer: one for one in await examine(ask, peers, FEDERATION, ASKER, seconds=4)}
        assert len(found) == len(asked) == MOST_EXAMINED
        outcomes = [found[peer].outcome for peer in asked]
        assert outcomes == ["silent", "silent", "wrong", *["agrees"] * (MOST_EXAMINED - 3)]
        assert found[asked[0]].reason == "no answer within 4 s"
        assert abs(found[asked[3]].clock) < 2

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_between_real_nodes() -> None:
    async def main() -> None:
        asked = transport(2, requests={REQUEST: Examiner(FEDERATION, ASKED, system_random).answer})
        asker = transport(1)
        async with running(asker, asked):
            await pair(asker, asked)

            async def ask(peer: PeerId, name: str, body: bytes, most: int) -> bytes:
                return await asker.request(peer, name, body, max_response=most, seconds=10)

            (found,) = await examine(ask, asker.connected, FEDERATION, ASKER, seconds=10)
            assert (found.peer, found.outcome, found.versions) == (ASKED, "agrees", versions())

    run(main)
