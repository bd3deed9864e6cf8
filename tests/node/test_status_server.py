"""The status pages over HTTP: what is answered, to whom, and what is hung up on."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from p2pfl.node.config import Endpoint
from p2pfl.node.errors import ConfigError, NetworkError
from p2pfl.node.monitoring.status_server import (
    MOST_CONNECTIONS,
    MOST_REQUEST_BYTES,
    SECONDS,
    Page,
    StatusServer,
    read_token,
)

TOKEN = b"0123456789abcdef"
LOCAL = Endpoint("127.0.0.1", 0)


async def metrics() -> Page:
    return Page(b"one 1\n")


async def health() -> Page:
    return Page(b"ok\n")


async def broken() -> Page:
    raise ValueError("oops")


PAGES: dict[str, Callable[[], Awaitable[Page]]] = {
    "/metrics": metrics,
    "/health": health,
    "/broken": broken,
}


async def answer(request: bytes, token: bytes | None = None) -> bytes:
    """All that comes back, until the server hangs up."""
    server = StatusServer(PAGES, token)
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, theirs)
        await ours.send_all(request)
        return b"".join([part async for part in ours])


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1:9464", *headers, "", ""]).encode()


def ask(request: bytes, token: bytes | None = None) -> bytes:
    return trio.run(answer, request, token, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_page_is_one_answer_and_the_end() -> None:
    heard = ask(get("/metrics"))
    head, _, body = heard.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nconnection: close" in head
    assert b"\r\ncontent-length: 6" in head
    assert body == b"one 1\n"


def test_a_second_request_behind_the_first_is_not_answered() -> None:
    assert ask(get("/health") + get("/metrics")).endswith(b"\r\n\r\nok\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (get("/nothing"), b"404"),
        (get("/metrics?x=1"), b"200"),
        (get("/broken"), b"500"),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde", b"405"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"y" * MOST_REQUEST_BYTES, b"431"),
    ],
)
def test_what_else_is_asked_gets_its_status(request_: bytes, status: bytes) -> None:
    assert ask(request_).split()[1] == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Authorization: Bearer 0123456789abcdef"], b"200"),
        ([], b"401"),
        (["Authorization: Bearer 0123456789abcdeX"], b"401"),
        (["Authorization: Basic 0123456789abcdef"], b"401"),
        (["Authorization: Bearer 0123456789abcdef", "Authorization: Bearer x"], b"401"),
    ],
)
def test_the_token_is_asked_for(headers: list[str], status: bytes) -> None:
    assert ask(get("/metrics", *headers), TOKEN).split()[1] == status
    assert ask(get("/nothing", *headers), TOKEN).split()[1] == (b"404" if status == b"200" else b"401")
    assert ask(get("/health"), TOKEN).split()[1] == b"200"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9464", b"200"),
        ("localhost:9464", b"200"),
        ("[::1]:9464", b"200"),
        ("rebound.example:9464", b"421"),
        ("127.0.0.1.example", b"421"),
        ("[::1", b"200"),
    ],
)
def test_a_page_of_the_web_whose_name_leads_here_reads_nothing(host: str, status: bytes) -> None:
    """DNS rebinding. The token would stop it, too."""
    request = get("/metrics").replace(b"127.0.0.1:9464", host.encode())
    assert ask(request).split()[1] == status
    assert ask(request.replace(b"/metrics", b"/health")).split()[1] == b"200"
    with_token = request.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer " + TOKEN + b"\r\n\r\n")
    assert ask(with_token, TOKEN).split()[1] == b"200"


def test_who_is_slow_is_hung_up_on() -> None:
    async def dawdle() -> float:
        server = StatusServer(PAGES, None)
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, theirs)
            await ours.send_all(b"GET /met")
            assert await ours.receive_some() == b""
            return trio.current_time()

    clock = trio.testing.MockClock(autojump_threshold=0)
    assert trio.run(dawdle, clock=clock) == SECONDS


def test_connections_beyond_the_bound_are_hung_up_on_and_room_comes_back() -> None:
    async def crowd() -> None:
        server = StatusServer(PAGES, None)
        async with trio.open_nursery() as nursery:
            held = [trio.testing.memory_stream_pair() for _ in range(MOST_CONNECTIONS)]
            for _, theirs in held:
                nursery.start_soon(server.serve, theirs)
            await trio.testing.wait_all_tasks_blocked()
            ours, theirs = trio.testing.memory_stream_pair()
            await server.serve(theirs)
            assert await ours.receive_some() == b""
            assert trio.current_time() == 0
            for ours, _ in held:
                await ours.aclose()
            await trio.testing.wait_all_tasks_blocked()
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(server.serve, theirs)
            await ours.send_all(get("/health"))
            assert (await ours.receive_some()).startswith(b"HTTP/1.1 200")

    trio.run(crowd, clock=trio.testing.MockClock(autojump_threshold=0))


def test_it_listens_says_where_and_answers_in_full_though_more_is_sent() -> None:
    async def listen() -> None:
        async with trio.open_nursery() as nursery:
            where = await nursery.start(StatusServer(PAGES, None).run, LOCAL)
            assert where.port > 0
            stream = await trio.open_tcp_stream(where.host, where.port)
            await stream.send_all(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n")
            await stream.send_all(b"x" * 70000)
            await stream.send_eof()
            assert b"".join([part async for part in stream]).startswith(b"HTTP/1.1 405")
            with pytest.raises(NetworkError, match=r"status\.listen: cannot listen on 127\.0\.0\.1"):
                await StatusServer(PAGES, None).run(where)
            nursery.cancel_scope.cancel()

    trio.run(listen)


def test_a_token_is_one_word(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(TOKEN + b"\n")
    path.chmod(0o600)
    assert read_token(path) == TOKEN
    for wrong in (b"", b"short", b"two words that are long", b"x" * 5000, "ß".encode() * 20):
        path.write_bytes(wrong)
        with pytest.raises(ConfigError, match=r"status\.token_file") as caught:
            read_token(path)
        assert wrong.decode() not in caught.value.what or not wrong
    path.write_bytes(TOKEN)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="open to others"):
        read_token(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_token(tmp_path / "gone")
