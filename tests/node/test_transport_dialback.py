"""Dialling back: what a member does for another, what nobody can make it do, and what the asker learns."""

import logging
from collections.abc import Callable

import pytest
import trio
import trio.testing
from transports import identity, pair, run, running, transport

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.node.errors import NetworkError
from p2pfl.node.finding.dialback import (
    DIALBACK_EVERY_SECONDS,
    MAX_DIALBACK_BYTES,
    REQUEST,
    Dialback,
    Outcome,
    Reachability,
    Report,
    addresses_asked_untrusted,
    report_untrusted,
)
from p2pfl.node.transport.network import RequestRefused, Unreachable

ASKER, OTHER = identity(1).peer_id, identity(2).peer_id
PORT = "/tcp/4001"


class Internet:
    """Names, and where the asker answers; counts what was dialled."""

    def __init__(self, observed: str | None = "203.0.113.7") -> None:
        self.seen_at = observed
        self.names = {"own.example": "203.0.113.7", "inside.example": "10.0.0.5", "public.example": "8.8.8.8"}
        self.up = {"203.0.113.7", "8.8.8.8", "2001:db8::7"}
        self.dialled: list[str] = []

    def observed(self, peer: PeerId) -> str | None:
        return self.seen_at

    async def probe(self, address: str, may_dial: Callable[[str], bool]) -> None:
        assert address.endswith(f"/p2p/{ASKER}")
        host = address.split("/")[2]
        ip = self.names.get(host, host)
        if not may_dial(ip):
            raise Unreachable(address, "it leads to no address that may be dialled")
        self.dialled.append(ip)
        if ip not in self.up:
            raise Unreachable(address, "connection refused")


def results(internet: Internet, *addresses: str) -> list[list[str]]:
    async def main() -> list[list[str]]:
        answer = unpack_untrusted(await Dialback(internet).answer(ASKER, pack(list(addresses))), 1 << 20)
        assert isinstance(answer, dict)
        assert answer["observed"] == (internet.seen_at or "")
        found: list[list[str]] = answer["results"]
        return found

    return trio.run(main)


@pytest.mark.parametrize(
    ("address", "state", "reason", "dialled"),
    [
        ("/ip4/203.0.113.7", "reached", "", True),
        ("/ip4/198.51.100.1", "untried", "you do not come from there, as this node sees it", False),
        ("/ip4/10.0.0.5", "untried", "you do not come from there, as this node sees it", False),
        ("/ip4/127.0.0.1", "untried", "you do not come from there, as this node sees it", False),
        ("/dns4/own.example", "reached", "", True),
        ("/dns4/public.example", "reached", "", True),
        ("/dns/inside.example", "failed", "you do not answer there", False),
        ("/dns4/10.0.0.5", "failed", "you do not answer there", False),
    ],
)
def test_only_where_the_asker_is_known_to_be_is_dialled(
    address: str, state: str, reason: str, dialled: bool
) -> None:
    internet = Internet()
    assert results(internet, address + PORT) == [[state, reason]]
    assert bool(internet.dialled) == dialled


@pytest.mark.parametrize("ip", ["64:ff9b::a00:5", "64:ff9b:1::a00:5", "2002:a00:5::1"])
def test_nor_a_private_address_inside_a_public_one(ip: str) -> None:
    """A gateway may make 10.0.0.5 of it."""
    internet = Internet()
    internet.names["hidden.example"] = ip
    assert results(internet, "/dns/hidden.example" + PORT)[0][0] == "failed"
    assert not internet.dialled


def test_why_it_failed_is_said_of_the_askers_own_address_only() -> None:
    internet = Internet()
    internet.up = set()
    assert results(internet, f"/ip4/203.0.113.7{PORT}", f"/dns/public.example{PORT}") == [
        ["failed", "connection refused"],
        ["failed", "you do not answer there"],
    ]


def test_through_a_relay_nobody_is_known_to_be_anywhere() -> None:
    assert results(Internet(None), f"/ip4/203.0.113.7{PORT}")[0][0] == "untried"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        pack([]),
        pack(["/ip4/203.0.113.7/tcp/1"] * 5),
        pack(["/ip4/203.0.113.7/tcp/65536"]),
        pack([f"/ip4/203.0.113.7/tcp/1/p2p/{OTHER}"]),
        pack(["/ip4/203.0.113.7/udp/1"]),
        pack([1]),
        pack(["/dns/" + "a" * 2000 + "/tcp/1"]),
    ],
)
def test_what_is_no_list_of_addresses_is_refused(body: bytes) -> None:
    internet = Internet()
    with pytest.raises(RequestRefused, match="not a list"):
        trio.run(Dialback(internet).answer, ASKER, body)
    assert not internet.dialled


def test_a_peer_is_answered_now_and_then_and_the_others_meanwhile() -> None:
    async def main() -> None:
        internet = Internet()
        dialback, body = Dialback(internet), pack([f"/ip4/198.51.100.1{PORT}"])
        await dialback.answer(ASKER, body)
        with pytest.raises(RequestRefused, match="again in 60 s"):
            await dialback.answer(ASKER, body)
        await dialback.answer(OTHER, body)
        await trio.sleep(DIALBACK_EVERY_SECONDS)
        await dialback.answer(ASKER, body)
        assert len(dialback._answered) == 1

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        pack([]),
        pack({"observed": "", "results": []}),
        pack({"observed": "here", "results": [["reached", ""]]}),
        pack({"observed": "", "results": [["perhaps", ""]]}),
        pack({"observed": "", "results": [["failed", "x" * 121]]}),
        pack({"observed": "", "results": [[1, ""]]}),
    ],
)
def test_an_answer_that_is_none_is_not_believed(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r"^\S"):
        report_untrusted(OTHER, ["/ip4/203.0.113.7/tcp/1"], answer)


def test_reasons_are_fit_for_a_log() -> None:
    answer = pack({"observed": "203.0.113.7", "results": [["failed", "no\x1b[2J"]]})
    outcome = Outcome("/ip4/203.0.113.7/tcp/1", "failed", "no?[2J")
    assert report_untrusted(OTHER, [outcome.address], answer) == Report(OTHER, "203.0.113.7", (outcome,))


def test_what_others_say_is_logged_once_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    """First nobody reaches the private address, nor the one that they see; then the port is opened."""
    open_ports: set[str] = set()
    asked: list[list[str]] = []

    async def ask(peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        assert (name, most) == (REQUEST, MAX_DIALBACK_BYTES)
        addresses = addresses_asked_untrusted(body)
        asked.append(addresses)
        seen = [address.startswith("/ip4/203.0.113.7/") for address in addresses]
        states = [
            ("reached" if address in open_ports else "failed") if there else "untried"
            for address, there in zip(addresses, seen, strict=True)
        ]
        return pack({"observed": "203.0.113.7", "results": [[state, "timed out"] for state in states]})

    async def main() -> None:
        reports: list[Report] = []
        own = [f"/ip4/192.168.0.2/tcp/4001/p2p/{ASKER}", f"/ip4/127.0.0.1/tcp/4001/p2p/{ASKER}"]
        reachability = Reachability(ask, lambda: {OTHER, identity(3).peer_id}, lambda: own, reports.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reachability.run)
            reachability.met()
            await trio.sleep(3000)
            open_ports.add("/ip4/203.0.113.7/tcp/4001")
            await trio.sleep(10_000)
            nursery.cancel_scope.cancel()
        assert reports[-1].reached == ("/ip4/203.0.113.7/tcp/4001",)

    with caplog.at_level(logging.INFO, logger="p2pfl.node.finding.dialback"):
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert asked[0] == ["/ip4/192.168.0.2/tcp/4001"]
    assert asked[1] == ["/ip4/203.0.113.7/tcp/4001", "/ip4/192.168.0.2/tcp/4001"]
    first, second = [record.getMessage() for record in caplog.records]
    assert "not reachable from outside (/ip4/203.0.113.7/tcp/4001: timed out)" in first
    assert "network.announce" in first
    assert second.startswith("reachable from outside: ")


def test_between_real_nodes_an_open_port_and_a_closed_one() -> None:
    """The request goes over a connection that is there: only a fresh one finds the closed port."""

    async def main() -> None:
        middle = transport(2)
        middle._requests[REQUEST] = Dialback(middle).answer
        asker = transport(1)
        async with running(asker, middle):
            await pair(asker, middle)
            own = asker.addresses[0].partition("/p2p/")[0]
            closed, stranger = "/ip4/127.0.0.1/tcp/1", middle.addresses[0].partition("/p2p/")[0]

            async def ask(peer: PeerId, name: str, body: bytes, most: int) -> bytes:
                return await asker.request(peer, name, body, max_response=most, seconds=10)

            addresses = [own, closed, stranger]
            reachability = Reachability(ask, lambda: asker.direct, lambda: addresses, lambda _: None)
            report = await reachability.check(OTHER)
            assert report is not None
            assert report.observed == "127.0.0.1"
            assert [outcome.state for outcome in report.outcomes] == ["reached", "failed", "failed"]
            assert report.outcomes[1].reason == "connection refused"
            assert "another peer id" in report.outcomes[2].reason
            assert len(asker._links) == len(middle._links) == 1

    run(main)


def test_a_peer_that_does_not_answer_is_passed_over() -> None:
    async def ask(peer: PeerId, name: str, body: bytes, most: int) -> bytes:
        raise NetworkError("no", "none")

    reachability = Reachability(ask, lambda: {OTHER}, lambda: ["/ip4/127.0.0.1/tcp/1"], lambda _: None)
    assert trio.run(reachability.ask_some) == []


def test_an_address_within_a_network_is_no_place_to_ask_others_about() -> None:
    """What follows the percent sign can be any text; asked about that, everybody would refuse."""
    for observed in ("fe80::1%eth0", "fe80::1%any\ntext"):
        answer = pack({"observed": observed, "results": []})
        assert report_untrusted(OTHER, [], answer).observed == ""
