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
parts of one chunk, signed by its owner, are evidence. If an owner's words do not add up, the owner is asked
for the chunks that it added; they are what was pledged, or they are not taken. Then either the owner's sum
is wrong, and the plan is of no use any more, or the check of a contributor is, and the sum is verified
without it.

**What this proves.** An owner is a contributor too, and nobody else has its own chunk of its own vector: one
that adds an error to its sum, and the words of that error to its check, passes. What it gets is what any
member gets that contributes something else. The check finds whoever does not go to that length, a machine
that miscalculates above all, and says who it was; it is no defence against poison.

**Who learns what.** Chunks, parts and words are functions of the masked vectors, and of nothing else that is
secret; a broadcast shows those to everybody.
"""

from collections.abc import Mapping, Sequence
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
from p2pfl.gossip.messages import (
    Check,
    Fetch,
    Masked,
    Message,
    Part,
    Plan,
    Pledge,
    on_the_wire,
    parts_digest,
    survivors_digest,
)
from p2pfl.gossip.seat import Seat
from p2pfl.gossip.wire import digest

Chunk = tuple[PeerId, int]
"""Whose vector, and which chunk of it."""
WRONG_SUM: Final = "a wrong sum of the chunks it was given"


class Trial:
    """One member's part in adding up the vectors of a plan, of which its own is one.

    ``held``: masked chunks that match their pledges, by author and chunk; shared, and filled by the owner of
    the trial. ``pledges``: of all of the plan.
    """

    def __init__(
        self,
        seat: Seat,
        plan: Plan,
        pledges: Mapping[PeerId, Pledge],
        held: Mapping[Chunk, Masked],
        until: float,
    ) -> None:
        self.entries, self.mark, self.until = plan.entries, plan.mark, until
        self.members = tuple(peer for peer, _ in plan.entries)
        self.lost_before = frozenset(seat.lost)
        """Members that whoever made the plan could reach, if we cannot."""
        self.wanted: set[Chunk] = set()
        """Chunks, not ours to add up at first, that we have asked for."""
        self.verified = False
        self.culprits: set[PeerId] = set()
        """Members of the plan that broke the protocol, so that it is of no use."""
        self._seat, self._pledges, self._held = seat, pledges, held
        numbers = [seat.number[peer] for peer in plan.owners]
        self._owners = [seat.chunks.owner(chunk, numbers) for chunk in range(seat.chunks.count)]
        self._parts: dict[int, Part] = {}
        self._checks: dict[PeerId, Check] = {}
        self._sums: Words = {}  # of the parts
        self._asked: set[tuple[PeerId, str, PeerId, int]] = set()
        self._ask_from: dict[int, float] = {}
        self._adding: int | None = None
        self._checking = False
        self._disputed: int | None = None  # the owner whose words do not add up
        self._judging = False
        self._true: dict[
            tuple[PeerId, int], NDArray[Any]
        ] = {}  # words, by contributor and owner, that we saw
        self._liars: list[PeerId] = []  # contributors whose checks have others
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
        if differs or self._disputed is not None:  # of two, which are evidence, the one that others could use
            self._checks[check.author] = check

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
                self._judge(int(owner), *value)

    def serve(self, fetch: Fetch) -> Message | None:
        """A part or a check that we hold."""
        if fetch.kind == Part.TAG:
            return self._parts.get(fetch.chunk)
        return self._checks.get(fetch.of) if fetch.kind == Check.TAG else None

    # What follows.

    def step(self, now: float) -> None:
        """Go as far as what is here and the time allow. Idempotent."""
        if self._adding is None:
            self._add_next()
        if len(self._parts) < len(self._owners):
            self._fetch_parts(now)
        elif not self._checking:
            self._check()
        if self._sums and set(self._checks) == set(self.members) and not self.verified:
            self._compare()

    def fetch_checks(self, signer: PeerId) -> None:
        """Ask somebody who has signed this sum for the checks that we lack, or have of other parts, or that
        do not add up with us.
        """
        differing = self._differing
        for peer in self.members:
            if peer not in self._checks or peer in differing or self._disputed is not None:
                self._ask(signer, Check.TAG, peer, 0, self.mark)

    def _fetch_parts(self, now: float) -> None:
        """Ask for parts that others have and we lack: after a while, as they may be on their way, and one
        member at a time.
        """
        seat = self._seat
        having = [peer for peer in self.members if peer in self._checks]
        for chunk in range(len(self._owners)) if having else ():
            owner = self._owner(chunk)
            if chunk in self._parts or owner == seat.me:
                continue
            due = self._ask_from.setdefault(chunk, now + (0.0 if owner in seat.lost else seat.turn_seconds))
            fresh = [peer for peer in having if (peer, Part.TAG, owner, chunk) not in self._asked]
            if now >= due and fresh:
                self._ask(fresh[0], Part.TAG, owner, chunk, self.mark)
                due = self._ask_from[chunk] = now + seat.turn_seconds
            seat.timer(f"part/{due}", due)

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
        if self._disputed is not None:
            owners.add(self._seat.members[self._disputed])
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

    def _compare(self) -> None:
        """Everybody's words are here: do they add up?"""
        differing = self._differing
        for peer in differing:
            for chunk, named in enumerate(self._checks[peer].parts):
                if named != self._parts[chunk].digest:
                    self._ask(peer, Part.TAG, self._owner(chunk), chunk, self.mark)
        if differing:
            return
        for owner, words in self._sums.items():
            each = [self._words_of(peer, owner) for peer in self.members]
            if not np.array_equal(np.add.reduce(each, dtype=words.dtype), words):
                self._dispute(owner)
                return
        self.verified = not self.culprits

    # Disputes.

    def _dispute(self, owner: int) -> None:
        """Have the owner of chunks show what it added up, and look at it: first at what came of those who
        have lied about another's, as the chunks of all of it are as long as a vector.
        """
        if self._judging or self.culprits:
            return
        self._disputed = owner
        liars = [peer for peer in self._liars if (peer, owner) not in self._true]
        suspects = liars or self.members
        chunks = [chunk for chunk in range(len(self._owners)) if self._owners[chunk] == owner]
        lacking = [(of, chunk) for of in suspects for chunk in chunks if (of, chunk) not in self._held]
        for of, chunk in lacking:
            self._ask_for_chunk(self._seat.members[owner], of, chunk)
        if lacking:
            return
        self._judging = True
        held = {of: {chunk: self._held[of, chunk].data for chunk in chunks} for of in suspects}
        parts = {} if liars else {chunk: self._parts[chunk].data for chunk in chunks}
        seed, dtype, owners = self._seed, self._seat.ring.dtype, self._owners

        def judge() -> tuple[list[int], dict[PeerId, NDArray[Any]]]:
            sums = {chunk: on_the_wire(add_up([held[of][chunk] for of in held], dtype)) for chunk in parts}
            true = {of: _words(seed, vector, owners, dtype)[owner] for of, vector in held.items()}
            return [chunk for chunk in parts if sums[chunk] != parts[chunk]], true

        self._seat.compute(f"{self.mark.hex()}/judge-{owner}", judge)

    def _judge(self, owner: int, wrong: list[int], true: dict[PeerId, NDArray[Any]]) -> None:
        """Its sums are wrong in these chunks; and these are the words of the contributors."""
        self._judging, self._disputed = False, None
        peer = self._seat.members[owner]
        if wrong:
            pledges = [self._pledges[of] for of in self.members]
            self._seat.accuse(peer, WRONG_SUM, self._parts[wrong[0]], *pledges)
            self.culprits.add(peer)
            return
        for of, words in true.items():
            if not np.array_equal(self._words_of(of, owner), words):
                self._seat.accuse(of, "a check of another vector", self._checks[of], self._pledges[of])
                self._liars.append(of)
            self._true[of, owner] = words

    # Small things.

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
