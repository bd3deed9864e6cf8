"""The families that this package brings, with formula, paper and use. docs/topologies.md shows them."""

from typing import Final

from p2pfl.topologies import (
    base_graph,
    epidemic,
    equitopo,
    exponential,
    graphs,
    lattices,
    random_graphs,
    spectra,
)
from p2pfl.topologies.registry import register

_YING: Final = "Ying et al., Exponential Graph is Provably Efficient for Decentralized Deep Training, 2021"
_TAKEZAWA: Final = "Takezawa et al., Beyond Exponential Graph, NeurIPS 2023"
_SONG: Final = "Song et al., Communication-Efficient Topologies with O(1) Consensus Rate, NeurIPS 2022"

register(
    "complete",
    graphs.complete,
    formula="|λ₂| = 0",
    good_for="up to some dozens of nodes; random groups on it are the default of real federations",
    closed_form=spectra.complete,
)
register(
    "ring",
    graphs.ring,
    formula="|λ₂| = 1/3 + 2/3 cos(2π/n)",
    good_for="a lower bound of what mixing can cost; the slowest of all that are connected and regular",
    closed_form=spectra.ring,
)
register(
    "torus",
    lattices.torus,
    formula="|λ₂| = (3 + 2 cos(2π/m)) / 5 on m × m",
    good_for="few fixed links of equal number, up to about a hundred nodes",
    closed_form=spectra.torus,
)
register(
    "hypercube",
    lattices.hypercube,
    formula="|λ₂| = 1 − 2 / (1 + log2 n)",
    paper="Katseff, Incomplete hypercubes, 1988",
    good_for="short ways with log2(n) links each",
    closed_form=spectra.hypercube,
)
register(
    "star",
    lattices.star,
    formula="|λ₂| = 1 − 1/n",
    good_for="the centralised baseline; its centre sees everything and its failure stops everybody",
    closed_form=spectra.star,
)
register(
    "exponential",
    graphs.exponential,
    formula="|λ₂| = largest |(1 + Σ cos(2πjh/n)) / (1 + degree)| over j ≠ 0, h in ±2^p",
    paper=_YING,
    good_for="fast mixing over fixed links that go both ways; groups fit its neighbourhoods",
    closed_form=spectra.exponential,
)
register(
    "directed_exponential",
    exponential.directed_exponential,
    kind="weights",
    formula="|λ₂| = 1 − 2 / (1 + ⌈log2 n⌉) for even n",
    paper=_YING,
    good_for="the static exponential graph of the literature; compare with published results",
    closed_form=spectra.directed_exponential,
)
register(
    "one_peer_exponential",
    exponential.one_peer_exponential,
    kind="sequence",
    formula="exact after log2 n rounds for n = 2^m",
    paper=_YING,
    good_for="the fewest bytes a round where n is a power of two; simulation only",
)
register(
    "base",
    base_graph.base,
    kind="sequence",
    formula="exact after at most 2·log(n)/log(k + 1) + 2 rounds for any n",
    paper=_TAKEZAWA,
    good_for="exact averages with few neighbours a round for any n; simulation only",
)
register(
    "hyper_hypercube",
    base_graph.hyper_hypercube,
    kind="sequence",
    formula="exact after one round for each factor of n, all of them at most k + 1",
    paper=_TAKEZAWA,
    good_for="what the schedule grid does with groups, for smaller factors too; simulation only",
)
register(
    "equistatic",
    equitopo.equistatic,
    kind="weights",
    formula="W = mean of A(u) over M random u; expected |λ₂| independent of n for M ~ ln n",
    paper=_SONG,
    good_for="thousands of nodes over fixed links",
)
register(
    "equidyn",
    equitopo.equidyn,
    kind="sequence",
    formula="directed: a round leaves (1 − η)² + η² (n − 2)/n",
    paper=_SONG,
    good_for="one neighbour a round and a rate that does not depend on n; simulation only",
    contraction=equitopo.equidyn_contraction,
)
register(
    "random_regular",
    graphs.random_regular,
    formula="|λ₂| ≈ (1 + 2 √(d − 1)) / (d + 1) for large n",
    paper="Friedman, A proof of Alon's second eigenvalue conjecture, 2003",
    good_for="the best sparse fixed graph for groups: no hub, no bottleneck, no-one with few neighbours",
)
register(
    "erdos_renyi",
    random_graphs.erdos_renyi,
    formula="edges with probability p, 2·ln(n)/n by default",
    paper="Erdős and Rényi, On random graphs, 1959",
    good_for="a model of links that exist by chance; some nodes have few",
)
register(
    "watts_strogatz",
    random_graphs.watts_strogatz,
    formula="ring of degree d, each edge moved with probability p",
    paper="Watts and Strogatz, Collective dynamics of small-world networks, Nature 1998",
    good_for="a model of neighbours who mostly know each other",
)
register(
    "barabasi_albert",
    random_graphs.barabasi_albert,
    formula="degrees follow a power law of exponent 3",
    paper="Barabási and Albert, Emergence of scaling in random networks, Science 1999",
    good_for="a model of networks with hubs; hubs expose their leaves and fail for many",
)
register(
    "clustered",
    random_graphs.clustered,
    formula="random d-regular inside a region, b edges between each two",
    good_for="regions with fast links inside and slow ones between; takes the attribute region of nodes",
)
register(
    "epidemic",
    epidemic.epidemic,
    kind="sequence",
    formula="a round leaves (1 − (1 − s/(n−1))ⁿ)/s − 1/(n−1); the mean drifts",
    paper="de Vos et al., Epidemic Learning, NeurIPS 2023",
    good_for="a comparison with groups: random and without agreement on who meets whom; no secure sum",
    contraction=epidemic.contraction,
)
