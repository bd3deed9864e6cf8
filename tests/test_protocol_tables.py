"""docs/protocol.md against the code: labels, fields, constants, thresholds."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from p2pfl.crypto import labels, linear_check
from p2pfl.gossip import (
    chunks,
    deadlines,
    epoch,
    epoch_messages,
    evidence,
    exchange,
    messages,
    vector_messages,
    wire,
)
from p2pfl.gossip.manifest import (
    Column,
    ConvolutionalModel,
    DenseModel,
    EvaluationSpec,
    GroupSpec,
    ImageTask,
    OutsideModel,
    OutsideTask,
    PluginModel,
    PluginTask,
    PrivacySpec,
    SequenceModel,
    TabularTask,
    Tensor,
    TextTask,
    TimingSpec,
    TrainingSpec,
)
from p2pfl.gossip.own_spec import IntegerArgument, NumberArgument, TextArgument
from p2pfl.gossip.participant import MAX_AHEAD, MESSAGES
from p2pfl.gossip.thresholds import thresholds
from p2pfl.gossip.training_spec import PARAMETER_LIMIT
from p2pfl.node import privacy
from p2pfl.node.daemon import LIMITS
from p2pfl.node.membership import admission
from p2pfl.node.programme import mixing_rounds
from p2pfl.node.transport.reception import ADMISSION
from p2pfl.node.transport.types import MAX_GREETING, MAX_REASON
from p2pfl.topologies import graphs, schedule

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "protocol.md").read_text(encoding="utf-8")
MANIFEST_TABLES: Mapping[str, tuple[type, ...]] = {
    "## 3. Manifest": (TrainingSpec, PrivacySpec, GroupSpec, TimingSpec, EvaluationSpec),
    "**Tabular**: ": (TabularTask, Column),
    "**Images**: ": (ImageTask,),
    "**Text**: ": (TextTask,),
    "**Plug-in**: ": (PluginTask, IntegerArgument, NumberArgument, TextArgument),
    "**Outside**: ": (OutsideTask,),
    "### Models": (DenseModel, ConvolutionalModel, SequenceModel, PluginModel, OutsideModel, Tensor),
}
"""The records whose fields are in the first table below each place."""
LABELS: Mapping[str, bytes] = {name: value for name, value in vars(labels).items() if name.isupper()}


@pytest.mark.parametrize("name", LABELS)
def test_every_label_is_in_the_table(name: str) -> None:
    assert f"`{LABELS[name].decode()}`" in PAGE


def test_labels_outside_the_list_are_there_too() -> None:
    for label in (graphs._LABEL, schedule.LABEL, schedule.LABEL + b"/grid"):
        assert f"`{label.decode()}`" in PAGE


@pytest.mark.parametrize("tag", MESSAGES)
def test_every_message_has_its_fields_in_order(tag: str) -> None:
    found = re.search(rf"^#### `{tag}`(.*?)^#", PAGE, re.DOTALL | re.MULTILINE)
    assert found, f"{tag} has no section"
    kind = MESSAGES[tag]
    first, _, rest = found[1].partition("\n")
    assert ("not signed" in first) == (kind.LABEL is None)
    assert ("relayed" in first) == kind.RELAYED
    if kind.LABEL is not None:
        assert f"`{kind.LABEL.decode()}`" in first
    cells = re.findall(r"^\| (`[a-z_`, ]+) \|", rest, re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)]
    fields = [field.name for field in dataclasses.fields(kind)]
    assert names == [name for name in fields if name not in ("author", "signature")]


@pytest.mark.parametrize("place", MANIFEST_TABLES)
def test_every_field_of_the_manifest_is_in_its_table(place: str) -> None:
    """Those that a manifest may lack with their default."""
    table = PAGE.partition(f"\n{place}")[2].partition("\n|")[2].partition("\n\n")[0]
    rows = [row.split("|") for row in table.splitlines()]
    for field in (field for record in MANIFEST_TABLES[place] for field in dataclasses.fields(record)):
        name = re.compile(rf"`(\w+\.|…\.)?{field.name}`")
        found = [row for row in rows if name.search("".join(row[:3]))]
        assert found or field.name == "kind", field.name
        if "added" in field.metadata:
            assert any("default" in "".join(row) for row in found), field.name


def constants() -> dict[str, float | str]:
    limits = LIMITS
    return {
        "most members of a group": messages.MAX_MEMBERS,
        "attempts of a round": messages.MAX_ATTEMPTS,
        "characters of a stage": messages.MAX_STAGE_CHARACTERS,
        "bytes of a share field": messages.MAX_SHARE_BYTES,
        "bytes of a sealed bundle": messages.MAX_SEALED_BYTES,
        "chunks": chunks.MAX_CHUNKS,
        "bytes of a broadcast": chunks.BROADCAST_BYTES,
        "usual bytes of a chunk": chunks.CHUNK_BYTES,
        "usual chunks": chunks.USUAL_CHUNKS,
        "words of a check": linear_check.CHECKS,
        "width of a row": linear_check.WIDTH,
        "rows of a block": linear_check.BLOCK_ROWS,
        "bytes of a check's words": vector_messages.MAX_CHECK_BYTES,
        "bytes of an accusing message": evidence.MAX_STATEMENT_BYTES,
        "bytes of a body": wire.Limits(0).max_body_bytes,
        "authors of an epoch": epoch_messages.MAX_ROSTER,
        "addresses of a presence": epoch_messages.MAX_ADDRESSES,
        "bytes of an address": epoch_messages.MAX_ADDRESS_BYTES,
        "epochs ahead": exchange.MAX_LEAP,
        "rounds ahead": MAX_AHEAD,
        "settle": epoch.SETTLE_SECONDS,
        "tell": exchange.TELL_SECONDS,
        "beat": exchange.BEAT_SECONDS,
        "heartbeat": exchange.HEARTBEAT_SECONDS,
        "fan-out": exchange.FANOUT,
        "bytes of a greeting": admission.MAX_GREETING_BYTES,
        "bytes of a greeting frame, without token": MAX_GREETING,
        "bytes of a reason": MAX_REASON,
        "bytes of a message": limits.max_message,
        "bytes of an answer": limits.max_response,
        "seconds of a guest": limits.guest_seconds,
        "bytes of a guest": limits.guest_bytes,
        "streams": limits.max_streams,
        "idle seconds": limits.idle_seconds,
        "least deadline": deadlines.LEAST_SECONDS,
        "mute": deadlines.SILENT_SECONDS,
        "late timer": deadlines.LATE_SECONDS,
        "grace": deadlines.GRACE_SECONDS,
        "slow": deadlines.SLOW,
        "requests at a time": limits.requests,
        "bytes of a request": limits.max_request,
        "records of a table": privacy.MAX_RECORDS,
        "limit of a parameter": PARAMETER_LIMIT,
        "cap of a loss": privacy.LOSS_CAP,
        "finest noise": privacy.GRID_SIGMA,
        "coarsest noise": privacy.LEAST_SIGMA,
        "admission": ADMISSION,
    }


@pytest.mark.parametrize("name", constants())
def test_a_constant_is_what_the_code_says(name: str) -> None:
    found = re.search(rf"^\| {re.escape(name)} \| ([^|]+) \|", PAGE, re.MULTILINE)
    assert found, f"no row for {name}"
    value = constants()[name]
    shown = found[1].strip(" `").replace(" ", "")
    assert (shown if isinstance(value, str) else float(shown)) == value


def test_the_table_of_contradictions() -> None:
    section = PAGE.partition("### Exclusion")[2].partition("\n### ")[0]
    found = {}
    for tags, place, bound in re.findall(
        r"^\| (`[a-z`, ]+) \| (`[a-z_`, ]+) \| (.+) \|$", section, re.MULTILINE
    ):
        for tag in re.findall(r"`(\w+)`", tags):
            found[tag] = (re.findall(r"`(\w+)`", place), re.findall(r"`(\w+)`", bound))
    expected = {}
    for tag, kind in evidence._KINDS.items():
        names = [field.name for field in dataclasses.fields(kind.message)]
        names = [name for name in names if name not in ("author", "signature")]
        whole = kind.bound == slice(kind.place.stop, None)
        expected[tag] = (names[kind.place], [] if whole else names[kind.bound])
    assert found == expected


def test_the_threshold_table() -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 6
    for k, c, t, u, drops in (map(int, row) for row in rows):
        found = thresholds(k, c)
        assert (t, u, drops) == (found.threshold, found.minimum_survivors, found.tolerated_drops)


def test_the_number_of_mixing_rounds() -> None:
    assert f"16 in groups of 4 take {mixing_rounds(16, 4)} rounds" in " ".join(PAGE.split())
