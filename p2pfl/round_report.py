"""What ``p2pfl status --rounds`` shows: the receipts of a node's rounds, and who took part in them."""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from p2pfl.node.errors import StorageError, UsageError
from p2pfl.node.monitoring.participation import LEAST, LOW
from p2pfl.node.storage.receipts import Kept
from p2pfl.node.storage.store import Store
from p2pfl.terminal import alarm, one_line

_RANGE = re.compile(r"([0-9]{1,12})(?:-([0-9]{1,12}))?")
LAST = "10"


def show_rounds(store: Store, asked: str, *, as_json: bool, verify: bool) -> int:
    """Print the last so many rounds that are ``asked`` for (N), or those of a range (FROM-TO).

    ``verify``: check every signature of them first; raises StorageError naming the first that is false.
    """
    kept = _chosen(store.receipts(), asked)
    if verify:
        _require_true(kept)
    if as_json:
        print(json.dumps([one.as_dict() for one in kept], indent=1))
        return 0
    for one in kept:
        for line in _lines(one):
            print(line)
    if verify:
        print(f"every signature of these {len(kept)} receipts is true")
    if not kept:
        print("no receipts of these rounds")
    return 0


def _chosen(receipts: Sequence[Kept], asked: str) -> list[Kept]:
    found = _RANGE.fullmatch(asked)
    if not found:
        raise UsageError(f"--rounds: not a number or a range: {one_line(asked)!r}", "give 10, or 100-120")
    if found[2] is None:
        return list(receipts[-int(found[1]) :]) if int(found[1]) else []
    return [one for one in receipts if int(found[1]) <= one.receipt.round <= int(found[2])]


def _require_true(kept: Sequence[Kept]) -> None:
    for one in kept:
        if false := one.false():
            raise StorageError(false, "restore a backup made after this node's last round")


def _lines(kept: Kept) -> Iterator[str]:
    one = kept.receipt
    when = datetime.fromtimestamp(one.ended, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    epsilon = f", epsilon at most {float(one.epsilon):.3f} (Rényi)" if one.epsilon else ""
    head = f"round {one.round} ({one.stage or 'not begun'}), {when}"
    if one.completed:
        signed = f"{len(kept.agreed)} of {len(one.survivors)} signed this sum"
        yield f"{head}: completed with {len(one.survivors)} of {len(one.group)} members, {signed}{epsilon}"
        yield f"  result {one.result.hex()[:16]}…, roster {one.roster.hex()[:16]}…"
    else:
        sent = "after masked data had left" if one.sent_masked else "before masked data left"
        yield alarm(f"{head}: skipped {sent}: {one_line(one.reason)}{epsilon}")
    for peer, phase in one.dropped:
        yield alarm(f"  missing: {peer} ({phase})")


def participation_lines(shares: Sequence[dict[str, object]], shown: int) -> Iterator[str]:
    """Who took part in the rounds: everybody who is missed, and of the others ``shown``."""
    fine = 0
    for share in shares:
        numbers = {name: int(str(share[name])) for name in ("recent", "recent_of", "took", "of")}
        low = numbers["recent_of"] >= LEAST and numbers["recent"] < LOW * numbers["recent_of"]
        line = (
            f"{share['peer']} in {numbers['recent']} of the last {numbers['recent_of']} rounds,"
            f" {numbers['took']} of {numbers['of']} in all"
        )
        fine += not low
        if low:
            yield alarm(f"missed: {line}")
        elif fine <= shown:
            yield f"took part: {line}"
    if fine > shown:
        yield f"took part: {fine - shown} others"
