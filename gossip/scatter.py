"""The exchange for long vectors: a reduce-scatter of masked chunks, then an all-gather of their sums.

    masked   A member masks its vector chunk after chunk, and sends each to its owner as soon as it is masked
             (Masked). Then it tells everybody the digests of all of them (Pledge); from here on its vector
             is fixed, and named by the *mark* of the pledge.
    held     It tells everybody of whom it holds the pledge and the chunks that are its own to add up (Held).
             Ends: it has them of everybody who is not lost, or at the deadline.
    plan     The convener, the first member in drawn order that is not lost, chooses whose vectors are added
             up, and who adds them up: whoever holds its chunks of all of them (Plan). If it is silent, the
             next one does. Others follow a plan that contains them and leaves out nobody without need.
             Then the members gather and check the sums: :mod:`p2pfl.gossip.trial`.
             Ends: the sum is verified. If a member of the plan is lost or spoils it, or at a deadline, there
             is another plan with fewer members. Nothing has been revealed.
    commit   Whoever has verified the sum of its present plan signs it at once, and follows no other plan
             from then on. Whoever has gone on to another plan meanwhile comes back if it can verify the
             earlier one, as long as nobody can verify the later on its check.

A member sends its check only when it has all parts; so when anybody has verified the sum, everybody in the
plan holds all of it, and from then on any member may vanish. Who lacks only a check gets it from who has
signed.

**Memory.** Our own vector, as masked; one chunk in k of everybody's; the parts: three vectors, whatever k is,
as long as the first plan holds. Each further plan adds the parts of one vector, and what we add up for owners
that are in it no more; a dispute about an owner adds what it shows, one vector for all of them at the
most, until that was looked at. Each colluder can make us keep (k - t + 1) / k of a vector of parts of plans
that do not exist. What was not asked for is not kept.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto.identity import PeerId
from p2pfl.gossip.broadcast import Choice, mask_slice
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.events import Values
from p2pfl.gossip.masking import Masker
from p2pfl.gossip.messages import Fetch, Message, Survivors
from p2pfl.gossip.seat import Seat
from p2pfl.gossip.trial import Chunk, Trial
from p2pfl.gossip.vector_messages import Check, Entries, Held, Masked, Part, Plan, Pledge, VectorMessage

_EARLY_PLANS: Final = 1
"""Plans, not known yet, of which parts and checks are kept for each author."""


class Scatter:
    """One member's part in the reduce-scatter of one attempt."""

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._masked_until = float("inf")
        self._mask_next: Callable[[], None] = lambda: None
        self._held: dict[Chunk, Masked] = {}
        self._pledges: dict[PeerId, Pledge] = {}
        self._helds: dict[PeerId, Held] = {}
        self._plans: dict[PeerId, Plan] = {}
        self._early = _Early(seat)
        self._trials: dict[bytes, Trial] = {}
        self._late = float("inf")
        self._plan_from: float | None = None
        self._signed = False
        self._failure: str | None = None

    def begin(self, masked_until: float) -> None:
        """Contributions are asked for, and waited for until then."""
        self._masked_until = masked_until

    def contribute(self, values: Values, masker: Masker) -> None:
        seat = self._seat

        def mask_next() -> None:
            chunk = sum(author == seat.me for author, _ in self._held)
            where = seat.chunks.where(chunk)
            seat.compute(f"mask/{chunk}", lambda: mask_slice(values, where, masker))

        self._mask_next = mask_next
        mask_next()

    def computed(self, key: str, value: Any) -> None:
        """A chunk of ours is masked, or a computation of a trial has ended."""
        which, _, task = key.partition("/")
        if which == "mask":
            self._publish(int(task), *value)
        elif not self._signed and (trial := self._trials.get(bytes.fromhex(which))) is not None:
            trial.computed(task, value)

    def _publish(self, chunk: int, data: memoryview, known: bytes) -> None:
        """Send a chunk of ours to its owner, and after the last one the pledge to everybody."""
        seat = self._seat
        masked = seat.sign(Masked.of(seat.me, seat.context, chunk, data, known))
        self._held[seat.me, chunk] = masked
        owner = self._first_owner(chunk)
        if owner != seat.me:
            seat.send(owner, masked)
        if chunk + 1 < seat.chunks.count:
            self._mask_next()
            return
        self._mask_next = lambda: None  # and forget the values
        digests = tuple(self._held[seat.me, number].digest for number in range(seat.chunks.count))
        self._pledges[seat.me] = seat.broadcast(Pledge(seat.me, *seat.context, digests))

    # What arrives.

    def receive(self, message: VectorMessage) -> None:
        """Raises RemoteProtocolError for what no honest member would have sent."""
        match message:
            case Masked():
                self._take_chunk(message)
            case Pledge():
                self._take_pledge(message)
            case Held():
                self._take_held(message)
            case Plan():
                self._take_plan(message)
            case Part() | Check():
                trial = self._trials.get(message.plan)
                if trial is None:
                    self._early.keep(message)
                else:
                    self._pass_on(trial, message)

    def _pass_on(self, trial: Trial, message: Part | Check) -> None:
        if isinstance(message, Part):
            trial.take_part(message)
        else:
            trial.take_check(message)

    def _take_chunk(self, masked: Masked) -> None:
        chunks = self._seat.chunks
        place = (masked.author, masked.chunk)
        if masked.chunk >= chunks.count or not self._is_wanted(*place):
            return  # others may have passed it on; and we may have wanted it once
        if len(masked.data) != chunks.length(masked.chunk) * self._seat.ring.bytes:
            raise RemoteProtocolError(masked.author, "a masked chunk of the wrong length")
        known = self._held.setdefault(place, masked)
        if known.digest != masked.digest:
            self._seat.accuse(masked.author, "two masked vectors", known, masked)
        self._match(masked.author)

    def _take_pledge(self, pledge: Pledge) -> None:
        if len(pledge.digests) != self._seat.chunks.count:
            raise RemoteProtocolError(pledge.author, "a pledge of another number of chunks")
        if self._seat.keep(self._pledges, pledge):
            self._match(pledge.author)

    def _match(self, author: PeerId) -> None:
        """Drop what is not what was pledged; both are signed."""
        pledge = self._pledges.get(author)
        for place in [place for place in self._held if pledge is not None and place[0] == author]:
            if pledge is not None and self._held[place].digest != pledge.digests[place[1]]:
                self._seat.accuse(author, "a chunk that is not the one it pledged", self._held[place], pledge)
                del self._held[place]

    def _take_held(self, held: Held) -> None:
        self._seat.check_entries(held.author, held.entries)
        self._seat.keep(self._helds, held)

    def _take_plan(self, plan: Plan) -> None:
        self._seat.check_survivors(plan.author, plan.entries)
        if not plan.owners or not set(plan.owners) <= {number for number, _ in plan.entries}:
            raise RemoteProtocolError(plan.author, "a plan whose owners are none of its members")
        last = self._plans.get(plan.author)
        if last is None or set(plan.entries) < set(last.entries):
            self._plans[plan.author] = plan
        elif not set(last.entries) <= set(plan.entries):
            self._seat.accuse(plan.author, "two plans, neither smaller than the other", last, plan)

    def serve(self, fetch: Fetch) -> Message | None:
        """What a request asks for, if we have it."""
        if fetch.kind != Masked.TAG:
            trial = self._trials.get(fetch.mark)
            return None if trial is None else trial.serve(fetch)
        pledge = self._pledges.get(fetch.of)
        return self._held.get((fetch.of, fetch.chunk)) if pledge and pledge.mark == fetch.mark else None

    # What follows.

    def step(self, ballots: Mapping[PeerId, Survivors], settled: Choice | None, now: float) -> None:
        """Go as far as what is here and the time allow. Idempotent."""
        if self._seat.me not in self._pledges:
            return
        self._say_what_is_held(now)
        if not self._signed and self._seat.me in self._helds:
            self._plan(now)
            self._follow(now)
        for trial in () if self._signed else list(self._trials.values()):
            trial.step(now)
        for ballot in ballots.values():
            for trial in self._trials.values():
                if trial.choice == ballot.choice and not trial.verified:
                    trial.fetch_checks(ballot.author)

    def _say_what_is_held(self, now: float) -> None:
        seat = self._seat
        if seat.me in self._helds:
            return
        held = [peer for peer in seat.members if self._has_all_of(peer)]
        if now >= self._masked_until or not self._awaited(held):
            self._helds[seat.me] = seat.broadcast(Held(seat.me, *seat.context, self._entries(held)))

    def _plan(self, now: float) -> None:
        """Make a plan if there is none, or none that is any good, and it is our turn."""
        seat, current = self._seat, self._current
        if current is None:
            if self._awaited(self._helds) and now < self._wait_for_helds(now):
                return
        elif not self._is_broken(current, now):
            self._plan_from = None
            return
        if self._plan_from is None:
            self._plan_from = now
        turn = seat.my_turn(self._plan_from)
        if current is not None and self._plan_from >= current.until:  # first those who know whose fault it is
            turn = self._plan_from if current.withheld else turn + 2 * seat.turn_seconds
        if now < turn:
            seat.timer(f"plan/{turn}", turn)
            return
        chosen = self._choose(current, now)
        entries, owners = self._entries(chosen), self._owners(chosen)
        enough = len(chosen) >= seat.roster.thresholds.minimum_survivors
        if enough and seat.me in chosen and self._is_smaller(entries, current):
            self._plans[seat.me] = plan = seat.broadcast(Plan(seat.me, *seat.context, entries, owners))
            self._begin_trial(plan, now)
        elif current is None and now >= self._masked_until and not self._awaited(self._helds):
            self._failure = "too few members are left that hold each other's chunks"

    def _wait_for_helds(self, now: float) -> float:
        """Until when: others' deadlines may come a phase after ours, so half a phase from when there are
        enough.
        """
        seat = self._seat
        if self._late == float("inf") and len(self._helds) >= seat.roster.thresholds.minimum_survivors:
            self._late = max(now, self._masked_until) + seat.phase_seconds / 2
            seat.timer("held", self._late)
        return self._late

    def _choose(self, current: Trial | None, now: float) -> list[PeerId]:
        """Whose vectors are added up: such that somebody holds all that it adds up of them.

        A member that says it lacks chunks of another is no owner then; which of the two is to blame, nobody
        can tell. Only a vector that more lack than may collude is left out.
        """
        chosen = [peer for peer in self._seat.present if peer in self._helds]
        if current is not None:
            spoilers = current.blamed if now >= current.until else current.culprits
            chosen = [peer for peer in chosen if peer in current.members and peer not in spoilers]
        most = self._seat.roster.thresholds.colluders
        chosen = [peer for peer in chosen if self._lack(peer, chosen) <= most]
        while chosen and not self._owners(chosen):
            lack = {peer: self._lack(peer, chosen) for peer in reversed(chosen)}
            chosen.remove(max(lack, key=lack.__getitem__))
        return chosen

    def _entries(self, peers: Iterable[PeerId]) -> Entries:
        return self._seat.entries({peer: self._pledges[peer].mark for peer in peers})

    def _lack(self, of: PeerId, among: Collection[PeerId]) -> int:
        """How many of these members say that they lack chunks of ``of``, or have another pledge of it."""
        pledge = self._pledges.get(of)
        entry = None if pledge is None else (self._seat.number[of], pledge.mark)
        return sum(peer in self._helds and entry not in self._helds[peer].entries for peer in among)

    def _owners(self, chosen: Collection[PeerId]) -> tuple[int, ...]:
        """Those of ``chosen`` that say they hold what they add up of all of them: they are to add it up."""
        if not all(peer in self._pledges for peer in chosen):
            return ()
        entries = set(self._entries(chosen))
        return tuple(
            self._seat.number[peer]
            for peer in chosen
            if peer in self._helds and entries <= set(self._helds[peer].entries)
        )

    def _follow(self, now: float) -> None:
        """Go over to a plan that we find fair, if it is smaller than the one we follow."""
        for peer in self._seat.members:
            plan = self._plans.get(peer)
            if (
                plan is not None
                and self._is_smaller(plan.entries, self._current)
                and self._is_fair(plan, now)
            ):
                self._begin_trial(plan, now)

    def _begin_trial(self, plan: Plan, now: float) -> None:
        until = now + self._seat.phase_seconds
        trial = Trial(self._seat, plan, self._pledges, self._held, until)
        self._trials[trial.mark] = trial
        self._plan_from = None
        for message in self._early.take(trial.mark):
            try:
                self._pass_on(trial, message)
            except RemoteProtocolError as error:  # not the doing of whoever we hear from right now
                self._seat.accuse(error.peer, error.reason, message)

    # What the secure sum asks.

    def choose(self, ballots: Mapping[PeerId, Survivors], now: float) -> Choice | None:
        """What we sign, if it is time to."""
        for trial in reversed(self._trials.values()):
            if trial.verified:
                self._signed = True
                return trial.choice
            # Others may sign this one on our check; unless one of them, who has then not sent its own and
            # never will, signed another. Else each of two sums could be signed by too few.
            left = any(
                peer in trial.members and ballot.entries != trial.entries for peer, ballot in ballots.items()
            )
            if trial.checked and not left:
                return None
        return None

    def complete(self, choice: Choice) -> bool:
        """Whether we hold the masked sum that ``choice`` names."""
        return any(trial.choice == choice for trial in self._trials.values())

    def total(self, choice: Choice) -> Callable[[], NDArray[Any]]:
        """What computes that sum, a fresh array."""
        parts = next(trial.parts for trial in self._trials.values() if trial.choice == choice)
        dtype = self._seat.ring.dtype
        return lambda: np.concatenate([np.frombuffer(part, dtype) for part in parts])

    @property
    def phase(self) -> str:
        """What is going on, in words for an operator."""
        if self._seat.me not in self._helds:
            return "collecting masked chunks"
        return "agreeing on whom to add up" if self._current is None else "adding up and checking chunks"

    @property
    def failure(self) -> str | None:
        return self._failure

    # Small things.

    @property
    def _current(self) -> Trial | None:
        return next(reversed(self._trials.values()), None)

    def _first_owner(self, chunk: int) -> PeerId:
        return self._seat.members[chunk % len(self._seat.members)]

    def _is_wanted(self, author: PeerId, chunk: int) -> bool:
        asked = any((author, chunk) in trial.wanted for trial in self._trials.values())
        return asked or self._first_owner(chunk) == self._seat.me

    def _has_all_of(self, peer: PeerId) -> bool:
        count, mine = self._seat.chunks.count, self._seat.number[self._seat.me]
        step = len(self._seat.members)
        return peer in self._pledges and all(
            (peer, chunk) in self._held for chunk in range(mine, count, step)
        )

    def _awaited(self, peers: Collection[PeerId]) -> bool:
        """Whether somebody who is not lost is not among ``peers``, and may still be in a plan. Others say
        what they hold earlier than we, if their deadline comes first; then it is of no use to wait for more.
        """
        most = self._seat.roster.thresholds.colluders
        helds = [self._seat.marks(held.entries) for held in self._helds.values()]
        return any(
            peer not in peers and sum(peer not in held for held in helds) <= most
            for peer in self._seat.present
        )

    def _is_broken(self, trial: Trial, now: float) -> bool:
        lost = trial.blamed & self._seat.lost - trial.lost_before
        return not trial.verified and bool(lost or trial.culprits or now >= trial.until)

    def _is_smaller(self, entries: Entries, current: Trial | None) -> bool:
        return current is None or set(entries) < set(current.entries)

    def _is_fair(self, plan: Plan, now: float) -> bool:
        """Whether it contains us, of the vectors that we know, and leaves nobody out without need."""
        seat, chosen = self._seat, self._seat.marks(plan.entries)
        known = all(
            peer in self._pledges and self._pledges[peer].mark == mark for peer, mark in chosen.items()
        )
        if seat.me not in chosen or not known:
            return False
        current = self._current
        before = seat.members if current is None else current.members
        culprits = set[PeerId]() if current is None else current.culprits
        over = now >= (self._masked_until if current is None else current.until)
        most = seat.roster.thresholds.colluders
        left_out = [peer for peer in before if peer not in chosen and peer not in seat.lost]
        # What a member says that it holds, it may say differently to each of us.
        differently = set(plan.owners) ^ set(self._owners(chosen))
        return len(differently) <= most and all(
            over or peer in culprits or self._lack(peer, chosen) > most for peer in left_out
        )


class _Early:
    """Parts and checks of plans that we have not heard of yet: of each author those of one, and no more parts
    of one than it can have to add up.
    """

    def __init__(self, seat: Seat) -> None:
        each = -(-seat.chunks.count // len(seat.members))
        self._most = each * (seat.roster.thresholds.tolerated_drops + 1)
        self._longest = seat.ring.bytes * max(map(seat.chunks.length, range(seat.chunks.count)))
        self._messages: dict[PeerId, dict[bytes, dict[tuple[str, int], Part | Check]]] = {}

    def keep(self, message: Part | Check) -> None:
        """Raises RemoteProtocolError for a part that is longer than any. More parts than usual are not kept:
        if they are of use, whoever has checked the sum is asked for them.
        """
        if isinstance(message, Part) and len(message.data) > self._longest:
            raise RemoteProtocolError(message.author, "a part of the wrong length")
        sets = self._messages.setdefault(message.author, {})
        kept = sets.setdefault(message.plan, {})
        if isinstance(message, Check) or len(kept) <= self._most:
            kept.setdefault((message.TAG, message.chunk if isinstance(message, Part) else 0), message)
        while len(sets) > _EARLY_PLANS:
            del sets[next(iter(sets))]

    def take(self, plan: bytes) -> list[Part | Check]:
        """What came of that plan."""
        return [message for sets in self._messages.values() for message in sets.pop(plan, {}).values()]
