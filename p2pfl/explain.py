"""A manifest in words: what its members can rely on, and what they cannot."""

from collections.abc import Iterator
from typing import TextIO

from p2pfl.gossip.manifest import (
    Column,
    ConvolutionalModel,
    DenseModel,
    EvaluationSpec,
    GroupSpec,
    ImageTask,
    Manifest,
    ModelSpec,
    OutsideModel,
    OutsideTask,
    PluginModel,
    PluginTask,
    SequenceModel,
    TabularTask,
    TaskSpec,
    TextTask,
    TrainingSpec,
)
from p2pfl.terminal import alarm


def explain(manifest: Manifest, stream: TextIO) -> Iterator[str]:
    """Lines that say what ``manifest`` agrees on; mode "none" is red if ``stream`` is a terminal."""
    training = manifest.training
    yield f"name: {manifest.name}"
    yield f"who: {_who(manifest)}"
    yield f"task: {_task(manifest.task)}"
    if isinstance(manifest.task, TabularTask):
        yield f"columns: {'; '.join(map(_column, manifest.task.columns))}"
    yield f"model: {_model(manifest.model, manifest.task)}"
    yield (
        f"training: {training.rounds} rounds of {_steps(training, manifest.task)}; parameters up to"
        f" {training.parameter_limit:g} summed in {training.ring_bits} bits"
    )
    yield f"evaluation: {_evaluation(manifest.evaluation)}"
    yield f"groups: {_groups(manifest.groups)}"
    yield f"robustness: {robustness(manifest.groups)}"
    yield f"privacy: {privacy(manifest, stream)}"
    timing = manifest.timing
    yield (
        f"timing: a round ends after {timing.round_seconds:g} s at the latest;"
        f" newcomers enter every {timing.epoch_rounds} rounds"
    )


def _steps(training: TrainingSpec, task: TaskSpec) -> str:
    if isinstance(task, OutsideTask):
        return "whatever the members' own training loops do"
    steps = "one step" if training.local_steps == 1 else f"{training.local_steps} steps"
    return (
        f"{steps} each, every record in a step with probability {training.sampling_rate:g},"
        f" learning rate {training.learning_rate:g}"
    )


def _task(task: TaskSpec) -> str:
    match task:
        case PluginTask():
            code = f"that of plug-in {task.name}, version {task.version}, which every member installs"
            return f"{code}, with {_arguments(task)}"
        case OutsideTask():
            return f"known to the members' own training loops only, which are told {_arguments(task)}"
        case ImageTask():
            size = f"{task.height} × {task.width} pixels of {_counted(task.channels, 'channel')}"
            return f"which of {len(task.classes)} classes a picture shows, {size}"
        case TextTask():
            asked = f"the next of {len(task.alphabet)} characters, from up to {task.window} before it"
            return f"{asked}; a record is a {task.record}"
        case TabularTask(is_regression=True):
            asked = f"{task.label}, a number from {task.low:g} to {task.high:g}"
        case TabularTask(classes=()):
            against = f" and not {', '.join(task.negative)}" if task.negative else ""
            asked = f"whether {task.label} is {', '.join(task.positive)}{against}"
        case TabularTask():
            asked = f"which of {len(task.classes)} classes {task.label} is"
    return f"{asked}, from {_counted(len(task.columns), 'column')} ({_counted(task.features, 'feature')})"


def _column(column: Column) -> str:
    if column.kind == "numeric":
        return f"{column.name}, a number, cut to {column.low:g} to {column.high:g}"
    return f"{column.name}, one of {', '.join(column.levels)}"


def _arguments(task: PluginTask | OutsideTask) -> str:
    said = ", ".join(f"{name} = {value!r}" for name, value in task.by_name.items())
    return said or "no arguments"


def _model(model: ModelSpec, task: TaskSpec) -> str:
    match model:
        case PluginModel():
            outputs = _counted(model.outputs, "output")
            return f"the plug-in's, {outputs}, {_counted(model.size, 'parameter')}"
        case OutsideModel():
            arrays = _counted(len(model.tensors), "array")
            return f"{arrays}, {_counted(model.parameters(0), 'parameter')}"
        case DenseModel():
            layers = [task.features, *model.hidden, model.outputs]
        case ConvolutionalModel():
            layers = [task.features, *model.channels, *model.hidden, model.outputs]
        case SequenceModel():
            layers = [task.features, *([model.width] * model.layers), model.outputs]
    parameters = _counted(model.parameters(task.features), "parameter") + _parts(model, task)
    return f"{model.kind}, {' → '.join(map(str, layers))}, {parameters}"


def _parts(model: ModelSpec, task: TaskSpec) -> str:
    """What is frozen, and what every member keeps to itself."""
    said = ""
    if model.backbone:
        frozen = model.allocated(task.features) - model.trained(task.features)
        said = f" beside {frozen} frozen ones from the file with SHA-256 {model.backbone}"
    if model.initial:
        said += f", which start from the file with SHA-256 {model.initial}"
    alone = model.trained(task.features) - model.parameters(task.features)
    return said + (f"; {alone} more private to each member" if alone else "")


def _who(manifest: Manifest) -> str:
    members, issuers = len(manifest.members), _counted(len(manifest.issuers), "issuer")
    if not manifest.issuers:
        return f"{_counted(members, 'member')} listed, and nobody can be added"
    quorum = manifest.issuer_quorum
    if not members:
        each = "a ticket of one" if quorum == 1 else f"tickets of {quorum}"
        return f"whoever holds {each} of {issuers}"
    together = f", {quorum} of them together," if quorum > 1 else ""
    return f"{_counted(members, 'member')} listed; {issuers}{together} may admit more by ticket"


def _evaluation(spec: EvaluationSpec) -> str:
    when = f"after every {_counted(spec.every, 'training round')}" if spec.every else "after the last round"
    least = f", of {spec.least_records} records at least" if spec.least_records else ""
    ends = [
        *([f"reached {spec.target:g}"] if spec.target else []),
        *([f"not improved in {_counted(spec.patience, 'evaluation')}"] if spec.patience else []),
    ]
    end = f"; a majority may vote to end when {spec.metric} has {' or '.join(ends)}" if ends else ""
    return f"{when}{least}{end}"


def _groups(groups: GroupSpec) -> str:
    return (
        f"{groups.size} to {2 * groups.size - 1} members average together, {groups.minimum} at least,"
        f" {groups.schedule} within the topology {groups.topology}"
    )


def robustness(groups: GroupSpec) -> str:
    """What a group of the agreed size survives and withstands."""
    drops = groups.thresholds.tolerated_drops
    survives = f"survives {_counted(drops, 'member') if drops else 'no member'} failing"
    return f"a group of {groups.size} {survives}; stays private against {groups.colluders} colluding"


def privacy(manifest: Manifest, stream: TextIO) -> str:
    """What one record, or one organisation, is promised."""
    spec = manifest.privacy
    if spec.mode == "none":
        return alarm("none: no epsilon holds; sums are secret, but the model may reveal records", stream)
    holds = f"if at most {manifest.groups.colluders} of a group collude"
    whose, clipped = "every single record", "gradients"
    if spec.mode == "local":
        holds = "even if all others collude"
    if spec.mode == "organisation":
        whose, clipped = "all records of a member together", "a round's changes"
    statistics = f", {spec.statistics_noise_multiplier:.4g} in statistics" if manifest.numeric_columns else ""
    return (
        f"{spec.mode}: epsilon {spec.epsilon:g} at delta {spec.delta:g} for {whose}, {holds};"
        f" {clipped} clipped to {spec.clip_norm:g}, noise multipliers {spec.noise_multiplier:.4g} in"
        f" training{statistics}, {spec.evaluation_noise_multiplier:.4g} in evaluation"
    )


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
