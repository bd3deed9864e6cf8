"""Whether others can reach this node: a member that is connected dials back, over a socket of its own.

libp2p's AutoNAT asks the same and py-libp2p's always says yes, because it looks at the connection that is
there. The request is a list of addresses, the answer what became of each. A member dials only where the asker
is already known to be: the IP address that it comes from; and what a name leads to, if that is the same or a
public address, of which it says no more than whether the asker itself answered there. So nobody can make it
look around in somebody's network.
"""

import ipaddress
import logging
import math
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, cast, get_args

import trio

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.node.config import is_tcp_address
from p2pfl.node.errors import NetworkError
from p2pfl.node.transport.types import RequestRefused

log = logging.getLogger(__name__)

REQUEST: Final = "dialback"
MAX_DIALBACK_BYTES: Final = 1024
"""Of the request; and of the answer."""
MAX_DIALBACK_ADDRESSES: Final = 4
DIALBACK_EVERY_SECONDS: Final = 60.0
"""Between two requests of one peer that are answered."""
DIALBACKS_AT_ONCE: Final = 8
DIALBACK_SECONDS: Final = 25.0
"""That the asker waits."""
AGAIN_SECONDS: Final = 600.0
"""Until this node asks again, if nobody reached it; six times as long if somebody did."""
_MOST_ASKED = 3
_MAX_REASON = 120
_NOT_REACHABLE = (
    "not reachable from outside ({tried}); rounds go on over the connections that this node makes itself."
    " Open the port for incoming TCP, or forward it and name the outside address under network.announce,"
    " or ask a member that everybody reaches to set network.relay"
)

_AROUND_IPV4: Final = tuple(map(ipaddress.ip_network, ("2002::/16", "64:ff9b::/96", "64:ff9b:1::/48")))
"""IPv6 addresses that a gateway turns into IPv4 ones, which may be private (6to4, NAT64)."""

State = Literal["reached", "failed", "untried"]
Probe = Callable[[str, Callable[[str], bool]], Awaitable[None]]
Ask = Callable[[PeerId, str, bytes, int], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one address, without a peer id; ``reason`` is empty if it was reached."""

    address: str
    state: State
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What ``peer`` says: the IP address that it sees us at, and what it reached."""

    peer: PeerId
    observed: str
    outcomes: tuple[Outcome, ...]

    @property
    def reached(self) -> tuple[str, ...]:
        """The addresses at which it reached us."""
        return tuple(outcome.address for outcome in self.outcomes if outcome.state == "reached")

    def as_dict(self) -> dict[str, object]:
        """For the status file."""
        failed = {each.address: each.reason for each in self.outcomes if each.state == "failed"}
        return {
            "peer": self.peer,
            "observed": self.observed,
            "reached": list(self.reached),
            "failed": failed,
        }


class Network(Protocol):
    """What of the transport is used here."""

    def observed(self, peer: PeerId) -> str | None:
        """The IP address that ``peer`` comes from; None if none is known."""

    async def probe(self, address: str, may_dial: Callable[[str], bool]) -> None:
        """Raises NetworkError unless the peer that ``address`` names answers there."""


class Dialback:
    """Answers the requests of peers."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._answered: dict[PeerId, float] = {}
        self._limit = trio.CapacityLimiter(DIALBACKS_AT_ONCE)

    async def answer(self, peer: PeerId, body: bytes) -> bytes:
        """What became of the addresses in ``body``. Raises RequestRefused."""
        addresses = addresses_asked_untrusted(body)
        self._count(peer)
        observed = self._network.observed(peer)
        results: list[list[str]] = [["untried", ""] for _ in addresses]

        async def try_one(number: int, address: str) -> None:
            async with self._limit:
                results[number] = await self._try(peer, address, observed)

        async with trio.open_nursery() as nursery:
            for number, address in enumerate(addresses):
                nursery.start_soon(try_one, number, address)
        return pack({"observed": observed or "", "results": results})

    def _count(self, peer: PeerId) -> None:
        now = trio.current_time()
        self._answered = {
            each: at for each, at in self._answered.items() if now - at < DIALBACK_EVERY_SECONDS
        }
        if peer in self._answered:
            wait = math.ceil(self._answered[peer] + DIALBACK_EVERY_SECONDS - now)
            raise RequestRefused(f"you asked a moment ago; again in {wait} s")
        self._answered[peer] = now

    async def _try(self, peer: PeerId, address: str, observed: str | None) -> list[str]:
        family, host = address.split("/")[1:3]
        if family.startswith("ip") and not _same(host, observed):
            return ["untried", "you do not come from there, as this node sees it"]
        told = family.startswith("ip")  # of other places the asker learns only whether it is there itself
        try:
            await self._network.probe(
                f"{address}/p2p/{peer}", lambda ip: _same(ip, observed) or (not told and _public(ip))
            )
        except NetworkError as error:
            reason = str(getattr(error, "reason", error)) if told else "you do not answer there"
            return ["failed", reason[:_MAX_REASON]]
        return ["reached", ""]


def addresses_asked_untrusted(body: bytes) -> list[str]:
    """The addresses in a request. Raises RequestRefused."""
    try:
        addresses = unpack_untrusted(body, MAX_DIALBACK_BYTES)
    except ValueError as error:
        raise RequestRefused(f"not a list of addresses: {error}") from None
    if (
        not isinstance(addresses, list)
        or not 0 < len(addresses) <= MAX_DIALBACK_ADDRESSES
        or not all(isinstance(each, str) and is_tcp_address(each) for each in addresses)
    ):
        raise RequestRefused(f"not a list of up to {MAX_DIALBACK_ADDRESSES} addresses without a peer id")
    return cast(list[str], addresses)


def _same(ip: str, observed: str | None) -> bool:
    try:
        return observed is not None and _plain(ip) == _plain(observed)
    except ValueError:
        return False


def _public(ip: str) -> bool:
    address = _plain(ip)
    hidden = any(address in network for network in _AROUND_IPV4)
    return address.is_global and not address.is_multicast and not hidden


def _plain(ip: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(ip)
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


class Reachability:
    """Finds out where others reach this node.

    ``ask`` puts a request to a peer, ``connected`` says who is here, ``addresses`` where this node says it
    is; ``changed`` is told what each peer says.
    """

    def __init__(
        self,
        ask: Ask,
        connected: Callable[[], Collection[PeerId]],
        addresses: Callable[[], Sequence[str]],
        changed: Callable[[Report], None],
    ) -> None:
        self._ask = ask
        self._connected = connected
        self._addresses = addresses
        self._changed = changed
        self._observed = ""
        self._met = trio.Event()
        self._said = ""

    def met(self) -> None:
        """Somebody is here who can be asked."""
        self._met.set()

    async def run(self) -> None:
        """Ask after connecting, and now and then; until cancelled."""
        while True:
            await self._met.wait()
            self._met = trio.Event()
            reports = await self.ask_some()
            self._say(reports)
            await trio.sleep(_pause(reports))
            self._met.set()

    async def ask_some(self) -> list[Report]:
        """What a few peers say, up to the first that reached us; nothing if none answers."""
        reports: list[Report] = []
        for peer in sorted(self._connected()):
            report = await self.check(peer)
            if report is not None:
                reports.append(report)
                self._changed(report)
            if len(reports) == _MOST_ASKED or (report is not None and report.reached):
                break
        return reports

    async def check(self, peer: PeerId) -> Report | None:
        """What ``peer`` says; None, and a line in the log, if it does not answer."""
        asked = self._candidates()
        try:
            answer = await self._ask(peer, REQUEST, pack(list(asked)), MAX_DIALBACK_BYTES)
            report = report_untrusted(peer, asked, answer)
        except (NetworkError, ValueError) as error:
            log.info("peer %s did not say whether it reaches this node: %s", peer, error)
            return None
        self._observed = report.observed or self._observed
        return report

    def _candidates(self) -> tuple[str, ...]:
        """Where this node says it is, and where others see it, if that is elsewhere."""
        own = [address.partition("/p2p/")[0] for address in self._addresses()]
        seen = []
        if self._observed and own:
            family = 6 if ":" in self._observed else 4
            seen = [f"/ip{family}/{self._observed}/tcp/{own[0].rpartition('/')[2]}"]
        outside = [address for address in own if not address.startswith(("/ip4/127.", "/ip6/::1/"))]
        chosen = dict.fromkeys([*seen, *outside] or own)
        return tuple(chosen)[:MAX_DIALBACK_ADDRESSES]

    def _say(self, reports: Sequence[Report]) -> None:
        """Log what is known now, if it is not what was said before."""
        last = reports[-1] if reports else None
        tried = {
            f"{outcome.address}: {outcome.reason}"
            for report in reports
            for outcome in report.outcomes
            if outcome.state == "failed"
        }
        if last is not None and last.reached:
            level, said = logging.INFO, f"reachable from outside: {last.peer} reached {last.reached[0]}"
        elif tried:
            level, said = logging.WARNING, _NOT_REACHABLE.format(tried="; ".join(sorted(tried)))
        else:
            return
        if said != self._said:
            log.log(level, "%s", said)
        self._said = said


def _pause(reports: Sequence[Report]) -> float:
    """Seconds until it is worth asking again."""
    if reports and reports[-1].reached:
        return 6 * AGAIN_SECONDS
    tried = any(outcome.state == "failed" for report in reports for outcome in report.outcomes)
    return AGAIN_SECONDS if tried else DIALBACK_EVERY_SECONDS


def report_untrusted(peer: PeerId, asked: Sequence[str], answer: bytes) -> Report:
    """The answer of ``peer`` about the addresses ``asked``. Raises ValueError unless it is one."""
    match unpack_untrusted(answer, MAX_DIALBACK_BYTES):
        case {"observed": str(observed), "results": list(results)} if len(results) == len(asked):
            pass
        case _:
            raise ValueError("not an answer to a request to dial back")
    if observed:
        ipaddress.ip_address(observed)
    if "%" in observed:  # within a network, and what follows could be any text
        observed = ""
    outcomes = []
    for address, result in zip(asked, results, strict=True):
        match result:
            case [str(state), str(reason)] if state in get_args(State) and len(reason) <= _MAX_REASON:
                shown = "".join(c if c.isprintable() else "?" for c in reason)
                outcomes.append(Outcome(address, cast(State, state), shown))
            case _:
                raise ValueError("not a result of dialling back")
    return Report(peer, observed, tuple(outcomes))
