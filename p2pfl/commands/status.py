"""``p2pfl status``: what a node is doing, and what its peers did against the protocol."""

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pfl.node.errors import UsageError
from p2pfl.terminal import alarm, one_line

if TYPE_CHECKING:
    from p2pfl.node.config import NodeConfig
    from p2pfl.node.monitoring.status import Status
    from p2pfl.opened import State
    from p2pfl.personal_figures import PersonalFigures


_SHOWN = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``p2pfl status``."""
    parser.description = (
        "Say whether the node runs, which round it is in, what it has spent of its privacy budget and will"
        " have at the planned end, where its model is, how good the federation has found it, how good the"
        " model of `p2pfl personalise` was beside it, why the"
        " federation ended if it has, who is excluded because its signed messages contradict each other, and"
        " what else was done against the protocol. Asks the node, if it runs, and otherwise reads what it"
        " wrote last."
    )
    parser.add_argument("--config", metavar="FILE", type=Path, required=True, help="the node's TOML")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--rounds",
        metavar="N|FROM-TO",
        nargs="?",
        const="10",
        help="show the receipts of the last N rounds (default 10), or of a range, instead",
    )
    parser.add_argument(
        "--verify", action="store_true", help="with --rounds: check every signature of these receipts"
    )


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    from p2pfl.opened import opened_state

    if options.verify and options.rounds is None:
        raise UsageError("--verify goes with --rounds", "give --rounds N --verify")
    with opened_state(options.config) as state:
        if options.rounds is not None:
            from p2pfl.round_report import show_rounds

            return show_rounds(state.store, options.rounds, as_json=options.json, verify=options.verify)
        report = _look(state)
    if options.json:
        print(json.dumps(report.as_dict(), indent=1))
        return 0
    for line in report.lines():
        print(line)
    return 0


@dataclass(frozen=True, slots=True)
class _Report:
    """``said``: what the node says about itself, or last wrote.

    ``evidence``: (peer, what it did, messages kept).
    ``excluded``: (peer, what it did, since when: a date and time in UTC). ``saturated``: how many of this
    node's values were beyond the encoding's limit, in each round in which any were. ``left_out``: how often a
    gradient of its records was not finite, likewise. ``end``: epsilon at the
    planned end; None if there is none, or it is infinite. ``voted``: whether a vote ended the federation, so
    that this is what holds. ``personal``: what is known of the node's personal model. ``silent``: where
    its status pages did not answer though it runs.
    """

    name: str
    federation: str
    running: bool
    said: "Status"
    evidence: Sequence[tuple[str, str, int]]
    excluded: Sequence[tuple[str, str, str]]
    saturated: Sequence[int]
    left_out: Sequence[int]
    end: float | None
    voted: bool
    personal: "PersonalFigures | None" = None
    silent: str = ""

    def as_dict(self) -> dict[str, object]:
        kept = [{"peer": peer, "kind": kind, "messages": count} for peer, kind, count in self.evidence]
        out = [{"peer": peer, "kind": kind, "since": since} for peer, kind, since in self.excluded]
        cut = {
            "saturated_values": sum(self.saturated),
            "saturated_rounds": len(self.saturated),
            "left_out_gradients": sum(self.left_out),
            "left_out_rounds": len(self.left_out),
        }
        now = {"running": self.running, "epsilon_at_the_end": self.end, "ended_by_vote": self.voted}
        if self.voted:
            now["epsilon"] = self.end
        personal = None if self.personal is None else asdict(self.personal)
        return {**asdict(self.said), **now, "personal": personal, "evidence": kept, "excluded": out, **cut}

    def lines(self) -> Iterator[str]:
        said = self.said
        yield f"node: {said.peer}, {'running' if self.running else 'not running'}"
        yield f"federation: {self.name} ({self.federation[:12]}…)"
        where = f", round {said.round} ({said.stage})" if said.phase == "learning" else ""
        now = f"{where}, {said.connected} members connected" if self.running else ", when it last ran"
        yield f"phase: {said.phase}{now}"
        if self.silent:
            yield alarm(
                f"no answer from {self.silent}: the node is starting, or busy, or hangs;"
                " this is what it wrote last"
            )
        if said.process:
            yield _process(said.process)
        skip = f"; the last because {said.last_skip}" if said.last_skip else ""
        yield (
            f"rounds: {said.training_completed} of {said.rounds_total} in training,"
            f" {said.completed} completed in all, {said.skipped} skipped{skip}"
        )
        if said.reachability:
            yield f"reachable from outside: {_reachability(said.reachability)}"
        if said.ticket_expires is not None:
            yield _ticket(said.ticket_expires)
        if said.idle:
            yield alarm(f"training: none here in the last training round: {said.idle}")
        yield f"epsilon: {self._epsilon()}"
        yield f"model: {said.model or 'none yet'}"
        yield from self._evaluations()
        yield from self._beside()
        yield from self._participation()
        if said.ended:
            yield f"ended: {said.ended}"
        if self.saturated:
            yield alarm(
                f"saturated: {sum(self.saturated)} values of this node in {len(self.saturated)} rounds were"
                " beyond training.parameter_limit and were cut"
            )
        if self.left_out:
            yield alarm(
                f"left out: {sum(self.left_out)} gradients of this node's records in {len(self.left_out)}"
                " rounds were not finite: these records taught nothing"
            )
        for peer, kind, since in self.excluded:
            who = f"{peer} (this node)" if peer == said.peer else peer
            yield alarm(f"excluded: {who}: {one_line(kind)}, known since {since}")
        if not self.evidence:
            yield "evidence: none"
        for peer, kind, count in self.evidence:
            yield alarm(f"evidence: {peer}: {one_line(kind)} ({count} signed messages kept)")

    def _participation(self) -> Iterator[str]:
        from p2pfl.node.monitoring.participation import missed_on_the_whole
        from p2pfl.round_report import participation_lines

        yield from participation_lines(self.said.participation, _SHOWN)
        missed = missed_on_the_whole(self.said.participation) if self.said.ended else ""
        if missed:
            yield alarm(f"ended without some of its members: {missed}")

    def _evaluations(self) -> Iterator[str]:
        from p2pfl.commands.evaluate import named

        history = self.said.evaluations
        if len(history) > _SHOWN:
            yield f"evaluations: {len(history)}, of which the last {_SHOWN}:"
        for measured in history[-_SHOWN:]:
            figures = dict(measured)
            round, members, total = (figures.pop(name, None) for name in ("round", "members", "total"))
            who = f"{members} members" if total is None else f"{total:.0f} records of {members} members"
            said = ", ".join(named(name, figure) for name, figure in figures.items())
            if not figures:
                few = total is None and self.said.privacy_mode != "organisation"
                said = "does not count, too few records are in it" if few else "lost in noise"
            yield f"evaluation in round {round}: {said} ({who})"

    def _beside(self) -> Iterator[str]:
        """The personal model, and the shared one on the same records."""
        from p2pfl.commands.evaluate import named

        found = self.personal
        if found is None:
            return
        yield f"personal model: the shared one of round {found.round}, fitted to {found.records} own records"
        for name, figures in (("shared", found.shared), ("personal", found.personal)):
            if figures is not None:
                said = ", ".join(named(one, figure) for one, figure in figures.items() if one != "total")
                yield f"{name} model on {figures['total']:.0f} held-out records: {said}"

    def _epsilon(self) -> str:
        said = self.said
        if said.privacy_mode == "none":
            return alarm("NONE: the federation's mode promises no privacy")
        limit = "" if said.epsilon_budget is None else f" of {said.epsilon_budget:g} at delta {said.delta:g}"
        if self.voted and self.end is not None:
            return f"{self.end:.3f}{limit}, at the planned end: this is what holds after a vote to end"
        end = "" if self.end is None else f"; {self.end:.3f} at the planned end"
        if said.epsilon is None:
            return f"being spent; p2pfl privacy computes it{end}"
        return f"{said.epsilon:.3f}{limit}{end}"


def _reachability(said: Mapping[str, Any]) -> str:
    """What a member last said when it was asked to dial back."""
    reached, failed = said["reached"], said["failed"]
    if reached:
        return one_line(f"yes, by {said['peer']} at {', '.join(reached)}")
    tried = "; ".join(f"{address}: {reason}" for address, reason in failed.items())
    if not tried:
        return one_line(f"not known; {said['peer']} sees this node at {said['observed'] or 'no address'}")
    return alarm(one_line(f"no, {said['peer']} tried ({tried}); open or forward the port"))


def _look(state: "State") -> _Report:
    from p2pfl.node.monitoring.status import read_status
    from p2pfl.node.outlook import is_voted
    from p2pfl.node.storage.lock import is_locked
    from p2pfl.personal_figures import personal_figures

    running = is_locked(state.config.state)
    found = read_status(state.config.state)
    silent = ""
    if running and found.status_at:
        silent, found = _asked(found, state.config)
    found.model = str(state.store.model_path or "")
    found.privacy_mode = found.privacy_mode or state.manifest.privacy.mode  # not said yet while starting
    kept = [(str(peer), kind, len(messages)) for peer, kind, messages in state.store.evidence()]
    excluded = [
        (str(exclusion.ground.against), exclusion.ground.why, _moment(exclusion.since))
        for exclusion in state.store.exclusions()
    ]
    outcomes = state.store.rounds()
    saturated = [outcome.saturated for outcome in outcomes if outcome.saturated]
    left_out = [outcome.left_out for outcome in outcomes if outcome.left_out]
    name, federation = state.manifest.name, state.manifest.federation_id
    end = _planned_end(state)
    voted = is_voted(state.manifest, state.store)
    personal = personal_figures(state.config.state)
    report = (name, federation, running, found, kept, excluded, saturated, left_out, end, voted)
    return _Report(*report, personal, silent)


def _asked(found: "Status", config: "NodeConfig") -> tuple[str, "Status"]:
    """What the node says that runs, and nothing; or where it did not answer, and what is ``found``."""
    from p2pfl.node.config import Endpoint
    from p2pfl.node.monitoring.status import ask_status
    from p2pfl.node.monitoring.status_server import read_token

    host, port = found.status_at
    endpoint = Endpoint(str(host), int(port))
    token = None if config.status_token_file is None else read_token(config.status_token_file)
    live = ask_status(endpoint, token)
    return (str(endpoint), found) if live is None else ("", live)


def _process(uses: Mapping[str, float]) -> str:
    return (
        f"process: {uses['resident_bytes'] / 1e6:.0f} MB, {uses['open_files']:.0f} files open,"
        f" {uses['tasks']:.0f} tasks, {uses['threads']:.0f} threads; the event loop at most"
        f" {uses['loop_delay_worst_seconds'] * 1000:.0f} ms late in the last minute or two"
    )


def _planned_end(state: "State") -> float | None:
    """Epsilon when the programme is over; None if the mode promises none, or it is infinite."""
    from p2pfl.node.accountant import epsilon
    from p2pfl.node.outlook import outlook

    manifest, store = state.manifest, state.store
    if manifest.privacy.mode == "none":
        return None
    ahead = outlook(manifest, store.charges(), store.rounds(), store.place, store.carried())
    end = epsilon(ahead.mechanisms, manifest.privacy.delta).pld
    return end if math.isfinite(end) else None


def _ticket(expires: float) -> str:
    from p2pfl.node.membership.admission import WARN_SECONDS

    left, until = expires - time.time(), _moment(int(expires))
    line = f"ticket: {left / 86_400:.1f} days left, until {until}" if left > 0 else f"ticket: expired {until}"
    return alarm(f"{line}; ask an issuer for another") if left < WARN_SECONDS else line


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
