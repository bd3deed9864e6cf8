"""`p2pfl doctor`: everything that has stopped a node before, looked at before it stops this one.

    findings   one line a check: ok, warning, failure, or skipped and why
    known      what key, config and state directory say
    machine    versions, memory, threads, files, disk; the clock, last: members may have told of theirs
    directory  what `p2pfl node --check` looks at
    network    names and ports
    rounds     whether they complete, and with whom
    running    where the node runs: it is asked
    visit      where it does not: the doctor calls members itself, for some seconds
    members    what they say, either way

Nothing here writes to ledger, model or config, and every part has a deadline.
"""

from collections.abc import Iterator
from dataclasses import replace

from p2pfl.node.config import NodeConfig
from p2pfl.node.doctor import directory, machine, rounds
from p2pfl.node.doctor.directory import DIRECTORY_SECONDS
from p2pfl.node.doctor.findings import Finding, failure, ok, within
from p2pfl.node.doctor.known import Known, what_is_known
from p2pfl.node.doctor.members import none_of
from p2pfl.node.errors import ExitCode, UserError
from p2pfl.node.storage.lock import is_locked, locked


def examine_node(config: NodeConfig, *, must_run: bool) -> Iterator[Finding]:
    """Look at everything. ``must_run``: a node that does not run is a failure, and is not stood in for."""
    yield machine.installed()
    known = _known(config)
    written = machine.last_written(known)  # before the doctor writes there
    yield from (machine.writable(known), machine.memory(known))
    yield from (machine.threads(known), machine.open_files(), machine.graphics())
    yield from directory.look(known)
    status = rounds.said_last(known)
    yield from (rounds.lately(known, status), rounds.participation(status))
    members_agree = False
    for finding in _network(known, must_run=must_run):
        yield finding
        # A warning is about a few members that are off: this machine agrees with most.
        members_agree |= finding.name == "clocks" and finding.state in ("ok", "warning")
    yield machine.clock(known, written, members_agree=members_agree)


def _known(config: NodeConfig) -> Known:
    try:
        return next(within(DIRECTORY_SECONDS, (what_is_known(each) for each in (config,))))
    except TimeoutError:
        return Known(config, is_locked(config.state))


def _network(known: Known, *, must_run: bool) -> Iterator[Finding]:
    from p2pfl.node.doctor import network  # brings libp2p's addresses along

    yield network.names(known.config)
    port = network.ports(known)
    yield port
    if known.running:
        from p2pfl.node.doctor.running import ask_the_node

        yield from ask_the_node(known)
    elif must_run:
        yield failure("node", "does not run", "see its log, and `systemctl status`", ExitCode.STORAGE)
        yield from none_of("the node does not run")
    else:
        yield ok("node", "does not run; the doctor calls members in its place, for some seconds")
        yield from _stand_in(known, listening=port.state == "ok")


def _stand_in(known: Known, *, listening: bool) -> Iterator[Finding]:
    if known.identity is None or not known.federation:
        yield from none_of("it takes a key and a federation")
        return
    from p2pfl.node.doctor.visit import visit

    try:
        with locked(known.config.state):
            visited = visit(known, listening=listening)
    except UserError as error:
        yield from none_of(error.what)
        return
    yield from visited.findings
    if known.manifest is None and visited.manifest is not None:
        found = replace(known, manifest=visited.manifest)
        yield from (directory.ticket(found), directory.data(found, visited.manifest), machine.memory(found))


__all__ = ["Finding", "examine_node"]
