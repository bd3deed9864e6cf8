"""What a step of DP-SGD costs beside a step of plain SGD on the same batch.

    python benchmarks/dpsgd.py [--json] [--quick]

Plain SGD is torch's modules, loss and optimiser, images as they come; `plain, channels last` gives it images
that lie as ours lays them, which torch pools several times as quickly. Ours is the clipped sum and the
update: a step of mode distributed, whose noise comes once a round (`ours`); with the noise that mode local
draws at every step, integers from the cryptographic stream on a grid (`ours, integer noise`); with
torch.normal_ in its place (`ours, normal_`). The targets are for the step of mode distributed.

torch.func is vmap(grad) with normal_; opacus is measured where it is installed, in each of its modes.

glibc's allocator is set as a node sets it (p2pfl.node.libraries.keep_pages), for everybody alike. Beside
Opacus ours is measured twice more, in processes of their own: with the allocator as it comes (`malloc: own`),
and told to keep all of its pages (`malloc: keeps all`, MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ at
their largest).

The noise of Opacus is torch's as well, so `ours, normal_` is what compares like with like, and what the
comparisons with it count from.

All candidates take turns in one process on one thread; a figure is the median of the process's CPU time. Peak
memory is how far a step raises that of a process of its own.

With --quick only batches of 64 and 256, in fewer turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from _rows import Rows, row, show
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    max_pool2d,
    scaled_dot_product_attention,
)

from p2pfl.crypto.randomness import system_random
from p2pfl.node.libraries import keep_pages
from p2pfl.node.privacy import StepNoise
from p2pfl.node.training.clipping import ClippedGradient

CLIP, MULTIPLIER, RATE = 1.0, 1.0, 0.05
NOISE = StepNoise(11, 2.0**11)
MALLOC: dict[str, dict[str, str]] = {
    "own": {},
    "keeps all": {"MALLOC_MMAP_THRESHOLD_": str(1 << 32), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)},
}
Step = Callable[[], object]


# -- models


class Convolutions(nn.Module):
    """The network of Opacus' MNIST example, 26 010 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 8, 2, padding=3)
        self.second = nn.Conv2d(16, 32, 4, 2)
        self.hidden = nn.Linear(32 * 4 * 4, 32)
        self.last = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Any:
        values = max_pool2d(torch.relu(self.first(images)), 2, 1)
        values = max_pool2d(torch.relu(self.second(values)), 2, 1)
        values = torch.relu(self.hidden(values.flatten(1)))
        return self.last(values)


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries, self.joined = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, values: Tensor) -> Any:
        split = self.queries(self.before(values)).unflatten(2, (3, self.heads, -1))
        query, key, value = split.permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(query, key, value, is_causal=True)
        values = values + self.joined(attended.transpose(1, 2).flatten(2))
        return values + self.narrow(torch.relu(self.wide(self.between(values))))


class Transformer(nn.Module):
    """Characters to the next character: two blocks of width 64 over 32 positions."""

    def __init__(self, characters: int = 96, width: int = 64, positions: int = 32) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(characters, width), nn.Embedding(positions, width)
        self.blocks = nn.Sequential(Block(width, 4), Block(width, 4))
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, characters)

    def forward(self, text: Tensor) -> Any:
        places = torch.arange(text.shape[1]).repeat(len(text), 1)
        values = self.blocks(self.characters(text) + self.positions(places))
        return self.last(self.norm(values[:, -1]))


MODELS = {
    "logistic regression": lambda: nn.Linear(13, 1),
    "MLP": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)),
    "CNN": Convolutions,
    "transformer": Transformer,
}
"""By name, with inputs to suit from :func:`batch`."""


def batch(model: str, records: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(records)
    match model:
        case "logistic regression":
            return torch.randn(records, 13, generator=generator), torch.rand(
                records, generator=generator
            ).round()
        case "transformer":
            text = torch.randint(96, (records, 33), generator=generator)
            return text[:, :-1].contiguous(), text[:, -1]
    images = torch.rand(records, 1, 28, 28, generator=generator)
    return images, torch.randint(10, (records,), generator=generator)


def losses(outputs: Tensor, targets: Tensor, reduction: str = "none") -> Tensor:
    if targets.is_floating_point():
        return binary_cross_entropy_with_logits(outputs.squeeze(1), targets, reduction=reduction)
    return cross_entropy(outputs, targets, reduction=reduction)


def slopes(outputs: Tensor, targets: Tensor) -> Tensor:
    """∂ losses / ∂ outputs."""
    if targets.is_floating_point():
        return torch.sigmoid(outputs).sub_(targets[:, None])
    return torch.softmax(outputs, 1).scatter_add_(
        1, targets[:, None], outputs.new_full((1, 1), -1.0).expand(len(targets), 1)
    )


# -- steps


def plain_channels_last(module: nn.Module, inputs: Tensor, targets: Tensor) -> Step:
    """For the CNN."""
    for weights in module.parameters():
        if weights.dim() == 4:
            weights.data = weights.data.to(memory_format=torch.channels_last)
    return plain(module, inputs, targets)


def plain(module: nn.Module, inputs: Tensor, targets: Tensor) -> Step:
    optimiser = torch.optim.SGD(module.parameters(), lr=RATE)

    def step() -> None:
        optimiser.zero_grad()
        torch.autograd.backward(losses(module(inputs), targets, "mean"))
        optimiser.step()

    return step


def ours(noise: str) -> Callable[[nn.Module, Tensor, Tensor], Step]:
    def prepare(module: nn.Module, inputs: Tensor, targets: Tensor) -> Step:
        gradient = ClippedGradient(module, losses, slopes)
        total, normal = torch.empty_like(gradient.vector), torch.empty_like(gradient.vector)
        rate, source = -RATE / len(inputs), NOISE.source(system_random)

        def step() -> None:
            gradient(inputs, targets, CLIP, out=total)
            if noise == "normal_":
                total.add_(normal.normal_(), alpha=MULTIPLIER * CLIP)
            elif noise == "grid":
                NOISE.apply(total.numpy(), source)
            gradient.vector.add_(total, alpha=rate)

        return step

    return prepare


def torch_func(module: nn.Module, inputs: Tensor, targets: Tensor) -> Step:
    parameters = {name: each.detach() for name, each in module.named_parameters()}

    def loss(parameters: dict[str, Tensor], record: Tensor, target: Tensor) -> Tensor:
        return losses(functional_call(module, parameters, (record[None],)), target[None])[0]

    gradients = vmap(grad(loss), in_dims=(None, 0, 0), randomness="different")

    def step() -> None:
        each = gradients(parameters, inputs, targets)
        norms = torch.stack([values.flatten(1).norm(dim=1) for values in each.values()]).norm(dim=0)
        factors = (CLIP / norms).clamp(max=1.0)
        for name, values in each.items():
            total = torch.tensordot(factors, values, 1).add_(torch.randn_like(parameters[name]))
            parameters[name].add_(total, alpha=-RATE / len(inputs))

    return step


def opacus(mode: str) -> Callable[[nn.Module, Tensor, Tensor], Step]:
    def prepare(module: nn.Module, inputs: Tensor, targets: Tensor) -> Step:
        wrappers, optimisers = import_module("opacus.grad_sample"), import_module("opacus.optimizers")
        terms: dict[str, Any] = {
            "noise_multiplier": MULTIPLIER,
            "max_grad_norm": CLIP,
            "expected_batch_size": len(inputs),
        }
        sgd = torch.optim.SGD(module.parameters(), lr=RATE)

        def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
            return losses(outputs, targets, "mean")

        match mode:
            case "ghost":
                wrapped = wrappers.GradSampleModuleFastGradientClipping(module, max_grad_norm=CLIP)
                optimiser = optimisers.DPOptimizerFastGradientClipping(sgd, **terms)
                ghost = import_module("opacus.utils.fast_gradient_clipping_utils")
                criterion = ghost.DPLossFastGradientClipping(wrapped, optimiser, Reducible())
            case "ew":
                wrapped = wrappers.GradSampleModuleExpandedWeights(module)
                optimiser = optimisers.DPOptimizer(sgd, **terms)
            case _:
                wrapped = wrappers.GradSampleModule(module, force_functorch=mode == "functorch")
                optimiser = optimisers.DPOptimizer(sgd, **terms)

        def step() -> None:
            optimiser.zero_grad()
            loss: Any = criterion(wrapped(inputs), targets)
            loss.backward()
            optimiser.step()

        return step

    return prepare


class Reducible:
    """:func:`losses` with the attribute that Opacus sets."""

    reduction = "mean"

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return losses(outputs, targets, self.reduction)


OURS = "ours, normal_"
OPACUS = ("hooks", "functorch", "ew", "ghost")
CANDIDATES: dict[str, Callable[[nn.Module, Tensor, Tensor], Step]] = {
    "plain": plain,
    "plain, channels last": plain_channels_last,
    "ours": ours(""),
    "ours, integer noise": ours("grid"),
    "ours, normal_": ours("normal_"),
    "torch.func": torch_func,
    **{f"opacus {mode}": opacus(mode) for mode in OPACUS},
}


def runnable(model: str) -> list[str]:
    """What can be run here on ``model``."""
    left_out = [] if model == "CNN" else ["plain, channels last"]
    try:
        import_module("opacus")
    except ImportError:
        left_out += [name for name in CANDIDATES if name.startswith("opacus")]
    return [name for name in CANDIDATES if name not in left_out]


def prepared(candidate: str, model: str, records: int) -> Step:
    torch.manual_seed(0)
    return CANDIDATES[candidate](MODELS[model](), *batch(model, records))


# -- measurements


def in_turns(model: str, records: int, candidates: list[str], seconds: float) -> dict[str, float]:
    """Median CPU milliseconds of a step of each candidate that can take this model."""
    steps = {}
    for candidate in candidates:
        step = prepared(candidate, model, records)
        try:
            for _ in range(3):
                step()
        except Exception as error:  # noqa: BLE001 - whatever a library raises for a model that it cannot take
            print(f"{candidate} cannot take the {model}: {error}"[:200], file=sys.stderr)
        else:
            steps[candidate] = step
    spent: dict[str, list[float]] = {candidate: [] for candidate in steps}
    until = time.process_time() + seconds
    while time.process_time() < until or len(spent[candidates[0]]) < 3:
        for candidate, step in steps.items():
            spent[candidate] += turn(step)
    return {candidate: statistics.median(times) * 1e3 for candidate, times in spent.items()}


def turn(step: Step) -> list[float]:
    """Seconds of CPU of steps in a row, the first left out: it finds the caches as another left them."""
    step()
    times: list[float] = []
    while len(times) < 3 or sum(times) < 0.01:
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return times


def peak(candidate: str, model: str, records: int) -> float:
    """MiB by which steps raise this process's peak memory."""
    keep_pages()
    prepared(candidate, model, 2)()
    step = prepared(candidate, model, records)
    before = resident()
    for _ in range(3):
        step()
    return resident() - before


def resident() -> float:
    """The most MiB that this process has held. (What getrusage says starts at what its parent held.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def child(what: str, model: str, records: int, candidates: list[str], **environment: str) -> Any:
    """What :func:`as_child` gives in a process of its own."""
    command = [sys.executable, "-W", "ignore", __file__, "--child", what, model, str(records), *candidates]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def as_child(what: str, model: str, records: str, *candidates: str) -> object:
    if what == "peak":
        return peak(candidates[0], model, int(records))
    return in_turns(model, int(records), list(candidates), float(what))


# -- the table

TIME_TARGETS = {
    ("logistic regression", 64): 1.0,
    ("logistic regression", 256): 1.0,
    ("logistic regression", 512): 1.0,
    ("MLP", 64): 1.7,
    ("MLP", 256): 1.25,
    ("MLP", 512): 1.25,
    ("CNN", 64): 1.2,
    ("CNN", 256): 1.2,
    ("CNN", 512): 1.2,
}
"""Times a plain step, at most, for a step of mode distributed."""
PEAK_TARGETS = {"MLP": 1.2, "CNN": 1.7}
"""Times the memory of a plain step, at most."""
AHEAD_TARGETS = {("MLP", "opacus hooks"): 30.0, ("MLP", "opacus ghost"): 1.5}
"""How many of our steps one of theirs takes, at least; else more than one."""


def times(model: str, records: int, seconds: float) -> Rows:
    """Every candidate beside plain SGD; and how far we are ahead of each mode of Opacus."""
    params: dict[str, object] = {"model": model, "batch": records}
    names = runnable(model)
    spent = in_turns(model, records, names, seconds)
    rows = []
    for name, value in spent.items():
        ratio = value / spent["plain"]
        target = TIME_TARGETS.get((model, records)) if name == "ours" else None
        met = None if target is None else ratio <= target
        rows.append(row(name, params, value, "ms CPU", "plain", ratio, target, met=met))
    theirs = [name for name in spent if name.startswith("opacus")]
    for name in theirs:
        target = AHEAD_TARGETS.get((model, name), 1.0)
        ratio = spent[name] / spent[OURS]
        rows.append(row(name, params, spent[name], "ms CPU", OURS, ratio, target, met=ratio >= target))
    for malloc, environment in MALLOC.items() if theirs else ():
        other = child(str(seconds), model, records, ["plain", OURS, *theirs], **environment)
        for name, value in other.items():
            rows.append(row(name, {**params, "malloc": malloc}, value, "ms CPU", OURS, value / other[OURS]))
    return rows


def peaks(model: str, records: int) -> Rows:
    """Peak memory of every candidate, each in a process of its own."""
    params: dict[str, object] = {"model": model, "batch": records}
    plain = child("peak", model, records, ["plain"])
    rows = [row("plain", params, plain, "MiB peak")]
    for name in runnable(model):
        if name in ("plain", "plain, channels last", "ours", "ours, normal_"):
            continue
        value = child("peak", model, records, [name])
        ratio, target = (
            value / max(plain, 1.0),
            PEAK_TARGETS.get(model) if name == "ours, integer noise" else None,
        )
        met = None if target is None else ratio <= target
        rows.append(row(name, params, value, "MiB peak", "plain", ratio, target, met=met))
    return rows


def measure(*, quick: bool) -> Rows:
    sizes, seconds = ((64, 256), 3.0) if quick else ((64, 256, 512), 12.0)
    rows = [each for model in MODELS for records in sizes for each in times(model, records, seconds)]
    return rows + [each for model in PEAK_TARGETS for each in peaks(model, 512)]


def main(*, as_json: bool, quick: bool) -> None:
    show(measure(quick=quick), as_json=as_json)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for usual in ("Full backward hook is firing", "There is a performance drop"):  # of Opacus, and of vmap
        warnings.filterwarnings("ignore", message=usual)
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(as_child(*sys.argv[2:])))
        sys.exit()
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    arguments.add_argument("--json", action="store_true", help="print JSON rows instead of a table")
    arguments.add_argument("--quick", action="store_true", help="leave out batches of 512, in fewer turns")
    options = arguments.parse_args()
    keep_pages()
    main(as_json=options.json, quick=options.quick)
