"""How often something may happen: so many times at once, and so many a second from then on.

Two uses. A peer's messages: with nothing left, it is not read from until there is, and its own queue fills.
And connections of those who turn out to be nobody: a handshake costs us milliseconds of the one thread that
also serves the members, so who keeps coming and is not admitted is turned away before it, by its address; and
all of them together, but for addresses from which somebody was admitted lately.
"""

import ipaddress
from collections import OrderedDict
from typing import Final

ADDRESS_BURST: Final = 128
ADDRESS_A_SECOND: Final = 2.0
STRANGERS_BURST: Final = 512
STRANGERS_A_SECOND: Final = 16.0
KNOWN_ADDRESSES: Final = 4096
"""Addresses that are kept in mind, of those who came and of those who were admitted."""
_PREFIX_6: Final = 64  # what one customer is usually given


class Allowance:
    """``burst`` at once, ``a_second`` from then on; ``now`` is a clock in seconds that never runs back."""

    def __init__(self, burst: float, a_second: float, now: float) -> None:
        self._burst, self._a_second = burst, a_second
        self._left, self._at = float(burst), now

    def left(self, now: float) -> float:
        """How many are left; negative if more were taken than there were."""
        self._left = min(self._burst, self._left + (now - self._at) * self._a_second)
        self._at = now
        return self._left

    def take(self, count: float, now: float) -> float:
        """Take ``count``, more than there is if need be. Returns seconds until none is owed."""
        self._left = self.left(now) - count
        return max(0.0, -self._left / self._a_second)

    def give_back(self, count: float, now: float) -> None:
        """They were taken for nothing."""
        self._left = min(self._burst, self.left(now) + count)


class Arrivals:
    """Which connections are worth a handshake."""

    def __init__(self, now: float) -> None:
        self._strangers = Allowance(STRANGERS_BURST, STRANGERS_A_SECOND, now)
        self._by_address: OrderedDict[str, Allowance] = OrderedDict()
        self._welcome: OrderedDict[str, None] = OrderedDict()

    def may_come(self, address: str, now: float) -> bool:
        """Whether a connection from this IP address may begin a handshake. It counts as a stranger's until
        :meth:`admitted`.
        """
        place = place_of(address)
        own = self._by_address.pop(place, None) or Allowance(ADDRESS_BURST, ADDRESS_A_SECOND, now)
        self._by_address[place] = own
        if len(self._by_address) > KNOWN_ADDRESSES:
            self._by_address.popitem(last=False)
        if own.left(now) < 1 or (place not in self._welcome and self._strangers.left(now) < 1):
            return False
        own.take(1, now)
        self._strangers.take(1, now)
        return True

    def admitted(self, address: str, now: float) -> None:
        """Who came from there is a member."""
        place = place_of(address)
        self._strangers.give_back(1, now)
        if place in self._by_address:
            self._by_address[place].give_back(1, now)
        self._welcome[place] = None
        self._welcome.move_to_end(place)
        if len(self._welcome) > KNOWN_ADDRESSES:
            self._welcome.popitem(last=False)


def place_of(address: str) -> str:
    """What of a caller's IP ``address`` is counted alike: an IPv4 address, or the network of an IPv6 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, _PREFIX_6), strict=False))
    return str(ip)
