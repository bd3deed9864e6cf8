"""One try at adding up the masked vectors of one plan, chunk by chunk.

    gather   The owner of a chunk adds it up and sends the sum to all of the plan (Part). Where the owner in
             the roster is none in the plan, the next one in the plan steps in, and asks the others for the
             chunks (Fetch): the same masked bytes, as pledged.
             Ends: for a member, when it has a part for every chunk. One that an owner does not give it, it
             asks for where checks say that it is.
    check    It sends all of the plan what digests its parts have, and words that a random linear map, drawn
             from these digests, takes its own masked vector to (Check).
             Ends: all of the plan have sent checks, of the same parts, and for every owner the words of the
             vectors add up to the words of the parts. The sum is then *verified*.

**If it does not add up.** A member whose check names other parts is asked for the ones that differ: two
parts of one chunk, signed by its owner, are evidence. If an owner's words do not add up, the owner knows
why: it has the chunks that it added. So it is asked for its check. Once its words add up for itself, it
sends with it the chunks of the contributors whose checks have other words; they are what was pledged, or they
are not taken. If there are none, somebody sent it another check than the others, so it sends those that it
has. Only if nothing comes of that for half a phase is it asked for all that it added. Then either its sum is
wrong, and the plan is of no use any more, or the check of a contributor is, and the sum is verified without
it. All that takes time: the trial has a phase more from when it begins, and from every contributor found out.

**What this proves.** An owner is a contributor too, and nobody else has its own chunk of its own vector: one
that adds an error to its sum, and the words of that error to its check, passes. What it gets is what any
member gets that contributes something else. The check finds whoever does not go to that length, a machine
that miscalculates above all, and says who it was; it is no defence against poison.

**Who learns what.** Chunks, parts and words are functions of the masked vectors, and of nothing else that is
secret; a broadcast shows those to everybody.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.crypto.identity import PeerId
from p2pfl.crypto.linear_check import CHECKS, Words, check_values
from p2pfl.gossip.broadcast import Choice, add_up
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.errors import RemoteProtocolError
from p2pfl.gossip.messages import Fetch, Message, parts_digest, survivors_digest
from p2pfl.gossip.seat import Seat
from p2pfl.gossip.vector_messages import Check, Masked, Part, Plan, Pledge, on_the_wire
from p2pfl.gossip.wire import digest

Chunk = tuple[PeerId, int]
"""Whose vector, and which chunk of it."""
WRONG_SUM: Final = "a wrong sum of the chunks it was given"


class Trial:
    """One member's part in adding up the vectors of a plan, of which its own is one.

    ``held``: masked chunks that match their pledges, by author and chunk; shared, and filled by the owner of
    the trial. Those that only a dispute needed are taken out again. ``pledges``: of all of the plan.
    """

    def __init__(
        self,
        seat: Seat,
        plan: Plan,
        pledges: Mapping[PeerId, Pledge],
        held: MutableMapping[Chunk, Masked],
        until: float,
    ) -> None:
        self.entries, self.mark, self.until = plan.entries, plan.mark, until
        self.members = tuple(seat.marks(plan.entries))
        self.lost_before = frozenset(seat.lost)
        """Members that whoever made the plan could reach, if we cannot."""
        self.wanted: set[Chunk] = set()
        """Chunks, not ours to add up at first, that we have asked for, or are to be shown."""
        self.verified = False
        self.culprits: set[PeerId] = set()
        """Members of the plan that broke the protocol, so that it is of no use."""
        self._seat, self._pledges, self._held = seat, pledges, held
        self._owners = [seat.chunks.owner(chunk, plan.owners) for chunk in range(seat.chunks.count)]
        self._owned: defaultdict[int, list[int]] = defaultdict(list)  # chunks, by owner
        for chunk, owner in enumerate(self._owners):
            self._owned[owner].append(chunk)
        self._parts: dict[int, Part] = {}
        self._checks: dict[PeerId, Check] = {}
        self._sums: Words = {}  # of the parts
        self._asked: set[tuple[PeerId, str, PeerId, int]] = set()
        self._ask_from: dict[tuple[str, PeerId, int], float] = {}
        self._adding: int | None = None
        self._checking = False
        self._compared = False  # all words that are here
        self._agreed: set[int] = set()  # owners whose words added up
        self._disputed: set[int] = set()  # owners whose words did not, at first
        self._doubtful: set[Chunk] = set()  # chunks that nothing but a dispute is about
        self._patient_until = 0.0  # with the owners of them all
        self._extended = 0  # how often the trial was
        self._complaints: set[PeerId] = set()  # who doubts our sums
        self._answered: set[PeerId] = set()
        self._judging = False
        self._true: dict[tuple[PeerId, int], NDArray[Any]] = {}  # words, by contributor and owner, as seen
        self._liars: set[PeerId] = set()  # contributors whose checks have others
        seat.timer(f"trial/{until}", until)

    # What arrives.

    def take_part(self, part: Part) -> None:
        """Raises RemoteProtocolError unless it comes from the owner of the chunk, with the right length."""
        chunks = self._seat.chunks
        if part.chunk >= chunks.count or part.author != self._owner(part.chunk):
            raise RemoteProtocolError(part.author, "a part of a chunk that is not its own")
        if len(part.data) != chunks.length(part.chunk) * self._seat.ring.bytes:
            raise RemoteProtocolError(part.author, "a part of the wrong length")
        known = self._parts.setdefault(part.chunk, part)
        if known.digest != part.digest:
            self._seat.accuse(part.author, "two different parts of one chunk", known, part)
            self.culprits.add(part.author)

    def take_check(self, check: Check) -> None:
        """Raises RemoteProtocolError for one of a stranger to the plan, or of the wrong length."""
        words = len(set(self._owners)) * CHECKS * self._seat.ring.bytes
        if check.author not in self.members or len(check.parts) != len(self._owners):
            raise RemoteProtocolError(check.author, "a check of another sum")
        if len(check.words) != words:
            raise RemoteProtocolError(check.author, "a check of the wrong length")
        self._seat.keep(self._checks, check)
        differs = check.author in self._differing and check.parts == self._part_digests
        if differs or self._doubts:  # of two, which are evidence, the one that others could use
            self._checks[check.author] = check
        self._compared = False

    def computed(self, task: str, value: Any) -> None:
        """What one of our computations came to."""
        match task.split("-"):
            case ["add", chunk]:
                self._publish(int(chunk), *value)
            case ["check"]:
                words, self._sums = value
                message = Check(
                    self._seat.me, *self._seat.context, self.mark, self._part_digests, self._packed(words)
                )
                self._checks[self._seat.me] = self._seat.broadcast(message, self.members)
            case ["judge", owner]:
                self._judge(int(owner), value)

    def serve(self, fetch: Fetch) -> Message | None:
        """A part or a check that we hold."""
        if fetch.kind == Part.TAG:
            return self._parts.get(fetch.chunk)
        if fetch.kind != Check.TAG:
            return None
        if fetch.of == self._seat.me:
            self._complaints.add(fetch.author)
            self._answer_complaints()
        return self._checks.get(fetch.of)

    # What follows.

    def step(self, now: float) -> None:
        """Go as far as what is here and the time allow. Idempotent."""
        if self._adding is None:
            self._add_next()
        if len(self._parts) < len(self._owners):
            self._fetch_parts(now)
        elif not self._checking:
            self._check()
        if self._sums and not self.verified:
            self._fetch_missing_checks(now)
            self._compare(now)
            self._answer_complaints()

    def fetch_checks(self, signer: PeerId) -> None:
        """Ask somebody who has signed this sum for the checks that we lack, or have of other parts, or that
        do not add up with us.
        """
        differing = self._differing
        for peer in self.members:
            if peer not in self._checks or peer in differing or self._doubts:
                self._ask(signer, Check.TAG, peer, 0, self.mark)

    def _fetch_parts(self, now: float) -> None:
        """Ask for parts that others have and we lack."""
        having = [peer for peer in self.members if peer in self._checks]
        for chunk in range(len(self._owners)) if having else ():
            owner = self._owner(chunk)
            if chunk not in self._parts and owner != self._seat.me:
                self._ask_in_turn(having, Part.TAG, owner, chunk, now)

    def _fetch_missing_checks(self, now: float) -> None:
        """Ask for checks that others may have: its author may have told us nothing, or died."""
        for peer in self.members:
            if peer not in self._checks:
                self._ask_in_turn(list(self._checks), Check.TAG, peer, 0, now)

    def _ask_in_turn(self, having: Iterable[PeerId], kind: str, of: PeerId, chunk: int, now: float) -> None:
        """Ask those who have it, one after the other: after a while, as it may be on its way, unless its
        author is lost.
        """
        seat, key = self._seat, (kind, of, chunk)
        due = self._ask_from.setdefault(key, now + (0.0 if of in seat.lost else seat.turn_seconds))
        fresh = [peer for peer in having if peer != seat.me and (peer, *key) not in self._asked]
        if now >= due and fresh:
            self._ask(fresh[0], *key, self.mark)
            due = self._ask_from[key] = now + seat.turn_seconds
        seat.timer(f"{kind}/{due}", due)

    @property
    def choice(self) -> Choice | None:
        """What to sign once it is verified; None while a part is missing."""
        return self._choice if len(self._parts) == len(self._owners) else None

    @cached_property
    def _choice(self) -> Choice:
        survivors = survivors_digest(self._seat.roster.digest, self.entries)
        return self.entries, parts_digest(survivors, self._part_digests)

    @property
    def checked(self) -> bool:
        """Whether our check went out: others may verify the sum from now on."""
        return self._seat.me in self._checks

    @property
    def blamed(self) -> set[PeerId]:
        """For whom we are waiting, or who spoiled it."""
        if self.withheld:
            return self.withheld | self.culprits
        owners = {self._owner(chunk) for chunk in range(len(self._owners)) if chunk not in self._parts}
        owners |= {self._seat.members[owner] for owner in self._doubts}
        if not owners:
            owners = set(self._differing) | set(self.members) - set(self._checks)
        return (owners | self.culprits) - {self._seat.me}

    @property
    def withheld(self) -> set[PeerId]:
        """Who has not given us what is ours to add up: others see only that we have not added it up."""
        ours = [
            chunk
            for chunk in range(len(self._owners))
            if chunk not in self._parts and self._owner(chunk) == self._seat.me
        ]
        return {peer for peer in self.members for chunk in ours if (peer, chunk) not in self._held}

    @property
    def parts(self) -> list[bytes | memoryview]:
        """All parts in order, as they crossed the wire."""
        return [self._parts[chunk].data for chunk in range(len(self._owners))]

    def _add_next(self) -> None:
        """Add up the next of our chunks of which everything is here, and ask for what is not."""
        for chunk in range(len(self._owners)):
            if self._owner(chunk) != self._seat.me or chunk in self._parts:
                continue
            missing = [peer for peer in self.members if (peer, chunk) not in self._held]
            for peer in missing:
                self._ask_for_chunk(peer, peer, chunk)
            if not missing:
                self._add(chunk)
                return

    def _add(self, chunk: int) -> None:
        self._adding = chunk
        vectors, dtype = [self._held[peer, chunk].data for peer in self.members], self._seat.ring.dtype
        self._seat.compute(f"{self.mark.hex()}/add-{chunk}", lambda: _part(vectors, dtype))

    def _publish(self, chunk: int, data: memoryview, known: bytes) -> None:
        self._adding = None
        seat = self._seat
        part = Part(seat.me, *seat.context, self.mark, chunk, known, data)
        self._parts[chunk] = seat.broadcast(part, self.members)

    def _check(self) -> None:
        self._checking = True
        seed, dtype, owners = self._seed, self._seat.ring.dtype, self._owners
        mine = {chunk: self._held[self._seat.me, chunk].data for chunk in range(len(owners))}
        sums = dict(enumerate(self.parts))
        self._seat.compute(
            f"{self.mark.hex()}/check",
            lambda: (_words(seed, mine, owners, dtype), _words(seed, sums, owners, dtype)),
        )

    def _compare(self, now: float) -> None:
        """Do everybody's words add up?"""
        if set(self._checks) != set(self.members):
            return
        differing = self._differing
        for peer in differing:
            for chunk, named in enumerate(self._checks[peer].parts):
                if named != self._parts[chunk].digest:
                    self._ask(peer, Part.TAG, self._owner(chunk), chunk, self.mark)
        if differing:
            return
        if not self._compared:
            self._compared = True
            self._agreed |= {
                owner for owner in self._sums if owner not in self._agreed and self._adds_up(owner)
            }
        for owner in sorted(set(self._sums) - self._agreed):
            self._dispute(owner, now)
        self.verified = not self.culprits and len(self._agreed) == len(self._sums)

    def _adds_up(self, owner: int) -> bool:
        words = self._sums[owner]
        each = [self._words_of(peer, owner) for peer in self.members]
        return np.array_equal(np.add.reduce(each, dtype=words.dtype), words)

    # Disputes.

    def _dispute(self, owner: int, now: float) -> None:
        """Look at what the owner added up: at what it shows us, and what comes of those who have lied about
        another's; after a while at all of it, one owner at a time, as that is nearly a vector.
        """
        if self._judging or self.culprits:
            return
        if owner not in self._disputed:
            self._begin_dispute(owner, now)
        self._extend(now)
        suspects = [peer for peer in self.members if (peer, owner) not in self._true]
        if not suspects:
            self._blame(owner)
            return
        over = now >= self._patient_until and owner == min(self._doubts)
        lacking = [
            (of, chunk) for of in suspects for chunk in self._owned[owner] if (of, chunk) not in self._held
        ]
        for of, chunk in lacking:
            if over or of in self._liars:
                self._ask_for_chunk(self._seat.members[owner], of, chunk)
        shown = [of for of in suspects if of not in dict(lacking)]
        if shown:
            self._be_patient(now)
            self._look_at(owner, shown)

    def _begin_dispute(self, owner: int, now: float) -> None:
        peer = self._seat.members[owner]
        self._disputed.add(owner)
        self._be_patient(now)
        if peer != self._seat.me:
            chunks = {(of, chunk) for of in self.members for chunk in self._owned[owner]}
            self._doubtful |= chunks - set(self._held)
            self.wanted |= self._doubtful
            self._ask(peer, Check.TAG, peer, 0, self.mark)

    def _be_patient(self, now: float) -> None:
        self._patient_until = now + self._seat.phase_seconds / 2
        self._seat.timer(f"dispute/{self._patient_until}", self._patient_until)

    def _extend(self, now: float) -> None:
        """At the first dispute, and for each contributor that was found out; not for whoever stretches it."""
        if len(self._liars) + 1 > self._extended:
            self._extended = len(self._liars) + 1
            self.until = max(self.until, now + self._seat.phase_seconds)
            self._seat.timer(f"trial/{self.until}", self.until)

    def _blame(self, owner: int) -> None:
        """All words of its contributors are true, and do not add up to those of its sums."""
        peer, pledges = self._seat.members[owner], [self._pledges[of] for of in self.members]
        self._seat.accuse(peer, WRONG_SUM, *(self._parts[c] for c in self._owned[owner]), *pledges)
        self.culprits.add(peer)

    def _look_at(self, owner: int, shown: Sequence[PeerId]) -> None:
        """Compute the words of what these contributed."""
        self._judging = True
        chunks, seed, dtype, owners = self._owned[owner], self._seed, self._seat.ring.dtype, self._owners
        held = {of: {chunk: self._held[of, chunk].data for chunk in chunks} for of in shown}
        self._seat.compute(
            f"{self.mark.hex()}/judge-{owner}",
            lambda: {of: _words(seed, vector, owners, dtype)[owner] for of, vector in held.items()},
        )

    def _judge(self, owner: int, true: dict[PeerId, NDArray[Any]]) -> None:
        """These are the words that the contributors' checks should have for it."""
        self._judging = self._compared = False
        for of, words in true.items():
            if not np.array_equal(self._words_of(of, owner), words):
                self._seat.accuse(of, "a check of another vector", self._checks[of], self._pledges[of])
                self._liars.add(of)
            self._true[of, owner] = words
            self._drop({(of, chunk) for chunk in self._owned[owner]})

    def _answer_complaints(self) -> None:
        """Let those who doubt our sums see for themselves, once we know why."""
        me = self._seat.number[self._seat.me]
        doubtful = self._complaints - self._answered if me in self._agreed else set[PeerId]()
        liars = [of for of, owner in self._true if owner == me and of in self._liars]
        for peer in doubtful:
            self._answered.add(peer)
            for of in liars:
                for chunk in self._owned[me]:
                    self._seat.send(peer, self._held[of, chunk])
            for author, check in () if liars else self._checks.items():
                if author != self._seat.me:  # ours comes anyway
                    self._seat.send(peer, check)

    def _drop(self, chunks: set[Chunk]) -> None:
        """What was only to be looked at."""
        for chunk in chunks & self._doubtful:
            del self._held[chunk]
        self.wanted -= chunks & self._doubtful

    # Small things.

    @property
    def _doubts(self) -> set[int]:
        """Owners whose words do not add up."""
        return self._disputed - self._agreed

    def _owner(self, chunk: int) -> PeerId:
        return self._seat.members[self._owners[chunk]]

    @property
    def _differing(self) -> list[PeerId]:
        """Whose checks name other parts than we have, once we have them all."""
        if len(self._parts) < len(self._owners):
            return []
        digests = self._part_digests
        return [peer for peer, check in self._checks.items() if check.parts != digests]

    @cached_property
    def _part_digests(self) -> tuple[bytes, ...]:
        """Of all parts, which are there and do not change."""
        return tuple(self._parts[chunk].digest for chunk in range(len(self._owners)))

    @property
    def _seed(self) -> bytes:
        """Of the linear map: fixed once vectors (by their marks) and parts are."""
        return digest(labels.CHALLENGE, pack((self.mark, self._part_digests)))

    def _packed(self, words: Words) -> bytes:
        return b"".join(on_the_wire(words[owner]) for owner in sorted(words))

    def _words_of(self, peer: PeerId, owner: int) -> NDArray[Any]:
        """Of its vector for that owner: as we saw it, or as its check says."""
        if (peer, owner) in self._true:
            return self._true[peer, owner]
        row = sorted(set(self._owners)).index(owner)
        words = np.frombuffer(self._checks[peer].words, self._seat.ring.dtype)
        return words[row * CHECKS : (row + 1) * CHECKS]

    def _ask_for_chunk(self, peer: PeerId, of: PeerId, chunk: int) -> None:
        self.wanted.add((of, chunk))
        self._ask(peer, Masked.TAG, of, chunk, self._pledges[of].mark)

    def _ask(self, peer: PeerId, kind: str, of: PeerId, chunk: int, mark: bytes) -> None:
        """Once."""
        request = (peer, kind, of, chunk)
        if peer != self._seat.me and request not in self._asked:
            self._asked.add(request)
            self._seat.send(peer, Fetch(self._seat.me, *self._seat.context, kind, of, chunk, mark))


def _part(vectors: Sequence[bytes | memoryview], dtype: "np.dtype[Any]") -> tuple[memoryview, bytes]:
    """The sum of chunks as it crosses the wire, and its digest."""
    data = on_the_wire(add_up(vectors, dtype))
    return data, digest(labels.PART_DIGEST, data)


def _words(
    seed: bytes, chunks: Mapping[int, bytes | memoryview], owners: Sequence[int], dtype: "np.dtype[Any]"
) -> Words:
    return check_values(seed, {c: np.frombuffer(data, dtype) for c, data in chunks.items()}, owners)
