"""What members say: from what a node that runs, or a visit of the doctor's own, has heard of them."""

import socket
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.tickets import MAX_SKEW_SECONDS
from p2pfl.node.doctor.findings import Finding, failure, ok, skipped, warning
from p2pfl.node.errors import ExitCode
from p2pfl.node.examination import EXAMINATION_WORDS, Examined, versions

_HAND = "docs/handbook.md, Members do not find each other"


def reached(here: int, failures: Mapping[PeerId, str], expected: int) -> Finding:
    """How many are ``here``. ``failures``: who was called in vain, and why; ``expected``: known members."""
    others = "; ".join(f"{where}: {why}" for where, why in failures.items())
    if not here:
        said = f"nobody is reached ({others})" if others else "nobody is here"
        return failure("members", said, f"check address, port and ticket: {_HAND}", ExitCode.NETWORK)
    said = f"{here} here" + (f", {expected} known" if expected > here else "")
    if others:
        return warning(
            "members", f"{said}; not reached: {others}", f"ask them whether their nodes run: {_HAND}"
        )
    return ok("members", said)


def reachable(said: Mapping[str, Any]) -> Finding:
    """From outside, as ``said`` by the member that was asked last to dial back (`Report.as_dict`)."""
    if not said:
        return skipped("reachable", "no member has said yet whether it reaches this node")
    who, seen = said["peer"], said["observed"]
    router = f"; seen at {seen}, so behind a router (NAT)" if seen and not _is_ours(seen) else ""
    if said["reached"]:
        return ok("reachable", f"both ways: {who} reached {', '.join(said['reached'])}{router}")
    if not said["failed"]:
        return skipped(
            "reachable", f"{who} could not try: none of the addresses is where it sees this node{router}"
        )
    tried = "; ".join(f"{address}: {why}" for address, why in said["failed"].items())
    hint = (
        "rounds go on over connections made from here; open or forward the port, name the outside address"
        " under network.announce, or ask a member that all reach to set network.relay"
    )
    return warning("reachable", f"not from outside: {who} tried {tried}{router}", hint)


def examined(found: Sequence[Examined]) -> Iterator[Finding]:
    """A sum of nothing with each of them; their clocks; their versions."""
    if not found:
        yield from (skipped(name, "no member is here") for name in ("secure sum", "clocks", "software"))
        return
    yield _sums(found)
    answered = [one for one in found if one.outcome == "agrees"]
    if not answered:
        yield from (skipped(name, "no member has told") for name in ("clocks", "software"))
        return
    yield _clocks(answered)
    yield _software(answered)


def _sums(found: Sequence[Examined]) -> Finding:
    name = "secure sum"
    wrong = [f"{one.peer}: {one.reason}" for one in found if one.outcome == "wrong"]
    if wrong:
        hint = "compare `software` with theirs, and the machine's memory; report it if all is alike"
        return failure(name, "; ".join(wrong), hint, ExitCode.PROTOCOL)
    agreeing = [one for one in found if one.outcome == "agrees"]
    silent = "; ".join(f"{one.peer}: {one.reason}" for one in found if one.outcome == "silent")
    if not agreeing:
        return warning(
            name, f"nobody answered ({silent})", "try again in a minute; an older p2pfl does not know it"
        )
    slowest = max(one.seconds for one in agreeing)
    said = (
        f"keys, masks and sums agree with {len(agreeing)} of {_members(len(found))};"
        f" {4 * EXAMINATION_WORDS >> 10} KiB back within {slowest:.2f} s"
    )
    return ok(name, said + (f" (not with {silent})" if silent else ""))


def _clocks(answered: Sequence[Examined]) -> Finding:
    skews = [one.clock for one in answered]
    middle = statistics.median(skews)
    if abs(middle) > MAX_SKEW_SECONDS:
        side = "behind" if middle > 0 else "ahead of"
        said = f"this machine's is {abs(middle):.0f} s {side} those of {_members(len(skews))}"
        return failure("clocks", said, "set the clock (timedatectl set-ntp true)", ExitCode.CLOCK)
    far = [f"{one.peer} by {one.clock:+.0f} s" for one in answered if abs(one.clock) > MAX_SKEW_SECONDS]
    if far:
        return warning("clocks", f"off: {', '.join(far)}", "tell them")
    return ok("clocks", f"within {max(map(abs, skews)):.0f} s of those of {_members(len(skews))}")


def _software(answered: Sequence[Examined]) -> Finding:
    own = versions()
    other = sorted(
        f"{one.peer} has {name} {theirs}, here is {own[name]}"
        for one in answered
        for name, theirs in one.versions.items()
        if name in own and own[name] != theirs
    )
    releases = [text for text in other if " has p2pfl " in text]
    if releases:
        return warning("software", "; ".join(other), "upgrade the older p2pfl when it suits; rounds go on")
    return ok("software", "; ".join(other) or f"the same as that of {_members(len(answered))}")


def _members(count: int) -> str:
    return f"{count} member" if count == 1 else f"{count} members"


def none_of(why: str) -> Iterator[Finding]:
    """All of this, skipped."""
    for name in ("members", "reachable", "relay", "secure sum", "clocks", "software"):
        yield skipped(name, why)


def _is_ours(ip: str) -> bool:
    """Whether this machine has the address."""
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True
