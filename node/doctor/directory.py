"""What `p2pfl node --check` looks at, as findings."""

import time
from collections.abc import Iterator
from typing import Final

from p2pfl.gossip.manifest import Manifest
from p2pfl.node.doctor.findings import Finding, failure, looked, ok, skipped, warning, within
from p2pfl.node.doctor.known import Known, admission_of
from p2pfl.node.errors import ExitCode, reason_of
from p2pfl.node.membership.admission import WARN_SECONDS
from p2pfl.node.start import APART, load_records
from p2pfl.node.storage.check import Checked, check_directory

DIRECTORY_SECONDS: Final = 6.0
_DAY = 86_400


def look(known: Known) -> Iterator[Finding]:
    """Everything that was looked at in DIRECTORY_SECONDS."""
    try:
        for checked in within(DIRECTORY_SECONDS, check_directory(known.config)):
            yield _finding(known, checked)
    except TimeoutError:
        why = f"the rest takes longer than {DIRECTORY_SECONDS:g} s; `p2pfl node --check` takes its time"
        yield skipped("directory", why)
    except OSError as error:
        what = f"cannot be looked at: {reason_of(error)} ({error.filename})"
        yield failure("directory", what, "run the doctor as the user that runs the node", ExitCode.STORAGE)


def data(known: Known, manifest: Manifest) -> Finding:
    """The records against a manifest that was not here before."""

    def read() -> Finding:
        records = load_records(known.config, manifest)
        return warning("data", records.doubt, APART) if records.doubt else ok("data", records.said)

    try:
        return next(within(DIRECTORY_SECONDS, (looked("data", each) for each in (read,))))
    except TimeoutError:
        return skipped("data", f"reading it takes longer than {DIRECTORY_SECONDS:g} s")


def ticket(known: Known) -> Finding:
    """Whether this node may take part, and whether there is time left to ask for another ticket."""

    def read() -> Finding:
        expires = admission_of(known).expires
        if expires is None:
            return ok("ticket", "this node's place does not expire")
        left = expires - time.time()
        said = f"{left / _DAY:.1f} days left"
        if left < WARN_SECONDS:
            return warning("ticket", said, "ask an issuer for another")
        return ok("ticket", said)

    return looked("ticket", read)


def _finding(known: Known, checked: Checked) -> Finding:
    if not checked.fine:
        return Finding(checked.name, "failure", checked.said, checked.hint, checked.exit_code)
    if checked.said.startswith("not checked without"):
        return skipped(checked.name, checked.said)
    if checked.name == "ticket" and known.manifest is not None:
        return ticket(known)
    return (
        warning(checked.name, checked.said, checked.hint) if checked.hint else ok(checked.name, checked.said)
    )
