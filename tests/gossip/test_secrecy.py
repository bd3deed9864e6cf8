"""What a coalition learns, exactly: nothing about honest inputs but their sum over the survivors.

The real machines run over the ring Z_2, which lies in Z_2^32 as {0, 2^31}, with seeds and shares in the field
of 16 elements, so that all randomness of the honest members can be gone through. Vectors have up to four
elements, for each of which a mask has one bit of its seed; they are broadcast, or cut into a chunk for each
member. Key agreement, seals and commitments are ideal: a pairwise seed is known to its two owners and to
whoever puts together the secret key of one of them, a sealed text to whoever can derive its key, and a
commitment tells nothing. The view of a coalition is everything that reaches it, everything on the wire that
it can open (as if it tapped all lines), and the total.

Two ways to the same statement, that the distribution of the view depends on honest inputs only through
their sum:

* by enumeration: all self-masks and pairwise seeds of one bit, with ideal shares (nothing below the
  threshold, all above), and vectors of one element, whoever adds it up;
* by linear algebra, with Shamir's shares: over a field of characteristic two the view is an affine function
  of input bits and random bits, f(x, r) = Bx + Ar + f(0, 0), so given x it is uniform on a coset of the image
  of A. Inputs x and x' have the same views if and only if B(x - x') lies in that image. The words of a check
  are no affine function, as their coins hang on digests of what is checked; in their place the view has all
  masked chunks of everybody, whoever they reach. That words, parts and pledges are functions of these is
  tested by itself.
"""

import functools
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np
import pytest
from numpy.typing import NDArray

from p2pfl.crypto import labels
from p2pfl.crypto.agreement import OneTimeKey
from p2pfl.crypto.identity import Identity, PeerId
from p2pfl.crypto.linear_check import check_values
from p2pfl.crypto.randomness import RandomBytes
from p2pfl.gossip.canonical import pack
from p2pfl.gossip.chunks import Chunks
from p2pfl.gossip.events import Computed, Effect, Event, Send
from p2pfl.gossip.messages import Bundle, Check, Held, Masked, Part, Plan, Pledge, Reveal, Survivors
from p2pfl.gossip.rehearsal import Rehearsal, Wrap, identity_of
from p2pfl.gossip.round import RoundMachine
from p2pfl.gossip.simulation import Link, Machine
from p2pfl.gossip.suite import Suite
from p2pfl.gossip.wire import Message, digest, signed

MEMBERS, THRESHOLD, BITS, DIM = 4, 3, 4, 4
HEADER, SIZE = 2, 2 + MEMBERS
KEY, SEED = 0xA0, 0xB0


@functools.cache
def times(a: int, b: int) -> int:
    """Product in GF(16), modulo x^4 + x + 1; addition is XOR."""
    result = 0
    for bit in range(BITS):
        result ^= (a << bit) * (b >> bit & 1)
    for bit in (6, 5, 4):
        result ^= (0b10011 << (bit - 4)) * (result >> bit & 1)
    return result


@functools.cache
def over(a: int, b: int) -> int:
    return next(c for c in range(16) if times(b, c) == a)


class Source:
    """The randomness of one member, in the place of a RandomBytes: elements of GF(16) in a fixed order.

    Secrets have a header of two public bytes (kind and owner, number) and one element for each member.
    """

    def __init__(
        self, owner: int, seed: int, pair_seeds: Mapping[int, int], coefficients: Iterator[int]
    ) -> None:
        self.owner, self.seed, self.pair_seeds, self.coefficients = owner, seed, pair_seeds, coefficients
        self.keys = 0

    def __call__(self, count: int) -> bytes:
        raise AssertionError("all randomness goes through the suite")

    def new_key(self) -> OneTimeKey:
        header = (KEY | self.owner, self.keys)
        self.keys += 1
        return OneTimeKey(
            bytes(header), bytes((*header, *(self.pair_seeds.get(j, 0) for j in range(MEMBERS))))
        )


def source(random: RandomBytes) -> Source:
    assert isinstance(random, Source)
    return random


def agree(secret: bytes, public: bytes, label: bytes, context: bytes) -> bytes:
    if label == labels.PAIRWISE_MASK:
        return bytes([secret[HEADER + (public[0] & 0xF)]])
    first, second = sorted((secret[:HEADER], public))
    return first + second  # names the key; who can derive it is decided in Coalition


def unseal(key: bytes, sealed: bytes, context: bytes) -> bytes:
    if not sealed.startswith(key):
        raise ValueError("another key")
    return sealed[len(key) :]


def shamir_split(secret: bytes, holders: int, threshold: int, random: RandomBytes) -> list[bytes]:
    """Share every element that can be anything; the points are 1 … holders."""
    assert (holders, threshold) == (MEMBERS, THRESHOLD)
    owner = secret[0] & 0xF
    shares = [bytearray(secret[:HEADER]) for _ in range(holders)]
    for place, element in enumerate(secret[HEADER:]):
        varies = place == 0 if secret[0] & 0xF0 == SEED else place != owner
        first, second = (next(source(random).coefficients) for _ in range(2)) if varies else (0, 0)
        for holder, share in enumerate(shares, 1):
            share.append(element ^ times(first, holder) ^ times(second, times(holder, holder)))
    return [bytes(share) for share in shares]


def shamir_combine(shares: Mapping[int, bytes], threshold: int) -> bytes:
    points = {holder + 1: share for holder, share in sorted(shares.items())[:threshold]}
    (header,) = {share[:HEADER] for share in points.values()}
    secret = bytearray(header)
    for place in range(HEADER, SIZE):
        value = 0
        for x, share in points.items():
            weight = 1
            for other in points:
                if other != x:
                    weight = times(weight, over(other, other ^ x))
            value ^= times(weight, share[place])
        secret.append(value)
    return bytes(secret)


class IdealShares:
    """Shares that say nothing, and a trustee who hands out the secret for enough of them."""

    def __init__(self) -> None:
        self.secrets: dict[bytes, bytes] = {}

    def split(self, secret: bytes, holders: int, threshold: int, random: RandomBytes) -> list[bytes]:
        self.secrets[secret[:HEADER]] = secret
        return [secret[:HEADER] + bytes((holder, 0, 0, 0)) for holder in range(holders)]

    def combine(self, shares: Mapping[int, bytes], threshold: int) -> bytes:
        (header,) = {share[:HEADER] for share in shares.values()}
        assert len(shares) >= threshold
        return self.secrets[header]


class TinyMask:
    """In Z_2 adding and subtracting are the same. Of a uniform seed all bits are, and independent."""

    def __init__(self, seed: bytes) -> None:
        self._bits = seed[0]

    def add_to(self, values: NDArray[np.uint32]) -> None:
        for place in range(len(values)):
            values[place] ^= np.uint32((self._bits & 1) << 31)
            self._bits >>= 1

    take_from = add_to


def bits_of(data: bytes | memoryview) -> bytes:
    """The elements of Z_2 in a vector."""
    elements = np.frombuffer(data, "<u4")
    assert not np.any(elements << np.uint32(1)), "no element of {0, 2^31}"
    return (elements >> np.uint32(31)).astype(np.uint8).tobytes()


TINY = Suite(
    new_key=lambda random: source(random).new_key(),
    key_of=lambda secret: OneTimeKey(secret[:HEADER], secret),
    accepts_key=lambda public: True,
    new_seed=lambda random: bytes((SEED | source(random).owner, 0, source(random).seed, 0, 0, 0)),
    commit=lambda seed: b"",
    agree=agree,
    derive=lambda secret, label, context: secret[HEADER : HEADER + 1],
    seal=lambda key, plaintext, context: key + plaintext,
    open_sealed=unseal,
    split=shamir_split,
    combine=shamir_combine,
    share_bytes=SIZE,
    mask=TinyMask,
)


@dataclass(frozen=True)
class Scenario:
    """A course of events, and a coalition that watches it."""

    coalition: tuple[int, ...]
    survivors: tuple[int, ...]
    dies: type[Message] | None = None
    """Before what member 3 falls silent for ever."""
    late: int | None = None
    """Whose masked vectors arrive after the others have given up on them: 1.5 seconds later."""
    late_for: int | None = None
    """For whom alone they are late."""
    lies: bool = False
    """Whether the coalition signs two sets of survivors, one for each half of the others."""
    scattered: bool = False
    """Whether vectors go in chunks, one for each member."""

    @property
    def honest(self) -> list[int]:
        return [number for number in range(MEMBERS) if number not in self.coalition]

    def link(self, group: tuple[PeerId, ...]) -> Link:
        def delays(
            sender: PeerId, receiver: PeerId, message: Message, rng: np.random.Generator
        ) -> tuple[float, ...]:
            late = self.late is not None and sender == group[self.late]
            only = self.late_for is None or receiver == group[self.late_for]
            kinds = Masked | Pledge if self.late_for is None else Masked
            return (1.5,) if late and only and isinstance(message, kinds) else (0.01,)

        return delays

    def wrap(self) -> dict[int, Wrap]:
        wrap: dict[int, Wrap] = dict.fromkeys(self.coalition, Equivocator) if self.lies else {}
        kind = self.dies
        if kind is not None:
            wrap[3] = lambda machine, identity: Mortal(machine, kind)
        return wrap


class Mortal:
    """Says nothing from the first message of some kind on, which it does not send."""

    def __init__(self, machine: RoundMachine, last: type[Message]) -> None:
        self._machine, self._last, self._dead = machine, last, False

    def handle(self, event: Event, now: float) -> list[Effect]:
        said: list[Effect] = []
        for effect in () if self._dead else self._machine.handle(event, now):
            self._dead |= isinstance(effect, Send) and isinstance(effect.message, self._last)
            if not self._dead:
                said.append(effect)
        return said


class Equivocator:
    """Signs a set without member 1 for member 2, and one without member 2 for member 1."""

    def __init__(self, machine: RoundMachine, identity: Identity) -> None:
        self._machine, self._identity = machine, identity

    def handle(self, event: Event, now: float) -> list[Effect]:
        return [self._twist(effect) for effect in self._machine.handle(event, now)]

    def _twist(self, effect: Effect) -> Effect:
        if not isinstance(effect, Send) or not isinstance(effect.message, Survivors):
            return effect
        ballot = effect.message
        missing = 1 if identity_of(2).peer_id == effect.peer else 2
        entries = (*ballot.entries[:missing], *ballot.entries[missing + 1 :])
        return Send(effect.peer, signed(self._identity, replace(ballot, entries=entries)))


QUIET = Scenario(coalition=(0,), survivors=(0, 1, 2, 3))
SCENARIOS = {
    "nobody drops": QUIET,
    "the coalition convenes last": Scenario(coalition=(3,), survivors=(0, 1, 2, 3)),
    "one dies before it sends": Scenario(coalition=(0,), survivors=(0, 1, 2), dies=Masked),
    "a vector comes too late": Scenario(coalition=(0,), survivors=(0, 1, 2), late=3),
    "a convener's vector comes too late": Scenario(coalition=(3,), survivors=(1, 2, 3), late=0),
    "the coalition signs two sets": Scenario(coalition=(0,), survivors=(0, 1, 2, 3), lies=True),
    "two against two": Scenario(coalition=(0, 1), survivors=(0, 1, 2, 3)),
    "in chunks, nobody drops": replace(QUIET, scattered=True),
    "in chunks, an owner dies and another takes its place": Scenario(
        coalition=(0,), survivors=(0, 1, 2), dies=Held, scattered=True
    ),
    "in chunks, an owner dies after it has added up": Scenario(
        coalition=(0,), survivors=(0, 1, 2), dies=Check, scattered=True
    ),
    "in chunks, some come too late": Scenario(coalition=(0,), survivors=(0, 1, 2), late=3, scattered=True),
    "in chunks, one owner lacks some, and the coalition takes its place": Scenario(
        coalition=(1,), survivors=(0, 1, 2, 3), late=3, late_for=0, scattered=True
    ),
    "in chunks, the coalition signs two sets": Scenario(
        coalition=(0,), survivors=(0, 1, 2, 3), lies=True, scattered=True
    ),
    "in chunks, two owners against two": Scenario(coalition=(1, 3), survivors=(0, 1, 2, 3), scattered=True),
}


def rehearsed(
    scenario: Scenario,
    inputs: Mapping[int, int],
    elements: Iterable[int],
    suite: Suite = TINY,
    dim: int = 1,
    watched: "Watched | None" = None,
) -> Rehearsal:
    """One run of the real machines; the coalition's inputs and randomness are all zero. Bit e of an input is
    element e of a vector.
    """
    stream = iter(elements)
    honest = scenario.honest
    pairs = {pair: next(stream) for pair in combinations(honest, 2)}
    seeds = {number: next(stream) for number in honest}
    zeros = iter(lambda: 0, None)
    sources = [
        Source(
            number,
            seeds.get(number, 0),
            {sum(pair) - number: value for pair, value in pairs.items() if number in pair},
            stream if number in honest else zeros,
        )
        for number in range(MEMBERS)
    ]
    bits = [[inputs.get(number, 0) >> place & 1 for place in range(dim)] for number in range(MEMBERS)]
    values = np.array(bits, np.uint32) << np.uint32(31)
    group = Rehearsal(values).group
    return Rehearsal(
        values,
        suite=suite,
        cut=lambda dim, members, element_bytes: Chunks(dim, members, members if scenario.scattered else 1),
        randoms=sources,
        link=scenario.link(group),
        wrap=watched.wrap(scenario) if watched else scenario.wrap(),
    ).run()


def perform(
    scenario: Scenario, inputs: Mapping[int, int], elements: Iterable[int], suite: Suite = TINY
) -> tuple[bytes, ...]:
    """The view of the coalition."""
    return view(scenario, rehearsed(scenario, inputs, elements, suite), affine=False)


def view(scenario: Scenario, rehearsal: Rehearsal, *, affine: bool) -> tuple[bytes, ...]:
    """Everything the coalition gets hold of, in the order of sending, without what follows from the rest
    (digests and signatures).
    """
    coalition = {rehearsal.group[number] for number in scenario.coalition}
    bundles = [sent.message for sent in rehearsal.net.sent if isinstance(sent.message, Bundle)]
    reveals = {
        sent.message.author: sent.message
        for sent in rehearsal.net.sent
        if isinstance(sent.message, Reveal) and {sent.sender, sent.receiver} & coalition
    }
    assert all(message.attempt == 0 for message in bundles)
    end = rehearsal.completed[rehearsal.group[scenario.coalition[0]]]
    assert end.survivors == tuple(rehearsal.group[number] for number in scenario.survivors)
    shown = Counter(share[:HEADER] for reveal in reveals.values() for share in reveal.shares)
    recovered = {header for header, count in shown.items() if count >= THRESHOLD}
    own = {bytes((KEY | number, key)) for number in scenario.coalition for key in (0, 1)}
    seen = []
    for bundle in bundles:
        ends, text = {bundle.sealed[:HEADER], bundle.sealed[HEADER : 2 * HEADER]}, bundle.sealed[2 * HEADER :]
        if ends & (own | recovered):
            seen.append(text)
    seen += [bits_of(data) for data in exchanged(rehearsal, None if affine else coalition)]
    seen += [share for _, reveal in sorted(reveals.items()) for share in reveal.shares]
    return (*seen, bits_of(end.total.tobytes()))


def exchanged(rehearsal: Rehearsal, coalition: set[PeerId] | None) -> Iterator[bytes | memoryview]:
    """Vectors, chunks, parts and words that reach the coalition; or all masked chunks, whoever they reach."""
    for sent in rehearsal.net.sent:
        match sent.message:
            case Masked() as masked if coalition is None or sent.receiver in coalition:
                yield masked.data
            case Part() as part if coalition is not None and sent.receiver in coalition:
                yield part.data
            case Check() as check if coalition is not None and sent.receiver in coalition:
                yield check.words


def leak(scenario: Scenario, inputs: Mapping[int, int]) -> int:
    """What the coalition is meant to learn: for every element the sum."""
    return functools.reduce(operator.xor, (inputs[n] for n in scenario.honest if n in scenario.survivors))


def all_inputs(scenario: Scenario, dim: int = 1) -> list[dict[int, int]]:
    return [
        dict(zip(scenario.honest, vectors, strict=True))
        for vectors in product(range(1 << dim), repeat=len(scenario.honest))
    ]


@pytest.mark.parametrize(
    "name",
    [
        "nobody drops",
        "a vector comes too late",
        "in chunks, an owner dies and another takes its place",
        "in chunks, two owners against two",
    ],
)
def test_by_enumeration_only_the_sum_shows(name: str) -> None:
    scenario = SCENARIOS[name]
    distributions: dict[int, Counter[tuple[bytes, ...]]] = {}
    for inputs in all_inputs(scenario):
        seen: Counter[tuple[bytes, ...]] = Counter()
        for bits in product(range(2), repeat=len(scenario.honest) * (len(scenario.honest) + 1) // 2):
            shares = IdealShares()
            suite = replace(TINY, split=shares.split, combine=shares.combine)
            seen[with_secrets(perform(scenario, inputs, bits, suite), shares)] += 1
        expected = distributions.setdefault(leak(scenario, inputs), seen)
        assert seen == expected
    assert not distributions[0] & distributions[1], "the sum itself does show"


def with_secrets(seen: tuple[bytes, ...], shares: IdealShares) -> tuple[bytes, ...]:
    """Ideal shares say nothing one by one: put the secret in the place of those that are enough."""
    counts = Counter(item[:HEADER] for item in seen if len(item) == SIZE)
    known = (shares.secrets[header] for header, count in sorted(counts.items()) if count >= THRESHOLD)
    return (*seen, *known)


@pytest.mark.parametrize("name", SCENARIOS)
def test_by_linear_algebra_only_the_sum_shows(name: str) -> None:
    scenario = SCENARIOS[name]
    honest = scenario.honest
    elements = len(honest) * (len(honest) - 1) // 2 + len(honest) * (1 + 2 * MEMBERS)
    bits = elements * BITS

    def run(inputs: int, random: int) -> int:
        chosen = {number: inputs >> (DIM * place) & 0b1111 for place, number in enumerate(honest)}
        digits = [random >> (BITS * place) & 0b1111 for place in range(elements)]
        rehearsal = rehearsed(scenario, chosen, digits, dim=DIM)
        return int.from_bytes(b"".join(view(scenario, rehearsal, affine=True)), "big")

    origin = run(0, 0)
    rng = np.random.default_rng(5)
    by_random = [run(0, 1 << bit) ^ origin for bit in range(bits)]
    by_input = [run(1 << bit, 0) ^ origin for bit in range(DIM * len(honest))]
    for _ in range(4):  # affine indeed
        inputs = int(rng.integers(0, 1 << len(by_input)))
        random = int.from_bytes(rng.bytes(bits // 8), "big")
        assert run(inputs, random) == origin ^ combined(by_input, inputs) ^ combined(by_random, random)
    basis = reduced(by_random)
    for chosen in all_inputs(scenario, DIM):
        packed = sum(chosen[number] << (DIM * place) for place, number in enumerate(honest))
        hidden = not reduced([combined(by_input, packed)], basis)
        assert hidden == (leak(scenario, chosen) == 0)


def combined(vectors: Iterable[int], chosen: int) -> int:
    """The sum of those at the bits of ``chosen``."""
    return functools.reduce(
        operator.xor, (vector for bit, vector in enumerate(vectors) if chosen >> bit & 1), 0
    )


def reduced(vectors: Iterable[int], basis: Mapping[int, int] | None = None) -> dict[int, int]:
    """What these bit vectors add to the span of ``basis``, by leading bit."""
    known, new = dict(basis or {}), dict[int, int]()
    for vector in vectors:
        rest = vector
        while rest and rest.bit_length() in known:
            rest ^= known[rest.bit_length()]
        if rest:
            known[rest.bit_length()] = new[rest.bit_length()] = rest
    return new


class Watched:
    """What all members mask, as they come to it."""

    def __init__(self) -> None:
        self.chunks: dict[tuple[PeerId, int], NDArray[np.uint32]] = {}

    def wrap(self, scenario: Scenario) -> dict[int, Wrap]:
        inner = scenario.wrap()

        def over(number: int) -> Wrap:
            below: Wrap = inner.get(number, lambda machine, identity: machine)
            return lambda machine, identity: Overheard(
                below(machine, identity), identity.peer_id, self.chunks
            )

        return {number: over(number) for number in range(MEMBERS)}


@dataclass(frozen=True)
class Overheard:
    """A machine of whose computations the masked chunks are kept."""

    machine: Machine
    peer: PeerId
    chunks: dict[tuple[PeerId, int], NDArray[np.uint32]]

    def handle(self, event: Event, now: float) -> list[Effect]:
        if isinstance(event, Computed):
            *_, task, number = event.key.split("/")
            if task == "mask" and isinstance(event.value, tuple):
                self.chunks[self.peer, int(number)] = np.frombuffer(event.value[0], "<u4")
        return self.machine.handle(event, now)


SUMS = {
    "in chunks, an owner dies after it has added up": [(0, 1, 2, 3), (0, 1, 2)],
    "in chunks, an owner dies and another takes its place": [(0, 1, 2)],
    "in chunks, some come too late": [(0, 1, 2)],
}
"""Over whom chunks are added up, where it is not all four once."""


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if scenario.scattered])
def test_whatever_goes_round_before_shares_follows_from_the_masked_chunks(name: str) -> None:
    """What the linear algebra leaves out: pledges, parts and words are functions of them."""
    scenario, watched = SCENARIOS[name], Watched()
    rng = np.random.default_rng(7)
    random = rng.integers(0, 1 << BITS, 100).tolist()
    inputs = {number: int(rng.integers(0, 1 << DIM)) for number in scenario.honest}
    rehearsal = rehearsed(scenario, inputs, random, dim=DIM, watched=watched)
    messages = [sent.message for sent in rehearsal.net.sent]
    plans = {message.mark: message for message in messages if isinstance(message, Plan)}
    seen = set()
    for message in messages:
        seen.add(type(message))
        match message:
            case Masked():
                assert message.data == watched.chunks[message.author, message.chunk].tobytes()
            case Pledge():
                ours = [watched.chunks[message.author, chunk].tobytes() for chunk in range(MEMBERS)]
                assert message.digests == tuple(digest(labels.MASKED_DIGEST, data) for data in ours)
            case Part():
                members = [rehearsal.group[number] for number, _ in plans[message.plan].entries]
                vectors = [watched.chunks[peer, message.chunk] for peer in members]
                assert message.data == np.add.reduce(vectors, dtype="<u4").tobytes()
            case Check():
                assert message.words == words_of(rehearsal, plans[message.plan], message, watched)
    assert seen >= {Masked, Pledge, Part, Check}
    sums = dict.fromkeys(plans[message.plan].entries for message in messages if isinstance(message, Part))
    assert [tuple(number for number, _ in entries) for entries in sums] == SUMS.get(name, [(0, 1, 2, 3)])


def words_of(rehearsal: Rehearsal, plan: Plan, check: Check, watched: Watched) -> bytes:
    """What the author of ``check`` must say, and no more."""
    chunks = {chunk: watched.chunks[check.author, chunk] for chunk in range(MEMBERS)}
    owners = [Chunks(DIM, MEMBERS, MEMBERS).owner(chunk, plan.owners) for chunk in range(MEMBERS)]
    seed = digest(labels.CHALLENGE, pack((plan.mark, check.parts)))
    words = check_values(seed, chunks, owners)
    return b"".join(words[owner].tobytes() for owner in sorted(words))


def test_a_secret_that_is_shown_twice_would_be_noticed() -> None:
    """The yardstick itself: with both secrets of one member in the view, its input shows."""
    scenario = SCENARIOS["a vector comes too late"]

    def both(secret: bytes, holders: int, threshold: int, random: RandomBytes) -> list[bytes]:
        shares = shamir_split(secret, holders, threshold, random)
        late = secret[0] == SEED | 3
        return [bytes(secret) if late else share for share in shares]  # no sharing at all of one seed

    suite = replace(TINY, split=both)
    views = set()
    for value in range(2):
        views.add(perform(scenario, {1: 0, 2: 0, 3: value}, iter(lambda: 0, None), suite))
    assert len(views) == 2
