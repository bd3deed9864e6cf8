"""Where the node runs: it is asked, over its status pages. Nothing is opened that it holds."""

from collections.abc import Iterator
from typing import Any, Final

from p2pfl.crypto.identity import PeerId
from p2pfl.node.config import Endpoint
from p2pfl.node.doctor.findings import Finding, failure, ok, skipped, warning
from p2pfl.node.doctor.known import Known
from p2pfl.node.doctor.members import examined, none_of, reachable, reached
from p2pfl.node.doctor.rounds import said_last
from p2pfl.node.errors import ExitCode, UserError
from p2pfl.node.examination import Examined
from p2pfl.node.monitoring.status import Status, ask_page, ask_status
from p2pfl.node.monitoring.status_server import read_token

LATE_SECONDS: Final = 1.0
"""By which the event loop may be late before it is said."""


def ask_the_node(known: Known) -> Iterator[Finding]:
    """What it says of itself and of the members that are connected to it."""
    config, last = known.config, said_last(known)
    if config.status_listen is None or last is None or not last.status_at:
        why = "the node runs and shows no status pages: set status.listen, or stop it for a moment"
        yield ok("node", "running; it shows no status pages")
        yield from none_of(why)
        return
    host, port = last.status_at
    endpoint = Endpoint(str(host), int(port))
    try:
        token = None if config.status_token_file is None else read_token(config.status_token_file)
    except UserError as error:
        yield failure("node", error.what, error.hint, error.exit_code)
        yield from none_of("the token of the status pages cannot be read")
        return
    status = ask_status(endpoint, token)
    if status is None:
        hint = (
            "it is starting, or busy, or hangs, or another has its port: see its log; systemd restarts one"
            " that hangs"
        )
        yield failure("node", f"runs, and does not answer at {endpoint}", hint, ExitCode.NETWORK)
        yield from none_of("the node does not answer")
        return
    yield _node(status)
    yield from _members(known, status, ask_page(endpoint, token, "/examination"))


def _node(status: Status) -> Finding:
    uses = status.process
    late = uses.get("loop_delay_worst_seconds", 0.0)
    round = f", round {status.round}" if status.phase == "learning" else ""
    said = (
        f"running, {status.phase}{round}; {uses.get('resident_bytes', 0) / 1e6:.0f} MB,"
        f" {uses.get('open_files', 0):.0f} files open, the event loop at most {late * 1000:.0f} ms late"
    )
    if late > LATE_SECONDS:
        return warning("node", said, "the machine is too busy: the log says what ran; see limits.threads")
    return ok("node", said)


def _members(known: Known, status: Status, page: object) -> Iterator[Finding]:
    listed = () if known.manifest is None else known.manifest.members
    own = known.identity.peer_id if known.identity else ""
    yield reached(status.connected, {}, len({*known.met, *listed} - {own}))
    yield reachable(status.reachability)
    relays = (
        "this node relays for others"
        if known.config.relay
        else "the node asks members for one where it needs it"
    )
    yield skipped("relay", relays)
    yield from examined([_examined(fields) for fields in page] if isinstance(page, list) else [])


def _examined(fields: dict[str, Any]) -> Examined:
    return Examined(**{**fields, "peer": PeerId(fields["peer"])})
