"""Make backbone.safetensors: a small network that has read what Gloucester says, which everybody may read.

    python pretrain.py OUT.safetensors

Any PyTorch training will do that ends in tensors of the names and shapes that docs/protocol.md gives the
layers; here the network is p2pfl's own, so that its state_dict is it. The file in this folder was made so.
"""

import argparse
import hashlib
import math
import tomllib
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from p2pfl.gossip.manifest import SequenceModel
from p2pfl.node.training.networks import network

HERE = Path(__file__).resolve().parent
PUBLIC = HERE.parent / "shakespeare"
STEPS, BATCH, RATE = 400, 64, 5e-3


def main() -> None:
    """Read, train, write."""
    torch.set_num_threads(1)  # the network is too small for more
    parser = argparse.ArgumentParser(description="Train the backbone on public text.")
    parser.add_argument("out", type=Path, help="the safetensors file to write")
    options = parser.parse_args()
    agreed = tomllib.loads((HERE / "federation.toml").read_text(encoding="utf-8"))
    alphabet, window = agreed["task"]["alphabet"], agreed["task"]["window"]
    text = "".join((PUBLIC / f"gloucester-{part}.txt").read_text() for part in ("train", "test"))
    inputs, targets = records(text.splitlines(), alphabet, window)
    module = network(SequenceModel("gru", agreed["model"]["width"], (window,), len(alphabet)), len(alphabet))
    train(module, inputs, targets)
    below = {name: each.half() for name, each in module.state_dict().items() if not name.startswith("head.")}
    data = save(below)
    options.out.write_bytes(data)
    print(hashlib.sha256(data).hexdigest())


def records(lines: list[str], alphabet: str, window: int) -> tuple[Tensor, Tensor]:
    """Characters of every line, and the ones that follow them; -1 where there is none."""
    kept = [line[: window + 1] for line in lines if len(line) > 1]
    inputs = torch.zeros(len(kept), window, dtype=torch.int64)
    targets = torch.full_like(inputs, -1)
    for row, line in enumerate(kept):
        places = torch.tensor([alphabet.index(character) for character in line])
        inputs[row, : len(line) - 1], targets[row, : len(line) - 1] = places[:-1], places[1:]
    return inputs, targets


def train(module: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    """Adam on batches drawn with a fixed seed, its rate falling to zero."""
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, each in module.named_parameters():
            scale = 0.5 if name.startswith("embedding") else 1 / math.sqrt(each.shape[-1])
            each.uniform_(-scale, scale, generator=drawn) if each.dim() > 1 else each.zero_()
    optimiser = torch.optim.Adam(module.parameters(), lr=RATE)
    falling = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / STEPS)
    for _ in range(STEPS):
        batch = torch.randint(len(inputs), (BATCH,), generator=drawn)
        scores = module(inputs[batch]).flatten(0, 1)
        loss = nn.functional.cross_entropy(scores, targets[batch].flatten(), ignore_index=-1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        falling.step()


if __name__ == "__main__":
    main()
