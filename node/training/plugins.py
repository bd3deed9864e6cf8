"""Tasks of the members' own code: an installed package registers a :class:`Task` under the entry-point group
``p2pfl.tasks``, and a manifest names it.

What is imported is what the operator has installed, and what the federation that the operator chose names,
by its manifest file or its id; never anything because a peer mentioned it. A package with another version
than the manifest's is not used.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from p2pfl.gossip.manifest import PluginTask
from p2pfl.node.errors import DataError, ManifestProblem, UserError
from p2pfl.node.privacy import MAX_RECORDS

log = logging.getLogger(__name__)

GROUP: Final = "p2pfl.tasks"


class Task:
    """What a plug-in is: derive from this, and register the class. It is made with the manifest's
    ``task.arguments`` as keywords.

    Targets come as :meth:`load` gives them, whole numbers as int64, others in the precision of the outputs.
    A record's outputs and loss must not depend on which other records are in the batch.
    """

    outputs: int = 1
    """How many numbers the module gives for a record."""
    unit: float = 1.0
    """Losses are divided by it in evaluations, where they are cut to [0, 1]: choose it so that a model that
    knows nothing loses about 0.7."""
    columns: Sequence[str] = ()
    """What the numbers of :meth:`predicted` are called in `p2pfl predict`; default: value_1, value_2, …"""

    def load(self, path: Path) -> tuple[Any, Any]:
        """The records in the file or folder ``path``: inputs and targets, arrays or tensors with as many
        entries. Raise ValueError, saying where, for what is not as it should be.
        """
        raise NotImplementedError

    def module(self) -> nn.Module:
        """A new network, from a batch of inputs to (n,) or (n, …) outputs.

        What torch draws at random in it is drawn anew from the federation's seed; constants stay.
        """
        raise NotImplementedError

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What training makes small: one loss a record, shape (n,)."""
        raise NotImplementedError

    def correct(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How right each record is, in [0, 1], shape (n,). Default: whether the largest output is the one of
        the target's number.
        """
        return outputs.argmax(-1) == targets

    def predicted(self, outputs: Tensor) -> Tensor:
        """What people are told about each record, (n,) or (n, columns). Default: the outputs."""
        return outputs


@functools.cache
def installed(task: PluginTask) -> Task:
    """The task that ``task`` names, made with its arguments.

    Raises ManifestProblem if there is no such package, it has another version, or it cannot be used so.
    """
    found = tuple(entry_points(group=GROUP, name=task.name))
    where = "into the environment that p2pfl runs in"
    if len(found) != 1:
        count = (
            f"{len(found)} packages register a plug-in" if found else "no installed package is the plug-in"
        )
        hint = f"install the one that the members agreed on, version {task.version}, {where}, and no other"
        raise ManifestProblem(f"task.name: {count} {task.name!r}", hint)
    version = "" if found[0].dist is None else found[0].dist.version
    if version != task.version:
        what = f"task.version: plug-in {task.name!r} is here in version {version}, not {task.version}"
        raise ManifestProblem(what, f"install version {task.version} {where}")
    return _made(task, found[0])


def _made(task: PluginTask, entry: EntryPoint) -> Task:
    with_ = ", ".join(task.by_name) or "no arguments"
    made = _asked(task, f"cannot be made with {with_}", lambda: entry.load()(**task.by_name))
    if not isinstance(made, Task):
        hint = "its author has to derive it from p2pfl.tasks.Task"
        raise ManifestProblem(
            f"task.name: plug-in {task.name!r} is no Task, but a {type(made).__name__}", hint
        )
    return made


def _asked(task: PluginTask, failure: str, ask: Callable[[], Any]) -> Any:
    """What the plug-in's code answers; what it raises becomes a sentence."""
    try:
        return ask()
    except UserError:
        raise
    except Exception as error:  # anything: it is not our code
        log.debug("in plug-in %s", task.name, exc_info=True)
        said = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "the plug-in and task.arguments must fit; --log-level debug shows where it happened"
        raise ManifestProblem(f"task.name: plug-in {task.name!r} {failure}: {said}", hint) from None


def records_of(task: PluginTask, path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Inputs and targets of the records at ``path``. Raises DataError for what the plug-in refuses, and for
    what are not as many numbers, or more than MAX_RECORDS; ManifestProblem as :func:`installed` does.
    """
    plugin = installed(task)
    try:
        inputs, targets = (np.asarray(each) for each in plugin.load(path))
    except (OSError, ValueError, TypeError, LookupError) as error:
        log.debug("in plug-in %s", task.name, exc_info=True)
        said = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "correct the file; --log-level debug shows where in the plug-in it happened"
        raise DataError(f"{path}: plug-in {task.name!r} refuses it: {said}", hint) from None
    counts = {each.shape[0] if each.ndim else 0 for each in (inputs, targets)}
    numbers = all(each.dtype.kind in "biuf" for each in (inputs, targets))
    if len(counts) != 1 or not numbers or not 1 <= max(counts) <= MAX_RECORDS:
        got = " and ".join(f"{each.dtype} of shape {each.shape}" for each in (inputs, targets))
        hint = f"inputs and targets are numbers, as many of one as of the other, 1 to {MAX_RECORDS}"
        raise DataError(f"{path}: plug-in {task.name!r} makes {got} of it", hint)
    return inputs, targets


def column_names(task: PluginTask, count: int) -> tuple[str, ...]:
    """What the plug-in calls the ``count`` numbers that it tells of each record."""
    given = tuple(installed(task).columns)
    return given if len(given) == count else tuple(f"value_{number + 1}" for number in range(count))


def network_of(task: PluginTask) -> tuple[nn.Module, frozenset[str]]:
    """A new network of the plug-in, float32, and the names of its parameters that torch drew at random.

    It is made twice, with two states of torch's generator: what differs was drawn. What is not trained must
    not: nothing would make it the same at every member. Raises ManifestProblem.
    """
    first, second = (_seeded(task, seed) for seed in (0, 1))
    trained = {name for name, parameter in first.named_parameters() if parameter.requires_grad}
    others = dict(second.state_dict(keep_vars=True))
    same: set[str] = set()
    for name, value in first.state_dict(keep_vars=True).items():
        if value is others[name]:
            hint = "its author has to make every layer anew in module()"
            raise ManifestProblem(f"task.name: plug-in {task.name!r} gives layer {name} away twice", hint)
        if torch.equal(value, others[name]):
            same.add(name)
        elif name not in trained:
            hint = "its author has to make it a constant, or train it"
            what = f"task.name: plug-in {task.name!r} draws {name} at random and does not train it"
            raise ManifestProblem(f"{what}: it would differ between members", hint)
    return first.float(), frozenset(trained - same)


def _seeded(task: PluginTask, seed: int) -> nn.Module:
    plugin = installed(task)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = _asked(task, "cannot make its module", plugin.module)
    if not isinstance(made, nn.Module):
        hint = "its author has to return a torch.nn.Module from module()"
        raise ManifestProblem(f"task.name: the module of plug-in {task.name!r} is none", hint)
    return made
