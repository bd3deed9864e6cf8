"""What a frozen backbone is worth: the federation of federation.toml, with it and from scratch.

    python compare.py [--json]

Three members at the same epsilon, in one process: clipping, noise and rounding are what nodes do, only the
secrecy of the sums is left out. Of every character of the held-out lines, how many are foreseen.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from p2pfl.crypto.identity import Identity
from p2pfl.crypto.randomness import seeded_random
from p2pfl.crypto.ring import decode
from p2pfl.gossip.manifest import Manifest, SequenceModel, from_toml
from p2pfl.node.contribution import LazyContribution
from p2pfl.node.privacy import calibrated, stage_plan
from p2pfl.node.storage.declared_file import Tensors, read_backbone
from p2pfl.node.training.table import Table, load_table
from p2pfl.node.training.trainer import Trainer

HERE = Path(__file__).resolve().parent
SPEECHES = HERE.parent / "shakespeare"
MEMBERS = ("romeo", "juliet", "coriolanus")


def main() -> None:
    """Run both, print both."""
    parser = argparse.ArgumentParser(description="Compare a federation on a backbone with one from scratch.")
    parser.add_argument("--json", action="store_true", help="print JSON rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measured(start) for start in ("scratch", "head", "adapters")]
    if options.json:
        for row in rows:
            print(json.dumps(row))
        return
    print(f"{'trained':10}{'parameters':>12}{'foreseen':>10}{'mean loss':>11}")
    for row in rows:
        print(f"{row['trained']:10}{row['parameters']:12}{row['foreseen']:10.4f}{row['mean_loss']:11.4f}")


def measured(start: str) -> dict[str, object]:
    """What is learnt in the agreed rounds when ``start`` is what is trained."""
    manifest, backbone = agreement(start)
    train, test = ([load(member, part, manifest) for member in MEMBERS] for part in ("train", "test"))
    members = [
        Trainer(manifest, table, None, seeded_random(name.encode()), backbone)
        for name, table in zip(MEMBERS, train, strict=True)
    ]
    features, labels = ([getattr(t, name) for t in test] for name in ("features", "labels"))
    held_out = Table(np.concatenate(features), np.concatenate(labels))
    statistics, parameters = members[0].statistics(), members[0].initial_parameters()
    plan, group = stage_plan(manifest, "training", len(parameters)), manifest.groups.thresholds
    noise = seeded_random(b"noise")
    for _ in range(manifest.training.rounds):
        sent = [each.contribution(parameters, statistics) for each in members]
        encoded = [LazyContribution(values, plan, group, noise)[:] for values in sent]
        total = np.add.reduce(encoded, dtype=encoded[0].dtype)
        parameters = members[0].mean(decode(total, plan.encoding), len(members))
    figures = members[0].evaluate(parameters, statistics, held_out).figures
    found = {"foreseen": figures["accuracy"], "mean_loss": figures["mean_loss"]}
    return {"trained": start, "parameters": len(parameters), "epsilon": manifest.privacy.epsilon} | found


def agreement(start: str) -> tuple[Manifest, Tensors | None]:
    """The federation when ``start`` is what is trained, and the frozen layers, if any."""
    issuer = Identity.from_seed(bytes(32)).peer_id
    text = (HERE / "federation.toml").read_text(encoding="utf-8").replace("ISSUER", issuer)
    agreed = from_toml(text)
    model = agreed.model
    assert isinstance(model, SequenceModel)
    if start == "scratch":
        return calibrated(replace(agreed, model=replace(model, backbone="", train="all"))), None
    if start == "adapters":
        model = replace(model, train="adapters", rank=2)
    backbone = read_backbone(HERE / "backbone.safetensors", model, agreed.task.features)
    return calibrated(replace(agreed, model=model)), backbone


def load(member: str, part: str, manifest: Manifest) -> Table:
    """The records of one member."""
    return load_table(SPEECHES / f"{member}-{part}.txt", manifest.task)


if __name__ == "__main__":
    main()
