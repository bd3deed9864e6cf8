"""tests/vectors/schedule.json: groups that every implementation, platform and version must draw.

A case is a roster, a beacon and a manifest's terms, with the groups of some rounds. They were computed once;
here they are drawn again, by the package and by a second implementation that follows docs/protocol.md word
for word and shares no line with it. Run as a program, this file prints what the package draws, for the tests
that do so under other hash seeds.
"""

import ast
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl import topologies
from p2pfl.topologies.graphs import FAMILIES
from p2pfl.topologies.schedule import ScheduleError, groups

VECTORS = Path(__file__).parents[1] / "vectors" / "schedule.json"
Case = dict[str, Any]
Drawn = dict[str, list[list[str]] | None]


def cases() -> list[Case]:
    found: list[Case] = json.loads(VECTORS.read_text(encoding="utf-8"))
    return found


def drawn(case: Case) -> Drawn:
    """By round; None where the roster fills no grid."""
    beacon = bytes.fromhex(case["beacon"])
    graph = FAMILIES[case["topology"]](case["roster"], beacon)

    def of(round: int) -> list[list[str]] | None:
        try:
            found = groups(graph, case["size"], case["minimum"], beacon, round, case["schedule"])
        except ScheduleError:
            return None
        return [list(group) for group in found]

    return {round: of(int(round)) for round in case["groups"]}


# The second implementation: section 7 of docs/protocol.md.


def words(label: bytes, key: bytes, tweak: int) -> Iterator[int]:
    prefix = label + b"\0" + hashlib.sha256(key).digest() + tweak.to_bytes(8, "big")
    counter = 0
    while True:
        block = hashlib.sha256(prefix + counter.to_bytes(8, "big")).digest()
        yield from (int.from_bytes(block[at : at + 8], "big") for at in range(0, 32, 8))
        counter += 1


def permuted(items: list[Any], stream: Iterator[int]) -> list[Any]:
    items = list(items)
    for last in range(len(items) - 1, 0, -1):
        bound = last + 1
        word = next(word for word in stream if word < 2**64 - 2**64 % bound)
        items[last], items[word % bound] = items[word % bound], items[last]
    return items


def edges_between(topology: str, count: int, beacon: bytes) -> set[frozenset[int]]:
    every = {frozenset((i, j)) for i in range(count) for j in range(i)}
    if topology == "complete" or (topology == "random_regular" and count <= 7):
        return every
    if topology == "random_regular":
        return regular(count, words(b"p2pfl/topology/v1", beacon, 1))
    if topology == "hypercube":
        return {edge for edge in every if (min(edge) ^ max(edge)).bit_count() == 1}
    if topology == "torus":
        return torus(count) & every
    hops = [1] if topology == "ring" else [2**p for p in range(count) if 2**p < count]
    return {frozenset((i, (i + hop) % count)) for i in range(count) for hop in hops} & every


def torus(count: int) -> set[frozenset[int]]:
    a = next(a for a in range(count, 0, -1) if a * a <= count and count % a == 0)
    b = count // a
    if a >= 3 and b <= 2 * a:
        right = {frozenset((i, i - i % b + (i + 1) % b)) for i in range(count)}
        return right | {frozenset((i, (i + b) % count)) for i in range(count)}
    root = next(root for root in range(count, -1, -1) if root * root <= count)
    return {frozenset((i, (i + hop) % count)) for i in range(count) for hop in (1, root)}


def regular(count: int, stream: Iterator[int]) -> set[frozenset[int]]:
    while True:
        edges: set[frozenset[int]] = set()
        stubs = [i for i in range(count) for _ in range(6)]
        while stubs:
            mixed, stubs = permuted(stubs, stream), []
            for i, j in zip(mixed[0::2], mixed[1::2], strict=True):
                if i != j and frozenset((i, j)) not in edges:
                    edges.add(frozenset((i, j)))
                else:
                    stubs += [min(i, j), max(i, j)]
            left = set(stubs)
            if left and not any(frozenset((i, j)) not in edges for i in left for j in left if i != j):
                break
        else:
            if connected(count, edges):
                return edges


def connected(count: int, edges: set[frozenset[int]]) -> bool:
    reached, before = {0}, set[int]()
    while reached != before:
        before = set(reached)
        reached |= {i for edge in edges if edge & before for i in edge}
    return len(reached) == count


def by_the_page(case: Case, round: int) -> list[list[str]] | None:
    beacon, k, m = bytes.fromhex(case["beacon"]), case["size"], case["minimum"]
    roster, n = sorted(case["roster"]), len(case["roster"])
    order = permuted(roster, words(b"p2pfl/schedule/v1", beacon, round))
    if case["schedule"] == "grid":
        return lines(roster, shape(n, k, m), beacon, round)
    placed = permuted(roster, words(b"p2pfl/topology/v1", beacon, 0))
    edges = edges_between(case["topology"], n, beacon)
    if len(edges) == n * (n - 1) // 2:
        return cut(order, k, m)
    adjacent = {frozenset(placed[i] for i in edge) for edge in edges}
    return gathered(order, lambda a, b: frozenset((a, b)) in adjacent, k, m)


def cut(order: list[str], k: int, m: int) -> list[list[str]]:
    if len(order) < m:
        return []
    count = max(1, len(order) // k)
    sizes = [len(order) // count + (number < len(order) % count) for number in range(count)]
    return [order[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(count)]


def gathered(order: list[str], joined: Callable[[str, str], bool], k: int, m: int) -> list[list[str]]:
    found: dict[str, list[str]] = {}

    def free() -> list[str]:
        return [node for node in order if not any(node in group for group in found.values())]

    for least in (k, m):
        for node in order:
            near = [other for other in free() if joined(node, other)]
            if node in free() and len(near) + 1 >= least:
                found[node] = [node, *near[: k - 1]]
    for node in order:
        founders = [f for f in order if f in found and joined(node, f) and len(found[f]) < 2 * k - 1]
        if node in free() and founders:
            smallest = min(len(found[f]) for f in founders)
            next(found[f] for f in founders if len(found[f]) == smallest).append(node)
    return [sorted(group, key=order.index) for group in found.values()]


def shape(n: int, k: int, m: int) -> list[int] | None:
    if max(m, 4) <= n < 2 * k:
        return [n]

    def factors(rest: int, least: int) -> Iterator[list[int]]:
        if rest == 1:
            yield []
        for factor in range(least, 2 * k):
            if rest % factor == 0:
                yield from ([factor, *more] for more in factors(rest // factor, factor))

    found = [each for each in factors(n, max(k, 4)) if each]
    return min(found, key=lambda each: (len(each), each[-1] - each[0], each), default=None)


def lines(roster: list[str], of: list[int] | None, beacon: bytes, round: int) -> list[list[str]] | None:
    if of is None:
        return None
    axis, stride = round % len(of), 1
    for factor in of[:axis]:
        stride *= factor
    placed = permuted(roster, words(b"p2pfl/schedule/v1/grid", beacon, 0))
    found: dict[int, list[str]] = {}
    for position, node in enumerate(placed):
        found.setdefault(position - (position // stride % of[axis]) * stride, []).append(node)
    stream = words(b"p2pfl/schedule/v1", beacon, round)
    return [permuted(found[line], stream) for line in sorted(found)]


# The tests.


def test_there_is_a_vector_for_everything() -> None:
    assert {case["topology"] for case in cases()} == set(FAMILIES)
    assert {case["schedule"] for case in cases()} == {"random", "grid"}
    assert len({case["size"] for case in cases()}) >= 4
    assert len({len(case["roster"]) for case in cases()}) >= 6
    assert any(case["roster"] != sorted(case["roster"]) for case in cases())


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["name"])
def test_the_package_draws_what_it_drew(case: Case) -> None:
    assert drawn(case) == case["groups"]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case["name"])
def test_the_page_draws_the_same(case: Case) -> None:
    assert {round: by_the_page(case, int(round)) for round in case["groups"]} == case["groups"]


@given(
    st.sampled_from([*((name, "random") for name in sorted(FAMILIES)), ("complete", "grid")]),
    st.integers(1, 40),
    st.integers(3, 9),
    st.data(),
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**64 - 1),
)
def test_the_page_and_the_package_agree(
    kind: tuple[str, str], count: int, size: int, data: st.DataObject, beacon: bytes, round: int
) -> None:
    minimum = data.draw(st.integers(2, size))
    roster = data.draw(st.permutations([f"n{number}" for number in range(count)]))
    case = {
        "topology": kind[0],
        "schedule": kind[1],
        "size": size,
        "minimum": minimum,
        "beacon": beacon.hex(),
        "roster": roster,
        "groups": {str(round): None},
    }
    assert drawn(case) == {str(round): by_the_page(case, round)}


@pytest.mark.parametrize("seed", ["0", "1", "4242"])
def test_the_hash_seed_makes_no_difference(seed: str) -> None:
    done = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert json.loads(done.stdout) == [case["groups"] for case in cases()]


@pytest.mark.parametrize("name", ["draws", "graphs", "lattices", "placing", "schedule"])
def test_draws_use_neither_floats_nor_hashes_nor_chance(name: str) -> None:
    (folder,) = topologies.__path__
    tree = ast.parse((Path(folder) / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        assert not isinstance(node, ast.Div)
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float))
        assert not (isinstance(node, ast.Name) and node.id in ("float", "hash", "id", "round_half"))
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = (
                [node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            )
            if ast.unparse(node) == "from math import isqrt":
                continue  # of integers, exact
            assert not {"random", "math", "numpy", "time", "os"} & {
                str(module).split(".")[0] for module in modules
            }


if __name__ == "__main__":
    print(json.dumps([drawn(case) for case in cases()]))
