"""What the code makes of the examples of models: their noise, layout, outputs, and what is released."""

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
from given import Given
from numpy.typing import NDArray
from record_examples import MANIFEST

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import (
    ConvolutionalModel,
    DenseModel,
    Manifest,
    ModelSpec,
    SequenceModel,
    from_toml,
)
from p2pfl.gossip.thresholds import thresholds
from p2pfl.node import privacy
from p2pfl.node.privacy import stage_plan
from p2pfl.node.released import Released
from p2pfl.node.training.models import Model


def plan_example(given: Given) -> dict[str, str]:
    manifest: Manifest = from_toml(
        MANIFEST.format(members="[]", issuers=f'["{Identity.from_seed(bytes(32)).peer_id}"]').replace(
            'mode = "none"',
            'mode = "distributed"\nepsilon = 4\ndelta = 1e-4\n'
            + "".join(f"{name} = {given.text(name)}\n" for name in _MULTIPLIERS),
        )
    )
    found = {}
    for stage in ("statistics", "training", "evaluation"):
        plan = stage_plan(manifest, stage, privacy.dimension(manifest, stage))
        found[f"fraction bits of {stage}"] = str(plan.encoding.fraction_bits)
        found[f"sigma of {stage}, four members"] = f"{plan.sigma(thresholds(4, 1)):.6f}"
    return found


_MULTIPLIERS = ("noise_multiplier", "statistics_noise_multiplier", "evaluation_noise_multiplier")


def model_example(given: Given) -> dict[str, str]:
    model = Model(DenseModel("mlp", (2,)), 3)
    parameters = model.initial(given.blob("federation"))
    layout = " ".join(f"{slot.name}:{slot.start}" for slot in model.layout)
    return {"layout": layout, "initial parameters": parameters.astype("<f8").tobytes().hex()}


def network_example(
    spec: ModelSpec, features: int, inputs: NDArray[np.generic]
) -> Callable[[Given], dict[str, str]]:
    """Where parameters lie, what they start from, and what the model makes of ``inputs`` with given ones."""

    def computed(given: Given) -> dict[str, str]:
        model = Model(spec, features)
        initial = model.initial(given.blob("federation")).astype("<f8")
        outputs = model.outputs((np.arange(model.dimension) % 7 - 3) / 8, inputs[None])[0]
        return {
            "layout": ",".join(f"{slot.name}:{slot.start}" for slot in model.layout),
            "parameters": str(model.dimension),
            "SHA-256 of the initial parameters": hashlib.sha256(initial.tobytes()).hexdigest(),
            "outputs": " / ".join(
                " ".join(f"{value:.6f}" for value in place) for place in np.atleast_2d(outputs)
            ),
        }

    return computed


PICTURE = np.arange(9).reshape(1, 3, 3) / 8
CHARACTERS = np.array([2, 0, 1])


def released_example(given: Given) -> dict[str, str]:
    statistics, parameters = (
        np.array([float(word) for word in given.text(name).split()]) for name in ("statistics", "parameters")
    )
    rounds = (given.number("round"), given.number("training start"))
    votes = (given.number("rounds of a vote"), float(given.text("votes")))
    state = Released(*rounds, statistics, parameters, *votes)
    return {"state": state.to_bytes().hex(), "state digest": state.digest.hex()}


MODEL_EXAMPLES: Mapping[str, Callable[[Given], dict[str, str]]] = {
    "plan": plan_example,
    "model": model_example,
    "cnn": network_example(
        ConvolutionalModel("cnn", (2, 4), (1, 3, 3), 2, kernel=3, norm_groups=2), 9, PICTURE
    ),
    "gru": network_example(SequenceModel("gru", 2, (3,), 3, layers=2), 3, CHARACTERS),
    "transformer": network_example(SequenceModel("transformer", 4, (3,), 3, heads=2), 3, CHARACTERS),
    "released": released_example,
}
