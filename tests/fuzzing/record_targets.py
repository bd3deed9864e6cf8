"""Everything else that is read in one piece: values, manifests, tickets, greetings, models, names."""

import base64
import binascii
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

import numpy as np
from message_targets import ALICE, BOB, ME
from mutations import mutated, mutated_packed
from safetensors.numpy import save
from target import Target, require_same

from p2pfl.crypto.identity import parse_peer_id
from p2pfl.gossip.canonical import pack, unpack_untrusted
from p2pfl.gossip.manifest import (
    Column,
    ConvolutionalModel,
    DenseModel,
    GroupSpec,
    ImageTask,
    Manifest,
    ManifestError,
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
    canonical_bytes,
    decode_manifest_untrusted,
)
from p2pfl.gossip.own_spec import IntegerArgument, NumberArgument, TextArgument
from p2pfl.gossip.tickets import PREFIX, TicketError, issue, parse_ticket_untrusted
from p2pfl.node.errors import DataError
from p2pfl.node.membership.admission import Greeting
from p2pfl.node.membership.catch_up import Summary
from p2pfl.node.privacy import dimension
from p2pfl.node.released import Released
from p2pfl.node.storage.model_file import read_model
from p2pfl.node.transport.address import parse_dialable
from p2pfl.node.transport.types import Unreachable

_MOST: Final = 1 << 20
_LONGEST_ADDRESS: Final = 256
_TICKET: Final = str(issue(BOB, federation=b"f" * 32, peer=ME, expires=1 << 31))
_COLUMNS: Final = (Column("age", "numeric", 20.0, 90.5), Column("cp", "categorical", levels=("1", "2", "3")))
_MANIFEST: Final = Manifest(
    "hearts",
    (ME,),
    (BOB.peer_id,),
    TabularTask("tabular", "num", ("1", "2"), _COLUMNS, ("?",)),
    DenseModel("mlp", (4, 2)),
    TrainingSpec(60, 0.1, 0.25, 40.0),
    PrivacySpec("distributed", 1.0, 1e-4, 1.5, 3.25, 10.0, 12.0),
    GroupSpec(),
    TimingSpec(),
    7,
)
_UNMEASURED: Final = replace(_MANIFEST.privacy, statistics_noise_multiplier=0.0)
_ARGUMENTS: Final = (
    IntegerArgument("integer", "a", 3),
    NumberArgument("number", "b", 0.5),
    TextArgument("text", "c", "x"),
)
_MANIFESTS: Final = (
    _MANIFEST,
    replace(
        _MANIFEST,
        task=TabularTask(
            "tabular",
            "num",
            columns=(
                replace(_COLUMNS[0], missing="indicator"),
                replace(_COLUMNS[1], missing="level", unknown="missing"),
            ),
            classes=("a", "b", "c"),
            class_weights=(1.0, 2.5, 1.0),
        ),
        model=DenseModel("svm", outputs=3),
        training=replace(_MANIFEST.training, weight_decay=0.5),
    ),
    replace(
        _MANIFEST,
        task=ImageTask("images", 6, 4, ("0", "1"), 2, class_weights=(1.0, 3.0)),
        model=ConvolutionalModel("cnn", (4, 8), (2, 6, 4), 2, (3,), 3, 2),
        privacy=replace(_UNMEASURED, mode="organisation"),
    ),
    replace(
        _MANIFEST,
        task=TextTask("text", "\n abcé", 5, "line", "skip"),
        model=SequenceModel("transformer", 8, (5,), 6, 2, 4),
        privacy=_UNMEASURED,
    ),
    replace(
        _MANIFEST,
        task=TextTask("text", "ab", 3, "chunk"),
        model=SequenceModel("gru", 4, (3,), 2),
        privacy=_UNMEASURED,
    ),
    replace(
        _MANIFEST,
        task=PluginTask("plugin", "p", "1.0", _ARGUMENTS),
        model=PluginModel("plugin", 9, 2),
        privacy=_UNMEASURED,
    ),
    replace(
        _MANIFEST,
        task=OutsideTask("outside", _ARGUMENTS),
        model=OutsideModel("outside", (Tensor("w", (2, 3)), Tensor("b", (), "ones"))),
        training=TrainingSpec(60, 1.0, 1.0, 1.0),
        privacy=replace(_UNMEASURED, mode="organisation"),
    ),
)
_DIMENSIONS: Final = (2, 3)


def _value(data: bytes) -> None:
    require_same(pack(unpack_untrusted(data, _MOST)), data)


def _manifest(data: bytes) -> None:
    require_same(canonical_bytes(decode_manifest_untrusted(data)), data)


def _ticket(data: bytes) -> None:
    text = data.decode(errors="replace")
    assert str(parse_ticket_untrusted(text)) == text.strip()


def _reshaped_ticket(data: bytes, random: Random) -> bytes:
    """With other fields, or the same in another base64."""
    prefix = PREFIX.encode()
    try:
        fields = base64.urlsafe_b64decode(data.removeprefix(prefix) + b"==")
    except (ValueError, binascii.Error):
        return mutated(data, (), random)
    change = mutated_packed if random.random() < 0.9 else lambda fields, _: fields
    encoded = base64.urlsafe_b64encode(change(fields, random))
    return prefix + (encoded if random.random() < 0.1 else encoded.rstrip(b"="))


def _greeting(data: bytes) -> None:
    """Fields that this version does not know are passed over."""
    greeting = Greeting.from_untrusted(data)
    assert Greeting.from_untrusted(greeting.to_bytes()) == greeting


def _summary(data: bytes) -> None:
    require_same(Summary.from_untrusted(data).to_bytes(), data)


def _released(data: bytes) -> None:
    require_same(Released.from_untrusted(data, *_DIMENSIONS).to_bytes(), data)


def _peer_id(data: bytes) -> None:
    parse_peer_id(data.decode(errors="replace"))


def _address(data: bytes) -> None:
    """What a presence may hold: printable, and not long."""
    text = data.decode(errors="replace")
    if text.isprintable() and 0 < len(text) <= _LONGEST_ADDRESS:
        parse_dialable(text)


def _model_file(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        vectors = read_model(Path(file.name), _MANIFEST)
    assert all(np.isfinite(vector).all() for vector in vectors)


def _model() -> bytes:
    sizes = {"parameters": dimension(_MANIFEST, "training"), "statistics": dimension(_MANIFEST, "statistics")}
    data: bytes = save({name: np.zeros(size) for name, size in sizes.items()})
    return data


def _as_text(data: bytes, random: Random) -> bytes:
    """Another character somewhere, more often than another byte."""
    text = data.decode(errors="replace")
    at = random.randint(0, len(text))
    letter: str = random.choice(
        (*"/z1:0%.\u202eé", "/p2p/", "/dns4/", "/tcp/99999", "/udp/1", "/unix/", "/onion3/")
    )
    return (text[:at] + letter + text[at + random.choice((0, 1, 9)) :]).encode()


RECORD_TARGETS: Final = (
    Target(
        "canonical",
        _value,
        (ValueError,),
        (
            pack({"a": [1, -1, None, True, "x", b"y", [[]]], "b": {}}),
            pack([1 << 63, -(1 << 63), "é" * 99, bytes(300)]),
        ),
    ),
    Target("manifest", _manifest, (ManifestError,), tuple(map(canonical_bytes, _MANIFESTS))),
    Target("ticket", _ticket, (TicketError,), (_TICKET.encode(),), _reshaped_ticket),
    Target("greeting", _greeting, (ValueError,), (Greeting((1, 2), b"f" * 32, 1 << 31, _TICKET).to_bytes(),)),
    Target(
        "summary", _summary, (ValueError,), (Summary(((7, b"d" * 32), (6, b"e" * 32)), False).to_bytes(),)
    ),
    Target("released", _released, (ValueError,), (Released(7, 2, np.zeros(2), np.ones(3)).to_bytes(),)),
    Target("peer-id", _peer_id, (ValueError,), (ALICE.peer_id.encode(), BOB.peer_id.encode()), _as_text),
    Target(
        "address",
        _address,
        (Unreachable,),
        tuple(
            f"/{host}/tcp/4001/p2p/{ME}".encode()
            for host in ("ip4/192.0.2.1", "ip6/2001:db8::1", "dns4/a.example")
        ),
        _as_text,
    ),
    Target("model-file", _model_file, (DataError,), (_model(),), printable=False),
)
