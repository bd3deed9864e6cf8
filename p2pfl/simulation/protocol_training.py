"""The engine ``protocol`` of experiments: the nodes' own learners, whose sums the real machines compute.

Everything is what daemons do, to the last bit of the ring and its noise, on a virtual network: training,
encoding, noise, groups, secure sums. A node that missed rounds takes over what others agree on, as daemons
do, at no simulated time. Training takes as long as the scenario says, one second where none is named.
"""

from collections.abc import Iterator, Set
from dataclasses import replace

import numpy as np

from p2pfl.gossip.declared import ManifestError
from p2pfl.gossip.manifest import Manifest
from p2pfl.simulation.learners import Learning, company, outcomes, require_learners
from p2pfl.simulation.outcome import Outcome
from p2pfl.simulation.protocol_engine import ProtocolFederation
from p2pfl.simulation.protocol_nodes import identities
from p2pfl.simulation.scenario import MOST_SECONDS, Fixed, Scenario, read
from p2pfl.simulation.setting import Setting
from p2pfl.simulation.sources import Dealt
from p2pfl.simulation.vectorised import require_simulated
from p2pfl.topologies.graphs import FAMILIES


def trained(manifest: Manifest, setting: Setting, dealt: Dealt, seed: int) -> Iterator[Outcome]:
    """One run of an experiment among the nodes of ``dealt``.

    Raises FieldError for what this engine does not do, or a scenario that is not there or does not fit.
    """
    _require_named(setting)
    manifest = listing(manifest, setting, len(dealt.train))
    learning, attackers = learnt(manifest, setting, dealt, seed)
    yield from outcomes(manifest, dealt, learning, attackers)


def listing(manifest: Manifest, setting: Setting, count: int) -> Manifest:
    """``manifest`` with so many simulated nodes for members: that is another federation."""
    return replace(
        manifest,
        issuers=(),
        members=tuple(sorted(identity.peer_id for identity in identities(count))),
        groups=replace(manifest.groups, topology=setting.topology or manifest.groups.topology),
    )


def learnt(manifest: Manifest, setting: Setting, dealt: Dealt, seed: int) -> tuple[Learning, Set[int]]:
    """The nodes at the end of :func:`trained`, and which of them attack; ``manifest`` lists them."""
    require_learners(setting)
    require_simulated(manifest)
    rng = np.random.default_rng([seed, 5])
    them = company(manifest, setting, dealt, seed, rng)
    learning = Learning(
        manifest, them.learners, setting.evaluate_every, lambda: float(rng.random()) < setting.offline
    )
    scenario = _scenario(manifest, setting, seed)
    federation = ProtocolFederation(scenario, learning, manifest, them.learners[0].message_limits)
    learning.sent = lambda: sum(federation.net.bytes.values()) / len(them.learners)
    federation.run()
    learning.finish()
    return learning, them.attackers


def _require_named(setting: Setting) -> None:
    if setting.topology not in ("", *FAMILIES) or setting.topology_parameters:
        what = f"must be one of {', '.join(FAMILIES)}, without parameters, with engine 'protocol'"
        raise ManifestError("simulation.topology", what)


def _scenario(manifest: Manifest, setting: Setting, seed: int) -> Scenario:
    """The network and what happens on it: that of the scenario that the setting names, or good lines."""
    drawn = Scenario("an experiment", len(manifest.members), training=Fixed("fixed", 1.0))
    if setting.scenario:
        try:
            drawn = read(setting.scenario)
        except (OSError, UnicodeDecodeError) as error:
            raise ManifestError("simulation.scenario", f"cannot be read: {error}") from None
    timing = manifest.timing
    patience = 10 * (timing.gather_seconds + timing.round_seconds)
    seconds = min(MOST_SECONDS, patience + 2 * manifest.training.rounds * timing.round_seconds)
    return replace(
        drawn,
        nodes=len(manifest.members),
        rounds=manifest.training.rounds,
        seconds=seconds,
        guests=0,
        seed=seed,
        groups=manifest.groups,
        timing=timing,
    )
