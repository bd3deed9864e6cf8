"""Cuts: every element is in one chunk, every chunk has one owner, and nothing grows beyond its bounds."""

from hypothesis import given
from hypothesis import strategies as st

from p2pfl.gossip.chunks import (
    BROADCAST_BYTES,
    CHUNK_BYTES,
    MAX_CHUNKS,
    USUAL_CHUNKS,
    Chunks,
    longest_chunk_bytes,
)
from p2pfl.gossip.messages import MAX_MEMBERS
from p2pfl.gossip.vector_messages import MAX_ELEMENT_BYTES

dims = st.integers(1, 1 << 32) | st.integers(1 << 18, 1 << 24)
groups = st.integers(2, MAX_MEMBERS)
widths = st.sampled_from((2, 4, 8))


@given(dims, groups, widths)
def test_chunks_cover_the_vector_in_order_and_are_even(dim: int, members: int, width: int) -> None:
    chunks = Chunks.of(dim, members, width)
    end = 0
    for chunk in range(chunks.count):
        where = chunks.where(chunk)
        assert where.start == end
        end = where.stop
        assert chunks.length(chunk) == where.stop - where.start
        assert chunks.length(chunk) in (dim // chunks.count, -(-dim // chunks.count))
    assert end == dim


@given(dims, groups, widths)
def test_long_vectors_are_scattered_in_equal_numbers_of_chunks(dim: int, members: int, width: int) -> None:
    chunks = Chunks.of(dim, members, width)
    assert chunks.scattered == (width * dim * (members - 1) > BROADCAST_BYTES)
    if chunks.scattered:
        assert chunks.count % members == 0
        assert chunks.length(0) > 0
    else:
        assert chunks.count == 1


@given(dims, groups, widths)
def test_neither_chunks_nor_their_number_grow_too_large(dim: int, members: int, width: int) -> None:
    chunks = Chunks.of(dim, members, width)
    assert chunks.count <= MAX_CHUNKS
    longest = width * max(map(chunks.length, range(chunks.count)))
    if chunks.scattered:
        assert longest <= max(CHUNK_BYTES, width * -(-dim // USUAL_CHUNKS))
    for known in (dim, dim + 1, 2 * dim):
        assert longest <= longest_chunk_bytes(known, MAX_ELEMENT_BYTES) <= MAX_ELEMENT_BYTES * known


def test_the_most_chunks_there_are() -> None:
    counts = {Chunks.of(1 << 32, members, 4).count for members in range(2, MAX_MEMBERS + 1)}
    assert USUAL_CHUNKS <= max(counts) < MAX_CHUNKS == USUAL_CHUNKS + MAX_MEMBERS


def test_the_numbers_of_the_protocols_page() -> None:
    assert Chunks.of(349_525, 4, 4).count == 1
    assert Chunks.of(349_526, 4, 4).count == 4
    ten_million = Chunks.of(10_000_000, 4, 4)
    assert ten_million.count == 40
    assert ten_million.where(39) == slice(9_750_000, 10_000_000)
    assert Chunks.of(10_000_000, 4, 2).count == 20
    assert Chunks(29, 4, 8).where(1) == slice(3, 7)


@given(groups, st.integers(1, 5), st.data())
def test_every_chunk_has_an_owner_among_whoever_is_left(members: int, each: int, data: st.DataObject) -> None:
    chunks = Chunks(1000, members, each * members)
    left = data.draw(st.sets(st.integers(0, members - 1), min_size=1))
    loads = dict.fromkeys(left, 0)
    for chunk in range(chunks.count):
        owner = chunks.owner(chunk, left)
        loads[owner] += 1
        walk = chunk % members
        while walk not in left:
            walk = (walk + 1) % members
        assert owner == walk
    assert all(each <= load <= each * (members - len(left) + 1) for load in loads.values())
    assert len(left) < members or set(loads.values()) == {each}
