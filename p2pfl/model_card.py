"""What goes with a model that leaves the federation: where it comes from, what it may be told of, what it
promises about those it was learnt from, and how to use it without p2pfl.

The same facts twice: for programs in the metadata of the file (``card``), whatever its format, and for people
in Markdown.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from p2pfl.gossip.manifest import (
    Column,
    DenseModel,
    ImageTask,
    Manifest,
    ModelSpec,
    OutsideModel,
    OutsideTask,
    PluginTask,
    TabularTask,
    TextTask,
)
from p2pfl.gossip.records import plain
from p2pfl.node.accountant import epsilon
from p2pfl.node.evaluations import measured
from p2pfl.node.outlook import holding, is_voted
from p2pfl.node.programme import Programme
from p2pfl.node.released import Released
from p2pfl.node.storage.store import Store
from p2pfl.node.training.metrics import Evaluation
from p2pfl.opened import State

Card = Mapping[str, Any]


def card_of(state: State, released: Released, own: Evaluation | None, limit: float | None) -> Card:
    """The facts of ``released``, all fit for JSON. Takes a second or two for epsilon.

    ``own``: on test records of this organisation, if its metrics are to be told. ``limit``: where scaled
    inputs are cut, None if there are none.
    """
    manifest, store = state.manifest, state.store
    return {
        "format": 1,
        "software": f"p2pfl-node {version('p2pfl-node')}",
        "federation": {"name": manifest.name, "id": manifest.federation_id},
        "rounds": _rounds(manifest, released),
        "members": _members(store),
        "task": asdict(manifest.task),
        "model": asdict(manifest.model),
        "inputs": _inputs(manifest),
        "limit": limit,
        "privacy": _privacy(manifest, store),
        "metrics": {"federation": _measured(manifest, store), "own": None if own is None else own.as_dict()},
    }


def _rounds(manifest: Manifest, released: Released) -> Card:
    done = Programme.of(manifest, released.place).training_before(released.round + 1)
    return {"model_of": released.round, "training_done": done, "training_planned": manifest.training.rounds}


def _members(store: Store) -> Card:
    sums = [outcome.survivors for outcome in store.rounds() if outcome.completed and outcome.survivors]
    return {"met_in_sums": len({peer for peers in sums for peer in peers}), "sums": len(sums)}


def _privacy(manifest: Manifest, store: Store) -> Card:
    privacy = manifest.privacy
    if privacy.mode == "none":
        return {"mode": "none"}
    spent = epsilon(holding(manifest, store), privacy.delta).pld
    return {
        "mode": privacy.mode,
        "delta": privacy.delta,
        "epsilon_promised": privacy.epsilon,
        "epsilon_of_the_exporting_member": spent if math.isfinite(spent) else None,
        "ended_by_vote": is_voted(manifest, store),
        "colluders": manifest.groups.colluders,
        "layers_not_covered": uncovered_layers(manifest),
    }


def uncovered_layers(manifest: Manifest) -> list[str]:
    """The private layers, by name, that this member's records are in and no noise covers: in mode local
    every step is noised, theirs too.
    """
    if manifest.privacy.mode == "local":
        return []
    return [layer.name for layer in manifest.model.private_layers(manifest.task.features)]


def _measured(manifest: Manifest, store: Store) -> Card | None:
    known = [one for one in measured(manifest, store.rounds()) if one.evaluation is not None]
    return {"members": known[-1].members} | known[-1].figures_of(manifest) if known else None


def _inputs(manifest: Manifest) -> list[Card] | None:
    """Of a table, what each input of the model is of which column: a number cut to [low, high], or whether
    the cell is one of some, or (``absent``) none of them.
    """
    task = manifest.task
    if not isinstance(task, TabularTask):
        return None
    return [one for column in task.columns for one in _inputs_of(column, task.missing)]


def _inputs_of(column: Column, missing: Sequence[str]) -> Iterator[Card]:
    if column.kind == "numeric":
        yield {"column": column.name, "low": column.low, "high": column.high}
    for level in column.levels[1:]:
        yield {"column": column.name, "cells": [level], "absent": False}
    if column.missing != "drop" and column.unknown == "missing":
        yield {"column": column.name, "cells": list(column.levels), "absent": True}
    elif column.missing != "drop":
        yield {"column": column.name, "cells": list(missing), "absent": False}


def markdown(card: Card, manifest: Manifest, file: str) -> str:
    """``card``, of the model in the file of that name, for people."""
    return "\n\n".join(
        [
            f"# {_plain(manifest.name)}",
            f"Trained by several organisations together, none of which showed its data to another, with"
            f" {card['software']}. The file is `{file}`.",
            _table(_facts(card, manifest)),
            "## Data, as declared",
            _data(manifest),
            "## What it promises about those it was learnt from",
            _promise(card),
            "## How good it is",
            *_goodness(card),
            "## Use it without p2pfl",
            *_use(card, manifest, file),
        ]
    ) + "\n"  # fmt: skip


def _facts(card: Card, manifest: Manifest) -> dict[str, str]:
    rounds, members = card["rounds"], card["members"]
    return {
        "federation": f"`{manifest.federation_id}`",
        "model": _plain(_outlined(manifest.model)),
        "rounds of training": f"{rounds['training_done']} of {rounds['training_planned']} planned;"
        f" as released in round {rounds['model_of']}",
        "members": f"{members['met_in_sums']}, as far as the exporting one has met them, in"
        f" {members['sums']} sums",
    }


def _outlined(model: ModelSpec) -> str:
    if isinstance(model, OutsideModel):
        arrays = (f"{one.name} ({' × '.join(map(str, one.shape)) or 'a number'})" for one in model.tensors)
        return f"of the members' own code, with the arrays {', '.join(arrays)}"
    parts = (f"{name} {value}" for name, value in plain(model).items() if name != "kind" and value)
    return ", ".join([model.kind, *parts])


def _data(manifest: Manifest) -> str:
    match manifest.task:
        case TabularTask() as task:
            return f"{_target(task)}\n\n{_table({_plain(c.name): _column(c) for c in task.columns})}"
        case ImageTask() as task:
            shape = f"{task.height} × {task.width} pixels of {task.channels} numbers"
            classes = _plain(_listed(task.classes))
            return f"Pictures of {shape} in [{task.low:g}, {task.high:g}], one of: {classes}."
        case TextTask() as task:
            return (
                f"Text: after each of up to {task.window} characters, the next. A record is a {task.record}."
                f" The {len(task.alphabet)} characters: {_plain(json.dumps(task.alphabet))}."
            )
        case task:
            return f"A task of kind {task.kind}, defined by software of the members' own."


def _target(task: TabularTask) -> str:
    label = f"A table. To predict: {_plain(task.label)}"
    if task.is_regression:
        return f"{label}, a number in [{task.low:g}, {task.high:g}]. From:"
    if task.classes:
        return f"{label}, one of {_plain(_listed(task.classes))}. From:"
    against = f" and not of {_plain(_listed(task.negative))}" if task.negative else ""
    return f"{label}, whether it is one of {_plain(_listed(task.positive))}{against}. From:"


def _column(column: Column) -> str:
    what = _listed(column.levels) if column.levels else f"a number in [{column.low:g}, {column.high:g}]"
    return _plain(what) + ("" if column.missing == "drop" else "; may be missing")


def _promise(card: Card) -> str:
    privacy = card["privacy"]
    if privacy["mode"] == "none":
        return (
            "**Nothing.** The mode is `none`: no noise was added, and there is no epsilon. Somebody with the"
            " model may find out whether a certain record was learnt from, or more of what was in it. Pass it"
            " on only where the records themselves could be passed on."
        )
    uncovered = privacy["layers_not_covered"]
    this = "the shared tensors of this model" if uncovered else "this model"
    unit = "all records of a member" if privacy["mode"] == "organisation" else "every single record"
    spent = privacy["epsilon_of_the_exporting_member"]
    known = "not finite" if spent is None else f"{spent:.3f}"
    return (
        f"Mode `{privacy['mode']}`, differential privacy for {unit} of the exporting member: epsilon {known}"
        f" at delta {privacy['delta']:g}, of at most {privacy['epsilon_promised']:g} that were promised."
        f" Whatever somebody concludes from everything this member released, {this} included, the odds"
        " grow by a factor of at most e to the epsilon if the record was there, but for a chance of delta."
        " The figure is from the exporting member's own ledger: it says nothing about records of other"
        f" members, who count for themselves against the same promise{_condition(privacy)}.{_vote(privacy)}"
        f"{_uncovered(uncovered)}"
    )


def _uncovered(layers: Sequence[str]) -> str:
    if not layers:
        return ""
    return (
        f"\n\n**Epsilon does not cover the private layers in the file ({_plain(_listed(layers))}).** They"
        " were fitted to the exporting member's own records without noise, and somebody who has them may find"
        " out what was in those. Keep the file to yourselves."
    )


def _vote(privacy: Card) -> str:
    if not privacy["ended_by_vote"]:
        return ""
    return (
        " A vote ended the federation before its planned end. When to stop was read off what had been"
        " released, so the figure is that of the planned end, as if it had gone on."
    )


def _condition(privacy: Card) -> str:
    if privacy["mode"] == "local":
        return ""
    return f", and holds as long as no more than {privacy['colluders']} of a group pool what they know"


def _goodness(card: Card) -> Iterator[str]:
    metrics = card["metrics"]
    if metrics["federation"] is None:
        yield "The federation has not measured it."
    else:
        yield "Over the members' test records, from a sum to which the mode's noise was added:"
        yield _table(_figures(metrics["federation"]))
        if not metrics["federation"].keys() - {"members", "total"}:
            yield "The figures themselves are lost in the noise."
    if metrics["own"] is not None:
        yield "On the exporting member's own test records, **exact: no epsilon covers these figures**:"
        yield _table(_figures(metrics["own"]))


def _figures(found: Card) -> dict[str, str]:
    return {"records" if name == "total" else name: f"{value:.4g}" for name, value in found.items()}


def _use(card: Card, manifest: Manifest, file: str) -> Iterator[str]:
    if not file.endswith(".safetensors"):
        yield (
            "It has everything from the record to the answer in it, and takes any number of records. So"
            " are the facts above, as JSON, under `card`, and if layers of one organisation's own are in it,"
            " a warning, under `contains`."
        )
        yield _RECORDS
        yield _code(_RUN_TORCH if file.endswith(".pt2") else _RUN_ONNX, file)
        return
    task, model = manifest.task, manifest.model
    own = isinstance(task, PluginTask | OutsideTask)
    names = "that the members' own code gives them" if own else "of the layers"
    scales = "; `preprocessing.mean` and `preprocessing.scale` are what inputs are scaled by"
    yield (
        f"The tensors have the names {names}{'' if card['limit'] is None else scales}. The facts above are in"
        " the file's metadata as JSON, under `card`."
    )
    whole = isinstance(model, DenseModel) and not model.rank
    if isinstance(task, TabularTask) and whole:
        yield "For a CSV file whose rows have every cell that a row must have:"
        yield _code(_RUN_TABLE + _ANSWERS[_answer(task, model.kind)], file)
    elif isinstance(task, ImageTask) and whole:
        yield "For an array of pictures, (count, channels, height, width), with numbers as declared above:"
        yield _code(_RUN_PICTURES + _ANSWERS[_answer(task, model.kind)], file)
    elif own:
        yield "What becomes of a record is not in the file: load the tensors into the code that trained them."
    else:
        yield "Its layers are not a plain chain: export it as `.pt2` or `.onnx` to have the program with it."


def _answer(task: TabularTask | ImageTask, kind: str) -> str:
    if isinstance(task, TabularTask) and task.is_regression:
        return "number"
    if kind == "svm":
        return "margins" if task.outputs > 1 else "margin"
    return "classes" if task.outputs > 1 else "positive"


_OPEN = """\
import {more}json
import numpy as np
from safetensors import safe_open

with safe_open(FILE, "numpy") as file:
    card = json.loads(file.metadata()["card"])
    tensors = {{name: file.get_tensor(name) for name in file.keys()}}
"""
_LAYERS = """\
x = np.nan_to_num((x - tensors["preprocessing.mean"]) / tensors["preprocessing.scale"])
x = np.clip(x, -card["limit"], card["limit"])
for layer in range(len(card["model"]["hidden"]) + 1):
    x = (np.tanh(x) if layer else x) @ tensors[f"{layer}.weight"].T + tensors[f"{layer}.bias"]
"""
_RUN_TABLE = (
    _OPEN.format(more="csv, ")
    + """\
def number(cell, one):
    if "cells" in one:
        return float((cell in one["cells"]) != one["absent"])
    return np.nan if cell in card["task"]["missing"] else np.clip(float(cell), one["low"], one["high"])
rows = list(csv.DictReader(open("records.csv", encoding="utf-8-sig", newline="")))
x = np.array([[number(row[one["column"]].strip(), one) for one in card["inputs"]] for row in rows])
"""
    + _LAYERS
)
_RUN_PICTURES = (
    _OPEN.format(more="")
    + """\
x = np.load("pictures.npy").astype(float).reshape(-1, tensors["0.weight"].shape[1])
"""
    + _LAYERS
)
_ANSWERS = {
    "positive": "answers = 1 / (1 + np.exp(-x[:, 0]))  # the probability of yes\n",
    "margin": "answers = x[:, 0]  # above 0: yes\n",
    "margins": "answers = x  # the largest is the class\n",
    "classes": "answers = np.exp(x) / np.exp(x).sum(1, keepdims=True)  # the probability of each class\n",
    "number": """\
low, high = card["task"]["low"], card["task"]["high"]
answers = (low + high) / 2 + np.clip(x[:, 0], -1, 1) * (high - low) / 2
""",
}
_RECORDS = (
    "Of a table: float64 (count, inputs), the inputs as `inputs` in the card of a `.safetensors` export lists"
    " them: a column's number in its own unit, nan where it is missing, and 1 or 0 for each level but the"
    " first and for a missing cell that counts. Pictures: float64 (count, channels, height, width). Text:"
    " int64 (count, window), places in the alphabet."
)
_RUN_TORCH = """\
import torch

told = {"card": "", "contains": ""}
program = torch.export.load(FILE, extra_files=told)
answers = program.module()(records)
"""
_RUN_ONNX = """\
import onnxruntime

session = onnxruntime.InferenceSession(FILE)
card = session.get_modelmeta().custom_metadata_map["card"]
[answers] = session.run(["answers"], {"records": records})
"""


def _code(script: str, file: str) -> str:
    return f"```python\n{script.replace('FILE', json.dumps(file))}```"


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _listed(names: Sequence[str]) -> str:
    """``names`` in quotes, for any of them may have a comma in it."""
    return ", ".join(json.dumps(name, ensure_ascii=False) for name in names)


def _plain(text: str) -> str:
    """``text`` of a manifest, in which nothing is Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~-])", r"\\\1", text)
