"""The node's state over HTTP: /metrics, /status, /health, /ready, for this machine unless told otherwise.

One answer a connection, which then ends: nothing is pipelined, no body is read. Connections, the length of a
request and the time that one takes are bounded, and what is beyond is hung up on: this must not be what takes
a node down. h11 parses (docs/decisions/022-status-endpoint.md).
"""

import hmac
import ipaddress
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import h11
import trio

from p2pfl.node.config import Endpoint
from p2pfl.node.errors import ConfigError, NetworkError, reason_of
from p2pfl.node.storage.regular_file import regular_only

if TYPE_CHECKING:  # libp2p's requirements bring stubs of trio that do not know trio.TaskStatus
    from trio_typing import TaskStatus

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 16
MOST_REQUEST_BYTES = 8192
SECONDS = 5.0
"""From the connection to the last byte of the answer."""
OPEN_TO_ALL = frozenset({"/health", "/ready"})
"""Asked for by what restarts a node or sends traffic to it; says one word, without the token."""
_LEAST_TOKEN, _MOST_TOKEN = 16, 4096


@dataclass(frozen=True, slots=True)
class Page:
    """An answer. ``kind`` is its media type."""

    body: bytes
    kind: str = "text/plain; charset=utf-8"
    status: int = 200


Pages = Mapping[str, Callable[[], Awaitable[Page]]]

_NOT_FOUND = Page(b"there is /metrics, /status, /examination, /health and /ready\n", status=404)
_NOT_A_GET = Page(b"only GET is answered\n", status=405)
_NO_TOKEN = Page(b"send the token: Authorization: Bearer ...\n", status=401)
_BY_NAME = Page(b"ask by IP address or as localhost, or with a token (docs/metrics.md)\n", status=421)
_BROKEN = Page(b"this page is broken; the node's log says how\n", status=500)


class StatusServer:
    """Serves ``pages``, by path; all but :data:`OPEN_TO_ALL` only to who sends ``token``, if there is one."""

    def __init__(self, pages: Pages, token: bytes | None) -> None:
        self._pages = pages
        self._token = token
        self._open = 0

    async def run(
        self, endpoint: Endpoint, *, task_status: "TaskStatus[Endpoint]" = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; reports where it listens. Raises NetworkError if it cannot."""
        try:
            listeners = await trio.open_tcp_listeners(
                endpoint.port, host=endpoint.host, backlog=MOST_CONNECTIONS
            )
        except OSError as error:
            what = f"status.listen: cannot listen on {endpoint}: {reason_of(error)}"
            raise NetworkError(what, "name a free port; port 0 takes any") from error
        port = listeners[0].socket.getsockname()[1]
        task_status.started(Endpoint(endpoint.host, port))
        await trio.serve_listeners(self.serve, listeners)

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer the one request that comes over ``stream``, and close it."""
        if self._open < MOST_CONNECTIONS:
            self._open += 1
            try:
                with trio.move_on_after(SECONDS):
                    await self._converse(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            finally:
                self._open -= 1
        await trio.aclose_forcefully(stream)

    async def _converse(self, stream: trio.abc.Stream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MOST_REQUEST_BYTES)
        try:
            request = await _request(stream, connection)
        except h11.RemoteProtocolError as error:
            page = Page(b"this is not a request\n", status=error.error_status_hint)
        else:
            if request is None:
                return
            page = await self._answer(request)
        headers = [
            ("content-type", page.kind),
            ("content-length", str(len(page.body))),
            ("cache-control", "no-store"),
            ("connection", "close"),
        ]
        if page.status == 401:
            headers.append(("www-authenticate", "Bearer"))
        parts = (
            connection.send(
                h11.Response(
                    status_code=page.status, headers=headers, reason=HTTPStatus(page.status).phrase.encode()
                )
            ),
            connection.send(h11.Data(page.body)),
            connection.send(h11.EndOfMessage()),
        )
        await stream.send_all(b"".join(part or b"" for part in parts))
        # A peer that is still sending would lose the answer if we hung up on unread bytes.
        if isinstance(stream, trio.SocketStream):
            await stream.send_eof()
            while await stream.receive_some(MOST_REQUEST_BYTES):
                pass

    async def _answer(self, request: h11.Request) -> Page:
        path = request.target.decode("ascii").partition("?")[0]
        if request.method != b"GET":
            return _NOT_A_GET
        if path not in OPEN_TO_ALL and not self._knows_the_token(request):
            return _NO_TOKEN
        if path not in OPEN_TO_ALL and self._token is None and not _is_sent_by_address(request):
            return _BY_NAME
        if path not in self._pages:
            return _NOT_FOUND
        try:
            return await self._pages[path]()
        except Exception:
            log.exception("cannot show %s", path)
            return _BROKEN

    def _knows_the_token(self, request: h11.Request) -> bool:
        if self._token is None:
            return True
        given = [value for name, value in request.headers if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], b"Bearer " + self._token)


def _is_sent_by_address(request: h11.Request) -> bool:
    """Whether it names an IP address or localhost. A page of the web that somebody looks at on this machine,
    and whose name was made to lead here, asks by that name.
    """
    host = next((value.decode("latin-1") for name, value in request.headers if name == b"host"), "")
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host in ("", "localhost")  # HTTP/1.0 need not say; browsers do
    return True


async def _request(stream: trio.abc.Stream, connection: h11.Connection) -> h11.Request | None:
    """The head of the request; None if the peer hung up. Raises h11.RemoteProtocolError."""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await stream.receive_some(MOST_REQUEST_BYTES))


def read_token(path: Path) -> bytes:
    """The token in ``path``, without the line's end. Raises ConfigError if it is none, or open to others."""
    hint = f"make one: (umask 077; openssl rand -hex 32 > {path})"
    try:
        with open(path, "rb", opener=regular_only) as file:
            token = file.read(_MOST_TOKEN + 1).strip()
            open_to_others = os.fstat(file.fileno()).st_mode & 0o077
    except OSError as error:
        raise ConfigError("status.token_file", f"cannot read {path}: {reason_of(error)}", hint) from None
    if not _LEAST_TOKEN <= len(token) <= _MOST_TOKEN or not all(33 <= byte < 127 for byte in token):
        what = f"{path} holds no token: one word of {_LEAST_TOKEN} or more printable characters"
        raise ConfigError("status.token_file", what, hint)
    if open_to_others:
        hint = f"chmod 600 {path}, and if anyone may have read it, make another"
        raise ConfigError("status.token_file", f"{path}: open to others", hint)
    return token
