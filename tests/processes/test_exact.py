"""Real daemons over real libp2p end with the model that `p2pfl simulate --from … --engine exact` computes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from real_federation import Federation

from p2pfl.node.released import Released
from p2pfl.node.storage.identity_file import load_identity
from p2pfl.node.storage.store import Store
from p2pfl.simulation import exact
from p2pfl.simulation.experiment import read
from p2pfl.simulation.running import meeting
from p2pfl.simulation.sources import deal, load

WITHOUT_CHANCE = {
    '[[task.columns]]\nname = "dose"\nkind = "numeric"\nlow = -3.0\nhigh = 3.0\n\n': "",
    'kind = "logistic"': 'kind = "svm"',
    "sampling_rate = 0.5": "sampling_rate = 1.0",
    "expected_batch = 50.0": "expected_batch = 64.0",
    'mode = "distributed"\nepsilon = 8.0\ndelta = 1e-4': 'mode = "none"',
}
"""Every step is a multiple of 0.5 / 64 / 4, and a value on the ring's grid is not rounded: no draw counts."""


def simulated(federation: Federation, data: Path) -> Released:
    for member in federation.members:
        (data / member.directory.name).mkdir(parents=True)
        for name in ("train.csv", "test.csv"):
            shutil.copy(member.directory / name, data / member.directory.name / name)
    said = {
        "simulation.federation": str(federation.manifest),
        "simulation.data": str(data),
        "simulation.partition": "natural",
        "simulation.engine": "exact",
    }
    [experiment] = read("", Path(), said, as_it_is=True).experiments
    manifest, setting = experiment.manifest, experiment.setting
    dealt = deal(load(setting, manifest.task, Path()), setting, manifest.task, 0)
    learning, _ = exact.learnt(manifest, setting, dealt, meeting(manifest, setting, dealt, 0), 0)
    found = learning.learners[0].released
    assert found is not None
    return found


@pytest.mark.slow
def test_without_chance_daemons_and_simulation_agree_to_the_last_bit(tmp_path: Path) -> None:
    four = Federation(tmp_path, 4, rounds=6, change=WITHOUT_CHANCE)
    try:
        for member in four.members:
            four.start(member, "--until-done")
        for member in four.members:
            assert member.wait(240) == 0, member.log
    finally:
        four.stop()
    expected = simulated(four, tmp_path / "data")
    assert np.abs(expected.parameters).max() > 0.01
    for member in four.members:
        identity = load_identity(member.directory / "identity.key")
        with Store.open(member.directory / "state", identity, readonly=True) as store:
            released = store.released()
        assert released is not None
        assert released.parameters.tobytes() == expected.parameters.tobytes()
        assert released.digest == expected.digest
