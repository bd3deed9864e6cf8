"""What the rounds so far say: whether they complete, and with whom."""

import time
from collections.abc import Callable

from p2pfl.node.doctor.findings import Finding, ok, skipped, warning
from p2pfl.node.doctor.known import Known
from p2pfl.node.errors import UserError
from p2pfl.node.monitoring.participation import Share
from p2pfl.node.monitoring.status import Status, read_status

LATE_SECONDS = 3600.0
"""A node that is learning has completed a round since, or it is said."""


def said_last(known: Known) -> Status | None:
    """The status file; None if there is none that can be read."""
    try:
        return read_status(known.config.state)
    except UserError:
        return None


def lately(known: Known, status: Status | None, now: Callable[[], float] = time.time) -> Finding:
    """Whether the last ones completed."""
    if not known.rounds:
        return skipped("rounds", "none yet")
    completed = [one for one in known.rounds if not one.reason]
    said = f"{len(completed)} of the last {len(known.rounds)} completed"
    hint = "see `p2pfl status --rounds` and docs/handbook.md, Rounds skip"
    if 2 * len(completed) < len(known.rounds):
        why = next(one.reason for one in reversed(known.rounds) if one.reason)
        return warning("rounds", f"{said}; the last was skipped because {why}", hint)
    ago = max(0.0, now() - max(one.at for one in completed))  # the clock may have been ahead
    said = f"{said}, the last {ago / 60:.0f} min ago"
    learning = known.running and status is not None and status.phase == "learning"
    return warning("rounds", said, hint) if learning and ago > LATE_SECONDS else ok("rounds", said)


def participation(status: Status | None) -> Finding:
    """Whether everybody takes part: who drops out silently is named."""
    shares = [] if status is None else [_share(fields) for fields in status.participation]
    if not shares:
        return skipped("participation", "no round yet with anybody")
    missed = [str(share) for share in shares if share.low]
    if missed:
        return warning("participation", "; ".join(missed), "ask them whether their nodes run")
    return ok("participation", f"all of {len(shares)} others took part in half of their last rounds or more")


def _share(fields: dict[str, object]) -> Share:
    return Share(**fields)  # type: ignore[arg-type]  # as `Share.as_dict` wrote it
