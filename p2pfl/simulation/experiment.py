"""An experiment: a federation's tables, a table ``[simulation]``, and lists where several values are wanted.

What is not said is as in the federation that ``simulation.federation`` names, its TOML or its manifest, or,
without one, in that of the four hospitals. Wherever the format has a single value, a list of values is a
sweep over them; where it has a list, a list of lists is. Several sweeps are combined, each with each.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

from p2pfl.crypto.identity import Identity
from p2pfl.gossip.manifest import (
    EvaluationSpec,
    GroupSpec,
    Manifest,
    ManifestError,
    ModelSpec,
    PrivacySpec,
    TaskSpec,
    TimingSpec,
    TrainingSpec,
    decode_manifest_untrusted,
    from_table,
)
from p2pfl.gossip.records import FieldError, read_record, suggest
from p2pfl.heart_disease import FEDERATION_TOML
from p2pfl.node.errors import DataError, reason_of
from p2pfl.node.privacy import calibrated
from p2pfl.simulation.required import explained
from p2pfl.simulation.setting import Setting

MOST_RUNS: Final = 100_000
MOST_SEEDS: Final = 1000
_NOISED: Final = ("task", "training", "privacy", "evaluation")
"""What the noise of a manifest is computed from."""
_MULTIPLIERS: Final = ("noise_multiplier", "statistics_noise_multiplier", "evaluation_noise_multiplier")
_ISSUER: Final = Identity.from_seed(bytes(32)).peer_id
_PARTS: Final[Mapping[str, Any]] = {
    "task": TaskSpec,
    "model": ModelSpec,
    "training": TrainingSpec,
    "privacy": PrivacySpec,
    "groups": GroupSpec,
    "timing": TimingSpec,
    "evaluation": EvaluationSpec,
    "simulation": Setting,
}
Table = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Experiment:
    """One point of a sweep. ``manifest``: its noise not computed yet. ``varied``: what sets it apart, by
    path. ``batch_given``: whether the experiment says how large a batch it expects.
    """

    manifest: Manifest
    setting: Setting
    varied: Mapping[str, object]
    base: Path
    batch_given: bool

    def fitted(self, records: float) -> Manifest:
        """The manifest among nodes of so many ``records`` each, on average: with the batch that follows,
        where the data is not as its federation had it, and with the noise that its promise takes.

        Takes seconds, once for the same terms.
        """
        manifest = self.manifest
        if not self.batch_given and self.setting.partition != "natural":
            batch = manifest.training.sampling_rate * records
            manifest = replace(manifest, training=replace(manifest.training, expected_batch=batch))
        return manifest if manifest.calibrated else with_noise(manifest)


@dataclass(frozen=True, slots=True)
class Sweep:
    """Every experiment of a file, each to be run for the ``seeds`` 0, 1, …"""

    experiments: Sequence[Experiment]
    seeds: int

    @property
    def axes(self) -> list[str]:
        """What is varied, by path."""
        return list(self.experiments[0].varied)


def read(
    text: str, base: Path, overrides: Mapping[str, object] | None = None, *, as_it_is: bool = False
) -> Sweep:
    """The sweep that ``text``, TOML, describes; paths in it are relative to ``base``. ``overrides`` by path,
    such as "groups.size", take the place of what it says. ``as_it_is``: the federation's expected batch
    stays, whatever records the nodes have.

    Raises FieldError naming the field, and DataError if the federation's file cannot be read.
    """
    try:
        said: Table = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise FieldError("", f"not TOML: {error}") from None
    for path, value in (overrides or {}).items():
        _put(said, path, value)
    simulation = dict(_table(said, "simulation"))
    seeds = simulation.pop("seeds", 1)
    if type(seeds) is not int or not 1 <= seeds <= MOST_SEEDS:
        raise FieldError("simulation.seeds", f"must be a whole number from 1 to {MOST_SEEDS}, not {seeds!r}")
    federation = _federation(simulation.pop("federation", None), base)
    said["simulation"] = simulation
    axes = list(_axes(said))
    count = 1
    for _, values in axes:
        count *= len(values)
    if count * seeds > MOST_RUNS:
        raise FieldError("", f"{count * seeds} runs; at most {MOST_RUNS} are allowed")
    points = product(*(values for _, values in axes))
    paths = [path for path, _ in axes]
    with explained():
        experiments = [
            _experiment(federation, said, dict(zip(paths, point, strict=True)), base) for point in points
        ]
    if as_it_is:
        experiments = [replace(each, batch_given=True) for each in experiments]
    return Sweep(experiments, seeds)


def _experiment(
    federation: Table | Manifest, said: Table, varied: Mapping[str, object], base: Path
) -> Experiment:
    own = _copied(said)
    for path, value in varied.items():
        _put(own, path, value)
    setting: Setting = read_record(Setting, own.pop("simulation"), "simulation", floats_are_text=False)
    batch_given = "expected_batch" in own.get("training", {})
    if isinstance(federation, Manifest):
        if not own:
            return Experiment(federation, setting, varied, base, batch_given)
        federation = _table_of(federation, with_noise=not any(part in own for part in _NOISED))
    merged = _merged(federation, own)
    if merged.get("privacy", {}).get("mode") == "none":
        merged["privacy"] = {"mode": "none"}
    return Experiment(from_table(merged), setting, varied, base, batch_given)


def _table_of(manifest: Manifest, *, with_noise: bool) -> Table:
    table = asdict(manifest)
    for name in () if with_noise else _MULTIPLIERS:
        del table["privacy"][name]
    return table


def _federation(path: object, base: Path) -> Table | Manifest:
    if path is None:
        text = FEDERATION_TOML.read_text(encoding="utf-8")
    elif isinstance(path, str):
        data = _data(base / path)
        try:
            return decode_manifest_untrusted(data)
        except ManifestError:
            text = _text(base / path, data)
    else:
        raise FieldError("simulation.federation", f"must be the path of a file, not {path!r}")
    try:
        return tomllib.loads(text.replace("ISSUER", _ISSUER))
    except tomllib.TOMLDecodeError as error:
        raise FieldError("simulation.federation", f"{path}: not TOML: {error}") from None


def _data(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason_of(error)}", "check the path") from None


def _text(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: neither text nor a manifest", "give a federation in TOML, or the manifest made of it"
        ) from None


def _axes(said: Table) -> Iterator[tuple[str, Sequence[object]]]:
    """The paths whose values are swept."""
    for name in said:
        if name in ("name", "seed"):
            continue
        if name not in _PARTS:
            raise FieldError(name, f"unknown table; {suggest(name, _PARTS)}")
        lists = _list_fields(name)
        for key, value in _table(said, name).items():
            several = isinstance(value, list) and bool(value)
            if several and (key not in lists or isinstance(value[0], list)):
                yield f"{name}.{key}", value


@cache
def _list_fields(part: str) -> frozenset[str]:
    """Fields of a table that hold a list as they are."""
    records = get_args(_PARTS[part]) or (_PARTS[part],)
    hints = [get_type_hints(record) for record in records]
    return frozenset(name for each in hints for name, hint in each.items() if get_origin(hint) is tuple)


def _table(said: Table, name: str) -> Table:
    table = said.get(name, {})
    if not isinstance(table, dict):
        raise FieldError(name, "must be a table")
    return table


def _put(said: Table, path: str, value: object) -> None:
    *tables, key = path.split(".")
    for name in tables:
        said = said.setdefault(name, {})
    said[key] = value


def _copied(table: Table) -> Table:
    return {key: _copied(value) if isinstance(value, dict) else value for key, value in table.items()}


def _merged(below: Table, above: Table) -> Table:
    """Tables of ``above`` over those of ``below``; another kind of task or model replaces all of it."""
    merged = _copied(below)
    for key, value in above.items():
        other = merged.get(key)
        if isinstance(value, dict) and isinstance(other, dict) and _same_kind(value, other):
            merged[key] = _merged(other, value)
        else:
            merged[key] = value
    return merged


def _same_kind(above: Table, below: Table) -> bool:
    return "kind" not in above or above["kind"] == below.get("kind", "tabular")


_NOISE: dict[object, PrivacySpec] = {}


def with_noise(draft: Manifest) -> Manifest:
    """``draft``, calibrated. Takes seconds, once for the same terms: noise depends on no others."""
    training = draft.training
    steps = (training.rounds, training.local_steps, training.sampling_rate)
    terms = (draft.privacy, *steps, draft.evaluation, draft.numeric_columns > 0)
    if terms not in _NOISE:
        _NOISE[terms] = calibrated(draft).privacy
    return replace(draft, privacy=_NOISE[terms])
