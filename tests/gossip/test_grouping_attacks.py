"""Who can choose their group? Everything that colluders may publish for an epoch, tried exhaustively.

A colluder sees the nonces of the others before it decides on its own presence. It can keep its word, break it
(be there with another nonce) or stay away. The beacon tells the first from the other two, so ``c`` colluders
choose among 2^c beacons at most; and as who is not there is in no group, among 2^c drawings of groups in
which all of them are. Counting those in which some are missing, there are 3^c.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
from connected import IDENTITIES, PEERS, Silent
from epochs import FEDERATION, Federation, author

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.epoch_messages import NOTHING, Presence, commitment_to
from p2pfl.gossip.events import PeerFound, Received
from p2pfl.gossip.presences import PresenceSet
from p2pfl.gossip.wire import Message, signed
from p2pfl.topologies.graphs import FAMILIES
from p2pfl.topologies.schedule import Groups, groups

EPOCH = 7
ELSEWHERE = bytes([9]) * 32
Publication = tuple[Presence, ...]


def altered(number: int, presence: Presence, **changes: object) -> Presence:
    return signed(IDENTITIES[number], replace(presence, **changes))  # type: ignore[arg-type]


def closed(epoch: int, members: range) -> PresenceSet:
    return PresenceSet(FEDERATION, epoch, (author(number).presence(epoch, NOTHING) for number in members))


def publications(number: int, previous: bytes) -> list[Publication]:
    """What a member may publish for the epoch: nothing, too late included; one presence; or two."""
    honest = author(number).presence(EPOCH, previous)
    one: list[Presence] = [
        altered(number, honest, nonce=nonce, commitment=commitment, previous=named)
        for nonce in (honest.nonce, bytes(32), ELSEWHERE)
        for commitment in (honest.commitment, bytes(32))
        for named in (previous, NOTHING, ELSEWHERE)
    ]
    one.append(altered(number, honest, addresses=("/ip4/192.0.2.9/tcp/1",)))
    return [(), *((each,) for each in one), (one[0], one[-2]), (one[6], one[12])]


def outcomes(honest: PresenceSet, colluders: range, previous: bytes) -> Iterator[PresenceSet]:
    """The rosters of the epoch that the colluders can bring about."""
    for chosen in product(*(publications(number, previous) for number in colluders)):
        yield PresenceSet(FEDERATION, EPOCH, [*honest.all(), *(each for one in chosen for each in one)])


def beacon(roster: PresenceSet, rosters: dict[bytes, PresenceSet], colluders: int) -> bytes:
    named = roster.previous_roster(colluders)
    return roster.beacon(None if named is None else rosters.get(named))


def drawn(roster: PresenceSet, beacon: bytes, topology: str, rounds: int = 3) -> tuple[Groups, ...]:
    graph = FAMILIES[topology](roster.roster, beacon)
    return tuple(groups(graph, 3, 3, beacon, round) for round in range(rounds))


@pytest.mark.parametrize("topology", sorted(FAMILIES))
@pytest.mark.parametrize(("members", "colluders"), [(5, 1), (6, 2)])
def test_colluders_choose_a_bit_each(members: int, colluders: int, topology: str) -> None:
    before = closed(EPOCH - 1, range(members))
    rosters, bad = {before.digest: before}, range(members - colluders, members)
    honest = PresenceSet(
        FEDERATION, EPOCH, (author(number).presence(EPOCH, before.digest) for number in range(bad.start))
    )
    beacons, with_all, with_some = set(), set(), set()
    for roster in outcomes(honest, bad, before.digest):
        found = beacon(roster, rosters, colluders)
        beacons.add(found)
        with_some.add(drawn(roster, found, topology))
        if {PEERS[number] for number in bad} <= set(roster.roster):
            with_all.add(drawn(roster, found, topology))
    assert len(beacons) == 2**colluders
    assert len(with_all) == 2**colluders
    assert len(with_some) <= 3**colluders


def test_three_colluders_choose_among_eight_beacons() -> None:
    before = closed(EPOCH - 1, range(8))
    rosters = {before.digest: before}
    honest = PresenceSet(
        FEDERATION, EPOCH, (author(number).presence(EPOCH, before.digest) for number in range(5))
    )
    beacons = {beacon(roster, rosters, 3) for roster in outcomes(honest, range(5, 8), before.digest)}
    assert len(beacons) == 8


def test_two_presences_are_as_good_as_none_whichever_came_first() -> None:
    before = closed(EPOCH - 1, range(5))
    rosters = {before.digest: before}
    honest = [author(number).presence(EPOCH, before.digest) for number in range(4)]
    twos = [one for one in publications(4, before.digest) if len(one) == 2]
    ends = set()
    for two in [(), *twos, *(one[::-1] for one in twos)]:
        roster = PresenceSet(FEDERATION, EPOCH, [*honest, *two])
        ends.add((roster.roster, beacon(roster, rosters, 1)))
    assert len(ends) == 1


def test_nothing_is_known_before_the_last_honest_nonce_is() -> None:
    """Whatever colluders publish, another nonce of one honest member is another beacon. So what they chose
    in the epoch before, when nonces were secret, they chose blindly.
    """
    before = closed(EPOCH - 1, range(5))
    rosters, seen = {before.digest: before}, list[set[bytes]]()
    for secret in range(4):
        first = author(0).presence(EPOCH, before.digest)
        nonce = first.nonce if secret == 0 else bytes([secret]) * 32
        other = altered(0, first, nonce=nonce)
        kept = PresenceSet(FEDERATION, EPOCH - 1, (each for each in before.all() if each.author != PEERS[0]))
        promise = author(0).presence(EPOCH - 1, NOTHING)
        kept.add(altered(0, promise, commitment=_commitment(other)))
        rosters[kept.digest] = kept
        honest = PresenceSet(
            FEDERATION,
            EPOCH,
            [
                altered(0, other, previous=kept.digest),
                *(author(number).presence(EPOCH, kept.digest) for number in (1, 2, 3)),
            ],
        )
        seen.append({beacon(each, rosters, 1) for each in outcomes(honest, range(4, 5), kept.digest)})
    assert [len(each) for each in seen] == [2] * 4
    assert len(set.union(*seen)) == 8


def _commitment(presence: Presence) -> bytes:
    return commitment_to(FEDERATION, EPOCH, presence.author, presence.nonce)


@pytest.mark.parametrize("topology", sorted(FAMILIES))
@pytest.mark.parametrize(
    ("veterans", "newcomers", "colluders"),
    [(range(2), range(2, 4), range(4, 5)), (range(2), range(2, 4), range(4, 6))],
)
def test_where_the_honest_who_remember_are_too_few_there_is_one_more_beacon(
    veterans: range, newcomers: range, colluders: range, topology: str
) -> None:
    """The colluders' word decides whether commitments count at all: 2^c beacons with reveals, and the one
    without any, which everybody knew in advance.
    """
    before = PresenceSet(
        FEDERATION, EPOCH - 1, (author(n).presence(EPOCH - 1, NOTHING) for n in (*veterans, *colluders))
    )
    rosters = {before.digest: before}
    honest = PresenceSet(
        FEDERATION,
        EPOCH,
        [
            *(author(number).presence(EPOCH, before.digest) for number in veterans),
            *(author(number).presence(EPOCH, NOTHING) for number in newcomers),
        ],
    )
    found = {beacon(roster, rosters, len(colluders)) for roster in outcomes(honest, colluders, before.digest)}
    assert len(found) == 2 ** len(colluders) + 1
    assert honest.beacon(None) in found


# The same with whole machines, where it also matters when and to whom something is said.

SIZE, LIAR = 5, 4
GATHER = 15.0

Script = list[tuple[float, Presence, tuple[int, ...]]]


def scripts(previous: bytes) -> dict[str, Script]:
    """What the liar says in the epoch after, how many seconds after the others have revealed, and to whom."""
    everybody = tuple(range(LIAR))
    kept = author(LIAR).presence(1, previous)
    broken = altered(LIAR, kept, nonce=ELSEWHERE)
    return {
        "nothing": [],
        "its nonce": [(0.3, kept, everybody)],
        "its nonce, to one": [(0.3, kept, (2,))],
        "its nonce, when all others are there": [(GATHER - 1, kept, everybody)],
        "its nonce, too late": [(GATHER + 5, kept, everybody)],
        "another nonce": [(0.3, broken, everybody)],
        "a third nonce": [(GATHER - 1, altered(LIAR, kept, nonce=bytes(32)), everybody)],
        "another roster before": [(0.3, altered(LIAR, kept, previous=ELSEWHERE), everybody)],
        "another commitment": [(0.3, altered(LIAR, kept, commitment=bytes(32)), everybody)],
        "other addresses": [(0.3, altered(LIAR, kept, addresses=()), everybody)],
        "two": [(0.3, kept, everybody), (0.4, broken, everybody)],
        "two, one to each half": [(0.3, kept, (0, 1)), (0.3, broken, (2, 3))],
        "two, the second when all are there": [(0.3, kept, everybody), (0.7, broken, (0,))],
    }


def tell(federation: Federation, at: float, message: Message, receivers: tuple[int, ...]) -> None:
    for number in receivers:
        federation.net.post(PEERS[number], Received(message.author, message), at)


def played(name: str) -> tuple[bytes, tuple[PeerId, ...]]:
    """Beacon and roster of epoch 1 if the liar follows that script; all others must agree on them."""
    federation = Federation(SIZE)
    for number in range(LIAR):
        federation.start(number, 0.01 * number)
    federation.net.machines[PEERS[LIAR]] = Silent()
    for number in range(LIAR):
        federation.net.post(PEERS[number], PeerFound(PEERS[LIAR]), 0.1)
    tell(federation, 0.7, author(LIAR).presence(0, NOTHING), tuple(range(LIAR)))
    federation.run(4.0)
    current = federation.machine(0).current
    assert current is not None
    assert len(current.roster) == SIZE
    revealed = max(federation.at(number, 0) for number in range(LIAR)) + federation.running
    for after, presence, receivers in scripts(current.digest)[name]:
        tell(federation, revealed + after, presence, receivers)
    federation.run(revealed + GATHER + 8)
    ends = {
        (drawn_from, began.roster)
        for number in range(LIAR)
        for _, began, drawn_from in federation.began[number]
        if began.epoch == 1
    }
    assert all(1 in federation.epochs(number) for number in range(LIAR))
    assert len(ends) == 1, "the honest members do not agree"
    return ends.pop()


def test_a_liar_among_machines_has_two_beacons_and_two_drawings_with_itself() -> None:
    ends = {name: played(name) for name in scripts(NOTHING)}
    assert len({drawn_from for drawn_from, _ in ends.values()}) == 2
    assert len(set(ends.values())) == 3
    assert len({end for end in ends.values() if PEERS[LIAR] in end[1]}) == 2
    assert {name for name, end in ends.items() if end == ends["nothing"]} >= {"its nonce, too late", "two"}
