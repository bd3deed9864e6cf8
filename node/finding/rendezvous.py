"""When to meet others at a rendezvous: while somebody is missing, and now and then so that others find us."""

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio

from p2pfl.node.errors import NetworkError

log = logging.getLogger(__name__)

FIRST_MEETING_SECONDS: Final = 5.0
LONGEST_MEETING_SECONDS: Final = 300.0
"""Between searches while somebody is missing."""
ANNOUNCE_SECONDS: Final = 1800.0
"""Between announcements while nobody is."""

Meet = Callable[[], Awaitable[tuple[list[str], int]]]


async def keep_meeting(
    meet: Meet, complete: Callable[[], bool], found: Callable[[Sequence[str]], None]
) -> None:
    """Until cancelled. ``meet`` leaves our addresses and returns those of others, and how many places it left
    them at; ``found`` is told of them. ``complete`` says whether everybody known is here.
    """
    delay, jitter, failing = FIRST_MEETING_SECONDS, random.Random(), False
    while True:
        try:
            addresses, told = await meet()
            log.info("rendezvous: %d addresses of members found; ours told to %d", len(addresses), told)
            failing = False
            found(addresses)
        except NetworkError as error:
            log.log(logging.INFO if failing else logging.WARNING, "%s", error)
            failing = True
        delay = ANNOUNCE_SECONDS if complete() else min(2 * delay, LONGEST_MEETING_SECONDS)
        await trio.sleep(jitter.uniform(0.5, 1.0) * delay)
