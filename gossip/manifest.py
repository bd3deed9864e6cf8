"""The manifest: what the members of a federation have agreed on, down to the last bit.

People write it in TOML (:func:`from_toml`); machines exchange its canonical bytes, whose digest is the
federation id and goes into every protocol id and every derived key. It is public among members, holds no
secret, and never changes: another number anywhere is another federation. It is data only: models and tasks
are named, never shipped as code.

Every record checks itself when it is made, so a Manifest that exists is within bounds and free of
contradiction. Two things may be open: noise multipliers of 0 in a private mode say "not computed yet", and
the size 0 of a plug-in's model "not known yet". Such a draft has no canonical form and so no id.

Layout in TOML: ``name``, ``issuers``, ``members``, ``seed``, then ``[task]`` (:mod:`.task_spec`), ``[model]``
(:mod:`.model_spec`), ``[training]`` (:mod:`.training_spec`), ``[privacy]``, ``[groups]``, ``[timing]``,
``[evaluation]`` (:mod:`.evaluation_spec`); the last three may be left out.
Tasks and models whose code the organisations bring themselves are in :mod:`.own_spec`.
"""

import hashlib
import math
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from p2pfl.crypto import labels
from p2pfl.crypto.identity import PeerId, parse_peer_id
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.declared import (
    ManifestError,
    require,
    require_distinct,
    require_range,
    require_text,
)
from p2pfl.gossip.evaluation_spec import EvaluationSpec
from p2pfl.gossip.messages import MAX_MEMBERS as LARGEST_GROUP
from p2pfl.gossip.model_spec import (
    MAX_PARAMETERS,
    ConvolutionalModel,
    DenseModel,
    ModelSpec,
    SequenceModel,
    require_fit,
    require_fitting_kind,
    sizes_for,
)
from p2pfl.gossip.own_spec import (
    STEPS_OUTSIDE,
    OutsideModel,
    OutsideTask,
    PluginModel,
    PluginTask,
    Tensor,
    complete,
)
from p2pfl.gossip.records import FieldError, added, plain, read_record, read_variant, shown, suggest
from p2pfl.gossip.task_spec import MAX_COLUMNS, Column, ImageTask, TabularTask, TaskSpec, TextTask
from p2pfl.gossip.thresholds import Thresholds, thresholds
from p2pfl.gossip.training_spec import TrainingSpec, require_grid
from p2pfl.topologies.graphs import FAMILIES

__all__ = [
    "FORMAT",
    "LEAST_CLIP_NORM",
    "MAX_BYTES",
    "MAX_COLUMNS",
    "MAX_MEMBERS",
    "MAX_PARAMETERS",
    "MAX_QUORUM",
    "Column",
    "ConvolutionalModel",
    "DenseModel",
    "EvaluationSpec",
    "GroupSpec",
    "ImageTask",
    "Manifest",
    "ManifestError",
    "ModelSpec",
    "OutsideModel",
    "OutsideTask",
    "PluginModel",
    "PluginTask",
    "PrivacySpec",
    "SequenceModel",
    "TabularTask",
    "TaskSpec",
    "Tensor",
    "TextTask",
    "TimingSpec",
    "TrainingSpec",
    "canonical_bytes",
    "decode_manifest_untrusted",
    "digest_of",
    "from_table",
    "from_toml",
]

FORMAT = 1
MAX_NOISE_MULTIPLIER: Final = 1e6
MAX_BYTES = 1 << 20  # four thousand columns fit; a peer cannot make us read more
MAX_MEMBERS = 256
MAX_QUORUM = 4  # tickets travel in every presence
LEAST_CLIP_NORM = 1e-14  # its square, and that of a little less, is far from the smallest float32
_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class PrivacySpec:
    """What one record is promised, and the noise that keeps the promise.

    ``epsilon``, ``delta``: for one record, added or removed, over the whole run; in mode organisation for all
    records of a member together. ``clip_norm`` C: bound on one record's gradient, or on all that a member
    changes in a round (L2). A noise multiplier is standard deviation / sensitivity, per kind of round; 0
    in a private mode: not computed yet, but for the statistics of a task without numeric columns, which are
    about no record.
    """

    mode: Literal["distributed", "local", "organisation", "none"]
    epsilon: float = 0.0
    delta: float = 0.0
    clip_norm: float = 1.0
    noise_multiplier: float = 0.0
    statistics_noise_multiplier: float = 0.0
    evaluation_noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        require_range(self.clip_norm, "privacy.clip_norm", LEAST_CLIP_NORM, 1e6)
        if self.mode == "none":
            for name in ("epsilon", "delta", *_MULTIPLIERS):
                require(
                    getattr(self, name) == 0,
                    f"privacy.{name}",
                    'must be left out: mode "none" promises no privacy',
                )
            return
        require_range(self.epsilon, "privacy.epsilon", 0, 1000, above=True)
        inside = math.isfinite(self.delta) and 0 < self.delta < 1
        require(
            inside,
            "privacy.delta",
            f"must be above 0 and below 1, not {self.delta!r}; well below 1 / records is usual",
        )
        for name in _MULTIPLIERS:
            require_range(getattr(self, name), f"privacy.{name}", 0, MAX_NOISE_MULTIPLIER)

    def with_mode(self, mode: str) -> "PrivacySpec":
        """The same promise kept in another mode, its noise not computed yet; "none" drops the promise."""
        if mode == "none":
            return PrivacySpec("none", clip_norm=self.clip_norm)
        for private in _PRIVATE_MODES:
            if mode == private:
                return PrivacySpec(private, self.epsilon, self.delta, self.clip_norm)
        known = '"distributed", "local", "organisation" or "none"'
        raise ManifestError("privacy.mode", f"must be {known}, not {shown(mode)}")


_PrivateMode: TypeAlias = Literal["distributed", "local", "organisation"]
_PRIVATE_MODES: tuple[_PrivateMode, ...] = ("distributed", "local", "organisation")
_MULTIPLIERS = ("noise_multiplier", "statistics_noise_multiplier", "evaluation_noise_multiplier")


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """Who averages with whom: groups of ``size``…2·``size`` - 1 cut from ``topology``, never fewer than
    ``minimum`` in one sum.

    ``colluders``: how many curious members of one group, the reader included, the secrets and the noise are
    laid out against.
    """

    topology: str = "complete"
    schedule: Literal["random", "grid"] = "random"
    size: int = 4
    minimum: int = 3
    colluders: int = 1

    def __post_init__(self) -> None:
        known = self.topology in FAMILIES
        require(
            known,
            "groups.topology",
            f"unknown topology {shown(self.topology)}; {suggest(self.topology, FAMILIES)}",
        )
        require_range(self.colluders, "groups.colluders", 1, MAX_MEMBERS)
        floor = self.colluders + 2  # the least k with t <= k and t - c >= 2, for which see thresholds()
        against = f"against {self.colluders} colluding" if self.colluders > 1 else "against 1 colluder"
        require(
            self.minimum >= floor, "groups.minimum", f"must be at least {floor} to stay private {against}"
        )
        # The schedule cuts groups of up to 2 size - 1 members.
        require_range(self.size, "groups.size", self.minimum, (LARGEST_GROUP + 1) // 2)

    @property
    def thresholds(self) -> Thresholds:
        """Thresholds of a full group; :attr:`size` members."""
        return thresholds(self.size, self.colluders)


@dataclass(frozen=True, slots=True)
class TimingSpec:
    """Deadlines, all in seconds, and the rounds of an epoch (how long a newcomer may have to wait)."""

    epoch_rounds: int = 10
    gather_seconds: float = 15.0
    ready_seconds: float = 20.0
    phase_seconds: float = 20.0
    round_seconds: float = 120.0

    def __post_init__(self) -> None:
        require_range(self.epoch_rounds, "timing.epoch_rounds", 1, 100_000)
        for name in ("gather_seconds", "ready_seconds", "phase_seconds", "round_seconds"):
            require_range(getattr(self, name), f"timing.{name}", 0, _DAY, above=True)
        longest = max(self.ready_seconds, self.phase_seconds)
        enough = self.round_seconds > longest
        require(enough, "timing.round_seconds", f"must be above ready_seconds and phase_seconds, {longest:g}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The agreement.

    ``issuers`` may admit further members by ticket, ``issuer_quorum`` of them together; ``members`` need
    none; ``seed`` starts the model.
    """

    name: str
    issuers: tuple[PeerId, ...]
    members: tuple[PeerId, ...]
    task: TaskSpec
    model: ModelSpec
    training: TrainingSpec
    privacy: PrivacySpec
    groups: GroupSpec
    timing: TimingSpec
    seed: int = 0
    evaluation: EvaluationSpec = added(EvaluationSpec())  # noqa: RUF009 - a field of a frozen record
    issuer_quorum: int = added(1)

    def __post_init__(self) -> None:
        require_text(self.name, "name")
        require_range(self.seed, "seed", 0, (1 << 63) - 1)
        for field, peers in (("issuers", self.issuers), ("members", self.members)):
            require_distinct(peers, field, MAX_MEMBERS)
            for position, peer in enumerate(peers):
                _require_peer(peer, f"{field}[{position}]")
        require(
            bool(self.issuers or self.members),
            "issuers",
            "nobody could ever join; name an issuer, or list the members",
        )
        most = min(MAX_QUORUM, max(1, len(self.issuers)))
        require_range(self.issuer_quorum, "issuer_quorum", 1, most)
        if not self.issuers:
            few = f"only {len(self.members)} and no issuer; groups.minimum is {self.groups.minimum}"
            require(len(self.members) >= self.groups.minimum, "members", few)
        distributed_once = self.privacy.mode != "distributed" or self.training.local_steps == 1
        require(
            distributed_once,
            "training.local_steps",
            'must be 1 in mode "distributed", whose noise covers one step per sum',
        )
        require_fit(self.task, self.model)
        if isinstance(self.task, OutsideTask):
            _require_outside(self.training, self.privacy.mode)
        alone = not self.model.private or self.privacy.mode != "distributed"
        what = (
            'not in mode "distributed": no noise covers private layers, and every later step depends on them'
        )
        require(alone, "model.private", what)
        needless = self.privacy.statistics_noise_multiplier == 0 or self.numeric_columns > 0
        what = "must be left out: without numeric columns the statistics are about no record"
        require(needless, "privacy.statistics_noise_multiplier", what)
        whole = self.privacy.mode == "organisation"
        self.evaluation.check(self.task, self.training.rounds, by_organisation=whole)
        require_grid(self.training, 2 * self.groups.size - 1)

    @property
    def numeric_columns(self) -> int:
        """Of the task; with 0 nothing is measured on records before training."""
        return sum(column.kind == "numeric" for column in self.task.columns)

    @property
    def missing_noise(self) -> tuple[str, ...]:
        """The noise multipliers that are needed and not computed yet."""
        if self.privacy.mode == "none":
            return ()
        missing = (name for name in _MULTIPLIERS if getattr(self.privacy, name) == 0)
        return tuple(name for name in missing if self.numeric_columns or "statistics" not in name)

    @property
    def calibrated(self) -> bool:
        """Whether every noise multiplier that is needed is there."""
        return not self.missing_noise

    @property
    def digest(self) -> bytes:
        """SHA-256 over the label and the canonical bytes; computed anew at each call."""
        return digest_of(canonical_bytes(self))

    @property
    def federation_id(self) -> str:
        """:attr:`digest` in hexadecimal."""
        return self.digest.hex()


def _require_outside(training: TrainingSpec, mode: str) -> None:
    """What cannot be promised of, or asked from, a training loop that p2pfl does not see."""
    for name, value in STEPS_OUTSIDE.items():
        what = "leave it out: the members' own training loops decide"
        require(getattr(training, name) == value, f"training.{name}", what)
    bounded = mode in ("organisation", "none")
    what = (
        f'not "{mode}", which bounds what each record does to each step: nobody sees that of a training loop'
        ' outside p2pfl; take "organisation", which bounds all that a member changes, or "none"'
    )
    require(bounded, "privacy.mode", what)


def _require_peer(text: str, field: str) -> None:
    try:
        parse_peer_id(text)
    except ValueError as error:
        raise ManifestError(field, f"{shown(text)} is not a peer id ({error})") from None


def digest_of(canonical: bytes) -> bytes:
    """The federation digest of a manifest's canonical bytes."""
    return hashlib.sha256(labels.MANIFEST_DIGEST + b"\0" + canonical).digest()


def canonical_bytes(manifest: Manifest) -> bytes:
    """The one byte string that stands for ``manifest``: sorted keys, floats as the text of their shortest
    exact decimal.

    Raises ManifestError for a draft whose noise or size is not known yet, and if it is larger than MAX_BYTES.
    """
    for name in manifest.missing_noise:
        raise ManifestError(f"privacy.{name}", "not computed yet; `p2pfl federation create` does it")
    asked = not isinstance(manifest.model, PluginModel) or manifest.model.known
    require(asked, "model.size", "not known yet; `p2pfl federation create` asks the plug-in")
    packed = pack({"format": FORMAT, "manifest": plain(manifest)})
    require(
        len(packed) <= MAX_BYTES, "", f"the manifest has {len(packed)} bytes, at most {MAX_BYTES} are allowed"
    )
    return packed


def decode_manifest_untrusted(data: bytes) -> Manifest:
    """Parse canonical bytes from anywhere.

    Raises ManifestError, and nothing else, unless ``data`` is exactly what :func:`canonical_bytes` gives for
    the result: no two byte strings stand for the same manifest.
    """
    try:
        outer = unpack_untrusted(data, MAX_BYTES)
    except ValueError as error:
        raise ManifestError("", f"not a manifest: {error}") from None
    if not isinstance(outer, dict) or set(outer) != {"format", "manifest"}:
        raise ManifestError("", "not a manifest")
    if outer["format"] != FORMAT or type(outer["format"]) is not int:
        raise ManifestError(
            "format",
            f"this p2pfl reads format {FORMAT}, not {shown(outer['format'])}; another version wrote it",
        )
    manifest = _read_manifest(outer["manifest"], floats_are_text=True)
    require(canonical_bytes(manifest) == data, "", "not in canonical form")
    return manifest


def from_toml(text: str, backbone: str = "", initial: str = "") -> Manifest:
    """Read what people write. Members and issuers are sorted, so their order in the file does not matter.
    ``backbone``, ``initial``: the digests of the model's, where they have left them out.

    Raises ManifestError naming the field; the result may lack its noise multipliers
    (``manifest.calibrated``).
    """
    require(len(text) <= MAX_BYTES, "", f"the file has more than {MAX_BYTES} characters")
    try:
        table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ManifestError("", f"not valid TOML: {str(error).lower()}") from None
    for name, digest in (("backbone", backbone), ("initial", initial)):
        if digest and isinstance(table.get("model"), dict):
            table["model"].setdefault(name, digest)
    return from_table(table)


def from_table(table: dict[str, Any]) -> Manifest:
    """Read the table that TOML comes to, which is completed in place; otherwise as :func:`from_toml`."""
    for section in ("groups", "timing"):
        table.setdefault(section, {})
    for name in ("issuers", "members"):
        peers = table.setdefault(name, [])
        if isinstance(peers, list) and all(isinstance(peer, str) for peer in peers):
            table[name] = sorted(peers)
    if isinstance(table.get("task"), dict):
        table["task"].setdefault("kind", "tabular")
    _require_bounds_stated(table)
    privacy = table.get("privacy")
    clips = isinstance(privacy, dict) and "clip_norm" in privacy
    complete(table)
    _fill_sizes(table)
    manifest = _read_manifest(table, floats_are_text=False)
    idle = clips and manifest.privacy.mode == "none"
    require(not idle, "privacy.clip_norm", 'must be left out: mode "none" clips nothing')
    return manifest


def _fill_sizes(table: dict[str, object]) -> None:
    """The sizes of the model that follow from the task, where people have left them out."""
    task, model = table.get("task"), table.get("model")
    if not isinstance(task, dict) or not isinstance(model, dict):
        return
    with _manifest_errors():
        read = read_variant(TaskSpec, task, "task", floats_are_text=False)
    assert isinstance(read, TaskSpec)
    require_fitting_kind(read, str(model.get("kind")))  # before sizes that only another task has are missed
    for name, size in sizes_for(read, str(model.get("kind"))).items():
        model.setdefault(name, size)


def _require_bounds_stated(table: dict[str, object]) -> None:
    """A numeric column without bounds would silently get others' defaults; in TOML they must be written."""
    task = table.get("task")
    columns = task.get("columns") if isinstance(task, dict) else None
    for position, column in enumerate(columns if isinstance(columns, list) else ()):
        if isinstance(column, dict) and column.get("kind") == "numeric":
            for name in ("low", "high"):
                reason = "missing; a numeric column needs the range that its values are clipped to"
                require(name in column, f"task.columns[{position}].{name}", reason)


def _read_manifest(table: object, *, floats_are_text: bool) -> Manifest:
    with _manifest_errors():
        return read_record(Manifest, table, "", floats_are_text=floats_are_text)


@contextmanager
def _manifest_errors() -> Iterator[None]:
    """What a reader of records refuses, said of the manifest."""
    try:
        yield
    except ManifestError:
        raise
    except FieldError as error:
        raise ManifestError(error.field, error.reason) from None
