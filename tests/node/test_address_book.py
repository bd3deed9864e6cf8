"""What is remembered of where members were met: its order, its bounds, and what is too old."""

from pathlib import Path

import pytest

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.canonical import pack
from p2pfl.node.finding import address_book
from p2pfl.node.finding.address_book import MOST_KEPT_ADDRESSES, OLD_SECONDS, Met, worth_trying
from p2pfl.node.storage import store
from p2pfl.node.storage.store import Store

ONE, TWO, THREE = (Identity.from_seed(bytes([i]) * 32).peer_id for i in (1, 2, 3))
WHERE = ("/dns4/hospital.example/tcp/4001", "/ip4/192.0.2.1/tcp/4001")


def test_entries_keep_their_order_and_are_bounded() -> None:
    assert Met.from_bytes(Met(WHERE, 17).to_bytes()) == Met(WHERE, 17)
    many = Met(tuple(f"/ip4/192.0.2.1/tcp/{port}" for port in range(1, 99)), 17)
    assert Met.from_bytes(many.to_bytes()).addresses == many.addresses[:MOST_KEPT_ADDRESSES]


def test_what_an_older_p2pfl_wrote_is_read() -> None:
    assert Met.from_bytes(pack(list(WHERE))) == Met(WHERE, 0)
    assert Met.from_bytes(pack([])) == Met((), 0)


@pytest.mark.parametrize(
    "raw", [b"", pack(1), pack([-1, []]), pack([1, 2]), pack([1, [2]]), pack([True, []])]
)
def test_what_is_no_entry_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Met.from_bytes(raw)


def test_old_is_long_before_the_latest_and_not_long_before_now() -> None:
    book = {ONE: Met(WHERE, 1), TWO: Met(WHERE, 1 + OLD_SECONDS), THREE: Met(WHERE, 0)}
    assert list(worth_trying(book)) == [TWO, ONE, THREE]
    book[TWO] = Met(WHERE, 2 + OLD_SECONDS)
    assert list(worth_trying(book)) == [TWO, THREE]


def test_the_store_keeps_those_met_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_REMEMBERED", 2)
    assert address_book.MOST_REMEMBERED == 256
    with Store.open(tmp_path / "state", Identity.from_seed(bytes(32))) as kept:
        for peer in (ONE, TWO, ONE, THREE):
            kept.remember_peer(peer, WHERE)
        assert set(kept.peers()) == {ONE, THREE}
        assert kept.peers()[ONE] == WHERE
