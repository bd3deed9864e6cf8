"""Federations of epoch machines, each with the least of a driver."""

from dataclasses import dataclass, field
from typing import Self

from connected import IDENTITIES, PEERS, START, Connected, address

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.epoch import EpochMachine
from p2pfl.gossip.epoch_messages import EPOCH_MESSAGES
from p2pfl.gossip.events import Connect, Effect, EpochBegan, Event, Evidence, SetTimer, TimerExpired, Waiting
from p2pfl.gossip.exclusions import GROUNDS, Ground
from p2pfl.gossip.presences import Author
from p2pfl.gossip.revocations import Revocation
from p2pfl.gossip.simulation import Codec, Link, SimNetwork, steady
from p2pfl.gossip.tickets import Standing
from p2pfl.gossip.wire import Limits

FEDERATION = bytes(range(32))


@dataclass(frozen=True)
class Timing:
    epoch_rounds: int = 10
    gather_seconds: float = 15.0
    round_seconds: float = 120.0


def author(number: int, ticket: str = "") -> Author:
    return Author(IDENTITIES[number], FEDERATION, (address(number),), ticket)


@dataclass
class Node:
    """An epoch machine and the least of a driver: it spends ``running`` seconds in each epoch."""

    machine: EpochMachine
    running: float
    ends_at: float = 0.0

    def handle(self, event: Event, now: float) -> list[Effect]:
        machine, before = self.machine, self.machine.current
        match event:
            case TimerExpired() if event == START:
                effects = machine.start(now)
            case TimerExpired("test/finish"):
                over = before is not None and now >= self.ends_at
                effects = machine.finish(now) if over else []
            case _:
                effects = machine.handle(event, now)
        if machine.current is not before and machine.current is not None:
            self.ends_at = now + self.running
            effects.append(SetTimer("test/finish", self.ends_at))
        return effects


@dataclass
class Federation(Connected):
    """Nodes that run one epoch after the other. Strangers are not let in, and nothing admits them.

    ``tickets`` has what nodes show that are not listed: ``good``, ``expired``, or what is none. Who has one
    is admitted where it has been.
    """

    minimum: int = 3
    colluders: int = 1
    timing: Timing = Timing()
    listed: bool = True
    running: float = 5.0
    link: Link = field(default_factory=lambda: steady(0.05), kw_only=True)
    strangers: frozenset[int] = frozenset()
    tickets: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.began: dict[int, list[tuple[float, EpochBegan, bytes]]] = {n: [] for n in range(self.size)}
        self.waiting: dict[int, list[str]] = {n: [] for n in range(self.size)}
        self.evidence: list[tuple[int, Evidence]] = []

    def codec(self) -> Codec:
        return Codec(Limits(0), {**EPOCH_MESSAGES, **GROUNDS})

    def node(self, number: int, epoch: int = 0) -> Node:
        listed = {PEERS[n] for n in range(self.size) if n not in self.strangers | self.tickets.keys()}
        been_here = {PEERS[n] for n in self.tickets if not {(n, number), (number, n)} & self.apart}

        def standing(peer: PeerId, ticket: str) -> Standing:
            if peer in listed:
                return Standing.MEMBER
            return {"good": Standing.MEMBER, "expired": Standing.EXPIRED}.get(ticket, Standing.STRANGER)

        machine = EpochMachine(
            author=author(number, self.tickets.get(number, "")),
            expected=len(listed) if self.listed else 0,
            minimum=self.minimum,
            colluders=self.colluders,
            timing=self.timing,
            is_member=lambda peer: peer in listed | been_here,
            standing=standing,
            epoch=epoch,
            check=self.check,
            grounds=self.grounds(number),
        )
        return Node(machine, self.running)

    def start(self, number: int, at: float = 0.0, epoch: int = 0) -> Self:
        return self.begin(number, at, lambda: self.node(number, epoch))

    def restart(self, number: int, at: float) -> Self:
        return self.begin(number, at, lambda: self.node(number, max(self.epochs(number), default=0)))

    def start_all(self, *epochs: int) -> Self:
        for number in range(self.size):
            self.start(number, 0.01 * number, epochs[number] if epochs else 0)
        return self

    @staticmethod
    def check(revocation: Revocation) -> None:
        """Here everybody may revoke."""

    def grounds(self, number: int) -> list[Ground]:
        """What the driver of this node has kept."""
        kept = [evidence.messages for holder, evidence in self.evidence if holder == number]
        return [message for messages in kept for message in messages if isinstance(message, Ground)]

    def run(self, until: float) -> Self:
        self.net.run(until)
        return self

    def machine(self, number: int) -> EpochMachine:
        node = self.net.machines[PEERS[number]]
        assert isinstance(node, Node)
        return node.machine

    def speed(self, number: int, running: float) -> None:
        """From its next epoch on this node takes so long for each."""
        node = self.net.machines[PEERS[number]]
        assert isinstance(node, Node)
        node.running = running

    def epochs(self, number: int) -> list[int]:
        return [began.epoch for _, began, _ in self.began[number]]

    def at(self, number: int, epoch: int) -> float:
        return next(at for at, began, _ in self.began[number] if began.epoch == epoch)

    def roster(self, number: int, epoch: int) -> set[int]:
        found = next(began for _, began, _ in self.began[number] if began.epoch == epoch)
        return {PEERS.index(peer) for peer in found.roster}

    def agreed(self, epoch: int) -> set[int]:
        """The members of an epoch; fails unless exactly they began it, with the same roster and beacon."""
        seen = {
            (began.roster, beacon)
            for began_here in self.began.values()
            for _, began, beacon in began_here
            if began.epoch == epoch
        }
        assert len(seen) == 1, f"{len(seen)} rosters or beacons of epoch {epoch}"
        ((roster, _),) = seen
        assert {PEERS[n] for n in self.began if epoch in self.epochs(n)} == set(roster)
        return {PEERS.index(peer) for peer in roster}

    def beacon(self, epoch: int) -> bytes:
        return next(
            beacon for here in self.began.values() for _, began, beacon in here if began.epoch == epoch
        )

    def perform(self, net: SimNetwork, peer: PeerId, effect: Effect) -> None:
        number = PEERS.index(peer)
        match effect:
            case EpochBegan():
                current = self.machine(number).current
                assert current is not None
                self.began[number].append((net.now, effect, current.beacon))
            case Waiting(reason):
                self.waiting[number].append(reason)
            case Evidence(accused, _, messages):
                self.evidence.append((number, effect))
                if isinstance(messages[0], Ground):
                    self.shun(number, accused)
            case Connect():
                pass
            case _:
                raise AssertionError(f"no effect of an epoch: {effect}")
