"""The network key: the cipher, who gets in with it, and what a port without it says."""

import logging
from pathlib import Path

import nacl.bindings
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from transports import identity, next_of, run, running, transport, until

from p2pfl.node.errors import ConfigError
from p2pfl.node.hardened.keyed import _FIRST_WORDS, _XSalsa20
from p2pfl.node.membership.network_key import FILE_HEAD, new_key_file, read_key
from p2pfl.node.transport.network import MessageReceived, PeerConnected, Transport, Unreachable

KEY, OTHER = bytes(range(32)), bytes(32)


@settings(max_examples=20)
@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=24, max_size=24),
    st.lists(st.binary(max_size=200)),
)
def test_it_is_xsalsa20_whatever_pieces_it_comes_in(key: bytes, nonce: bytes, pieces: list[bytes]) -> None:
    """libsodium's secret box has it, after the 32 bytes that it takes for its authenticator."""
    cipher, whole = _XSalsa20(key, nonce), b"".join(pieces)
    assert cipher.apply(bytes(32)) is not None
    boxed = nacl.bindings.crypto_secretbox(whole, nonce, key)
    assert b"".join(map(cipher.apply, pieces)) == boxed[16:]


def test_members_with_the_key_talk() -> None:
    async def main() -> None:
        one, two = transport(1, network_key=KEY), transport(2, network_key=KEY)
        async with running(one, two):
            await one.connect(two.addresses[0])
            await next_of(two, PeerConnected)
            two.send(identity(1).peer_id, b"x" * 300_000)
            assert (await next_of(one, MessageReceived)).data == b"x" * 300_000
            assert (
                await one.request(identity(2).peer_id, "echo", b"back", max_response=9, seconds=5) == b"back"
            )

    run(main)


@pytest.mark.parametrize(
    ("dialler", "listener", "words"),
    [(KEY, OTHER, "another network key"), (None, KEY, "no network key"), (KEY, None, "")],
    ids=["another", "none there", "none here"],
)
def test_others_are_hung_up_on_at_once(
    dialler: bytes | None, listener: bytes | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        one, two = transport(1, network_key=dialler), transport(2, network_key=listener)
        async with running(one, two):
            with trio.fail_after(3), pytest.raises(Unreachable):
                await one.connect(two.addresses[0])
            await until(lambda: words in caplog.text)

    run(main)


async def answer_to(node: Transport, sent: bytes) -> bytes:
    """All that comes back within what a handshake may take."""
    port = int(node.addresses[0].split("/")[4])
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(sent)
    heard = b""
    with trio.move_on_after(0.3):
        while piece := await stream.receive_some():
            heard += piece
    await stream.aclose()
    return heard


def test_a_scan_of_ports_hears_nothing() -> None:
    async def main() -> None:
        keyed, plain = transport(1, network_key=KEY), transport(2)
        async with running(keyed, plain):
            for sent in (b"", b"GET / HTTP/1.0\r\n\r\n", _FIRST_WORDS, bytes(24), bytes(400)):
                assert await answer_to(keyed, sent) == b""
            assert _FIRST_WORDS in await answer_to(plain, _FIRST_WORDS)

    run(main)


def test_the_file_is_go_libp2ps_and_belongs_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "network.key"
    path.write_bytes(new_key_file())
    path.chmod(0o600)
    assert path.read_text().splitlines()[:2] == ["/key/swarm/psk/1.0.0/", "/base16/"]
    assert read_key(path).hex() == path.read_text().splitlines()[2]
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        read_key(path)
    for text in ("", "secret", FILE_HEAD, f"{FILE_HEAD}{'0' * 63}g\n", f"{FILE_HEAD}{'0' * 62}\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="not a network key"):
            read_key(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(tmp_path / "none")
