"""A node's configuration: where its files are, where it listens, whom it calls first.

Every setting is a key of the TOML file, an environment variable and an option of `p2pfl node`; the later
wins. One table, :data:`SETTINGS`, is the source of all three, of the example that `p2pfl init` writes, and of
what docs/configuration.md is checked against. Paths in the file are relative to the file, so that a node's
directory can be moved; elsewhere to the working directory. What all members must agree on is not here but in
the manifest.
"""

import ipaddress
import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from p2pfl.crypto.identity import holds_secret_key, parse_peer_id
from p2pfl.gossip.records import shown, suggest
from p2pfl.node.errors import ConfigError, reason_of
from p2pfl.node.storage.regular_file import regular_only

LOG_LEVELS = ("debug", "info", "warning", "error")
LARGEST_PORT = 65535
_ADDRESS = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/([^/\s]+)/tcp/([0-9]{1,9})(?:/p2p/([^/\s]+))?")
_FEDERATION_ID = re.compile(r"[0-9a-fA-F]{64}")
_PART_OF_ID = re.compile(r"[0-9a-fA-F]{8,}(…|\.{3})?")
_EXAMPLE_PEER = "12D3KooW…"
_MOST_THREADS = 1024
_LEAST_MEMORY = 512 << 20  # what an idle node has asked for is about 400 MB
_MOST_MEMORY = 1 << 50
_MEMORY = re.compile(r"([0-9]{1,15}) ?(MB|GB|MiB|GiB)")
_UNITS = {"MB": 10**6, "GB": 10**9, "MiB": 1 << 20, "GiB": 1 << 30}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IP address of this machine and a TCP port on it; port 0 is any free one."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A checked configuration.

    Paths are absolute or relative to the working directory; ``federation`` as text is an id; ``memory`` is in
    bytes.
    """

    identity: Path
    state: Path
    listen: tuple[str, ...]
    announce: tuple[str, ...]
    bootstrap: tuple[str, ...]
    mdns: bool
    rendezvous: tuple[str, ...]
    relay: bool
    federation: str | Path | None
    ticket: Path | None
    backbone: Path | None
    initial: Path | None
    data_train: Path | None
    data_test: Path | None
    data_held_out: float | None
    status_listen: Endpoint | None
    status_token_file: Path | None
    threads: int | None
    memory: int | None
    network_key: Path | None
    log_level: str
    json_logs: bool


@dataclass(frozen=True, slots=True)
class Setting:
    """One key: ``field`` of NodeConfig, its place in the TOML (``table`` may be empty), and how a raw value
    becomes ours.

    ``read`` takes a value as TOML gives it (from the environment: text), the directory paths are relative to,
    and the name to blame. ``default`` is in TOML form; None: no default, and the field is then None.
    """

    field: str
    table: str
    key: str
    read: Callable[[object, Path, str], object]
    default: object
    metavar: str
    help: str

    @property
    def name(self) -> str:
        """``table.key`` as in the file."""
        return f"{self.table}.{self.key}" if self.table else self.key

    @property
    def variable(self) -> str:
        """The environment variable."""
        return f"P2PFL_{self.field.upper()}"

    @property
    def option(self) -> str:
        """The option of `p2pfl node`."""
        return "--" + self.field.replace("_", "-")

    @property
    def repeatable(self) -> bool:
        """Whether it is a list: the option may be repeated, the variable is separated by commas."""
        return isinstance(self.default, tuple)


def _text(raw: object, name: str) -> str:
    if not isinstance(raw, str):
        raise ConfigError(name, f"must be text in quotes, not {shown(raw)}", "put the value in quotes")
    if holds_secret_key(raw):
        hint = "keep it to yourself; `identity` names the file that holds it"
        raise ConfigError(name, "this is a secret key itself", hint)
    if not raw.strip():
        raise ConfigError(name, "is empty", "give it a value, or leave it out altogether to mean the default")
    if not raw.isprintable():
        hint = "write it again by hand, on one line"
        raise ConfigError(name, f"has a character that cannot be printed: {shown(raw)}", hint)
    return raw


def _path(raw: object, base: Path, name: str) -> Path:
    text = _text(raw, name)
    if text.startswith("p2pfl-ticket-"):
        raise ConfigError(name, "this is a ticket itself", "save it in a file, and name that file here")
    return base / Path(text).expanduser()


def _level(raw: object, _base: Path, name: str) -> str:
    if raw not in LOG_LEVELS:
        raise ConfigError(name, f"unknown level {shown(raw)}", "use one of " + ", ".join(LOG_LEVELS))
    return str(raw)


def _flag(raw: object, _base: Path, name: str) -> bool:
    known = {True: True, False: False, "true": True, "false": False, "1": True, "0": False}
    if not isinstance(raw, bool | str) or raw not in known:
        raise ConfigError(
            name, f"must be true or false, not {shown(raw)}", "write true or false, without quotes"
        )
    return known[raw]


def _endpoint(raw: object, _base: Path, name: str) -> Endpoint | None:
    text = _text(raw, name)
    if text == "off":
        return None
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        address = None
    if address is None or not port.isdecimal() or int(port) > LARGEST_PORT:
        hint = "write it as 127.0.0.1:9464, or off; port 0 takes any free one"
        raise ConfigError(name, f"{shown(text)} is not an IP address and a port", hint)
    return Endpoint(str(address), int(port))


def _threads(raw: object, _base: Path, name: str) -> int:
    number = int(raw) if isinstance(raw, str) and re.fullmatch("[0-9]{1,9}", raw) else raw
    if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= _MOST_THREADS:
        what = f"must be a number of threads from 1 to {_MOST_THREADS}, not {shown(raw)}"
        raise ConfigError(name, what, "leave it out to use every core")
    return number


def _share(raw: object, _base: Path, name: str) -> float:
    try:
        number = float(raw) if isinstance(raw, str | float) else math.nan
    except ValueError:
        number = math.nan
    if not 0 < number < 1:
        what = f"must be a share of the records, above 0 and below 1, not {shown(raw)}"
        raise ConfigError(name, what, "0.2 keeps a fifth of them aside")
    return number


def _memory(raw: object, _base: Path, name: str) -> int:
    match = _MEMORY.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise ConfigError(name, f"must be an amount of memory, not {shown(raw)}", 'write it as "4 GB"')
    number = int(match[1]) * _UNITS[match[2]]
    if not _LEAST_MEMORY <= number <= _MOST_MEMORY:
        verdict = "too little for a node" if number < _LEAST_MEMORY else "more than any machine has"
        hint = "give it 1 GB or more, or leave it out to set no limit"
        raise ConfigError(name, f"{match[0]} is {verdict}", hint)
    return number


def _federation(raw: object, base: Path, name: str) -> str | Path:
    text = _text(raw, name)
    if _FEDERATION_ID.fullmatch(text):
        return text.lower()
    path = _path(text, base, name)
    if _PART_OF_ID.fullmatch(text) and not path.exists():
        hint = "give all 64 hexadecimal digits that `p2pfl federation show` prints, or the .manifest file"
        raise ConfigError(name, f"{shown(text)} is not a whole id, and no file of that name is here", hint)
    return path


def _addresses(raw: object, name: str) -> tuple[str, ...]:
    if isinstance(raw, str):
        raw = [part.strip() for part in raw.split(",") if part.strip()]
    if not isinstance(raw, list | tuple):
        raise ConfigError(
            name, f"must be a list of addresses, not {shown(raw)}", 'write it as ["/ip4/0.0.0.0/tcp/4001"]'
        )
    return tuple(_text(address, name) for address in raw)


def _own_addresses(raw: object, _base: Path, name: str) -> tuple[str, ...]:
    addresses = _addresses(raw, name)
    for address in addresses:
        _check_address(address, name, example="/ip4/0.0.0.0/tcp/4001")
    return addresses


def _listen_addresses(raw: object, base: Path, name: str) -> tuple[str, ...]:
    addresses = _own_addresses(raw, base, name)
    if not addresses:
        raise ConfigError(
            name, "needs at least one address", 'listen = ["/ip4/0.0.0.0/tcp/4001"] listens everywhere'
        )
    for address in addresses:
        if "/p2p/" in address or not address.startswith(("/ip4/", "/ip6/")):
            hint = "a name or a peer id belongs in network.announce; listen on /ip4/0.0.0.0/tcp/4001"
            raise ConfigError(name, f"cannot listen on {shown(address)}", hint)
    return addresses


def _peer_addresses(raw: object, _base: Path, name: str) -> tuple[str, ...]:
    addresses = _addresses(raw, name)
    for address in addresses:
        peer = _check_address(address, name, example=f"/ip4/192.0.2.1/tcp/4001/p2p/{_EXAMPLE_PEER}")
        if peer is None:
            hint = "copy the whole line that the other node printed at its start, with /p2p/ and its peer id"
            raise ConfigError(name, f"{shown(address)} does not say which peer is there", hint)
    return addresses


def is_tcp_address(address: str) -> bool:
    """Whether ``address`` is a TCP multiaddress without a peer id."""
    match = _ADDRESS.fullmatch(address)
    return match is not None and match[4] is None and int(match[3]) <= LARGEST_PORT


def _check_address(address: str, name: str, *, example: str) -> str | None:
    """The peer id at the end of ``address``, if any. Raises ConfigError unless it is a TCP multiaddress."""
    match = _ADDRESS.fullmatch(address)
    hint = f"an address looks like {example}"
    if match is None:
        raise ConfigError(name, f"{shown(address)} is not a multiaddress", hint)
    if int(match[3]) > LARGEST_PORT:
        raise ConfigError(name, f"no port is {match[3]}: the largest is {LARGEST_PORT}", hint)
    if match[4] is not None:
        try:
            parse_peer_id(match[4])
        except ValueError as error:
            hint = "copy the whole line that the other node printed at its start"
            raise ConfigError(name, f"{shown(address)}: {error}", hint) from None
    return match[4]


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "identity", "", "identity", _path, "identity.key", "FILE",
        "this node's secret key; `p2pfl init` makes it",
    ),
    Setting(
        "state", "", "state", _path, "state", "DIR",
        "directory for the ledger, the model and what the node remembers; one for each federation",
    ),
    Setting(
        "federation", "federation", "id", _federation, None, "ID_OR_FILE",
        "the federation: its id (64 hexadecimal digits) or its .manifest file",
    ),
    Setting(
        "ticket", "federation", "ticket", _path, None, "FILE",
        "this node's ticket, if the manifest does not list it as a member",
    ),
    Setting(
        "backbone", "model", "backbone", _path, None, "FILE",
        "the frozen layers, if the manifest names any: the safetensors file with the SHA-256 that it says",
    ),
    Setting(
        "initial", "model", "initial", _path, None, "FILE",
        "what training starts from, if the manifest names a file: the one with the SHA-256 that it says",
    ),
    Setting(
        "listen", "network", "listen", _listen_addresses, ("/ip4/0.0.0.0/tcp/4001",), "MULTIADDR",
        "addresses to listen on; port 0 takes any free one",
    ),
    Setting(
        "announce", "network", "announce", _own_addresses, (), "MULTIADDR",
        "addresses that others should dial instead, if the node is behind a router or a name",
    ),
    Setting(
        "bootstrap", "network", "bootstrap", _peer_addresses, (), "MULTIADDR",
        "members to call first, each as it printed its address at its start",
    ),
    Setting(
        "mdns", "network", "mdns", _flag, False, "",
        "look for members on the local network, and be found there, by multicast DNS (UDP port 5353)",
    ),
    Setting(
        "rendezvous", "network", "rendezvous", _peer_addresses, (), "MULTIADDR",
        "where members leave their addresses for each other: Kademlia nodes, as `p2pfl rendezvous` runs one",
    ),
    Setting(
        "relay", "network", "relay", _flag, False, "",
        "carry connections between members that cannot reach each other; what they say stays unreadable here",
    ),
    Setting(
        "network_key", "network", "key_file", _path, None, "FILE",
        "a key that all members share: who has not got it finds a port that says nothing",
    ),
    Setting(
        "data_train", "data", "train", _path, None, "FILE",
        "the records to learn from, a file or a folder as docs/tasks.md says; they never leave this machine",
    ),
    Setting(
        "data_test", "data", "test", _path, None, "FILE",
        "records kept aside to measure the model on, in the same form",
    ),
    Setting(
        "data_held_out", "data", "held_out", _share, None, "FRACTION",
        "without data.test: the share of data.train that is kept aside to measure on, and never learnt from",
    ),
    Setting(
        "status_listen", "status", "listen", _endpoint, "127.0.0.1:0", "ADDRESS:PORT",
        "where /metrics, /health, /ready and /status are served; port 0 takes any free one, off none",
    ),
    Setting(
        "status_token_file", "status", "token_file", _path, None, "FILE",
        "the token that /metrics and /status ask for; needed where other machines can reach status.listen",
    ),
    Setting(
        "threads", "limits", "threads", _threads, None, "COUNT",
        "how many threads train the model at once; every core if not given",
    ),
    Setting(
        "memory", "limits", "memory", _memory, None, "AMOUNT",
        "how much memory the node may ask for; it ends, saying so, where it needs more",
    ),
    Setting(
        "log_level", "log", "level", _level, "info", "LEVEL",
        "how much to say on standard error: " + ", ".join(LOG_LEVELS),
    ),
    Setting(
        "json_logs", "log", "json", _flag, False, "",
        "log one JSON object a line instead of text",
    ),
)  # fmt: skip
_BY_NAME = {setting.name: setting for setting in SETTINGS}


def load_config(path: Path | None, environ: Mapping[str, str], options: Mapping[str, object]) -> NodeConfig:
    """Put the file, the environment and the command line together.

    ``options`` holds raw values by field name; None means not given. Raises ConfigError naming the key,
    variable or option.
    """
    table = {} if path is None else _read_file(path)
    variables = {setting.variable for setting in SETTINGS}
    for name in environ:
        if name.startswith("P2PFL_") and name not in variables:
            raise ConfigError(name, "unknown environment variable", suggest(name, variables))
    here = Path()
    values: dict[str, object] = {}
    for setting in SETTINGS:
        if options.get(setting.field) is not None:
            values[setting.field] = setting.read(options[setting.field], here, setting.option)
        elif setting.variable in environ:
            values[setting.field] = setting.read(environ[setting.variable], here, setting.variable)
        else:
            base = here if path is None else path.parent
            values[setting.field] = _from_file(setting, table, base)
    _require_token(values["status_listen"], values["status_token_file"])
    if values["data_test"] is not None and values["data_held_out"] is not None:
        hint = "leave one out: a file of its own to measure on, or a share of data.train"
        raise ConfigError("data.held_out", "set, and so is data.test", hint)
    return NodeConfig(**values)  # type: ignore[arg-type]  # each reader returns its field's type; test_config.py holds it


def _require_token(endpoint: object, token_file: object) -> None:
    if isinstance(endpoint, Endpoint) and not endpoint.is_loopback and token_file is None:
        what = f"{endpoint} can be reached from other machines, and status.token_file is not set"
        hint = "make a token, (umask 077; openssl rand -hex 32 > status.token), and name the file there"
        raise ConfigError("status.listen", what, hint)


def _from_file(setting: Setting, table: Mapping[str, object], base: Path) -> object:
    raw = table.get(setting.name, setting.default)
    return None if raw is None else setting.read(raw, base, setting.name)


def _read_file(path: Path) -> dict[str, object]:
    """Values by dotted name.

    Raises ConfigError if the file cannot be read or has a key that means nothing.
    """
    try:
        with open(path, encoding="utf-8", opener=regular_only) as file:
            text = file.read()
        if holds_secret_key(text):
            hint = "keep it to yourself; --config takes the node.toml beside it"
            raise ConfigError(str(path), "this is a secret key, not a config", hint)
        table = tomllib.loads(text)
    except FileNotFoundError:
        raise ConfigError(
            str(path), "no such file", "`p2pfl init DIR` writes a config to start from"
        ) from None
    except OSError as error:
        raise ConfigError(
            str(path), f"cannot be read: {reason_of(error)}", "check the path and its permissions"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(
            str(path), "not a text file in UTF-8", "`p2pfl init DIR` writes a config to start from"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            str(path), f"not valid TOML: {str(error).lower()}", "text goes in quotes, lists in []"
        ) from None
    if "task" in table and "privacy" in table:
        hint = "make a manifest of it with `p2pfl federation create`, and give --config the node's own file"
        raise ConfigError(str(path), "this file defines a federation, not a node", hint)
    flat = _flatten(table)
    for name in flat:
        if name not in _BY_NAME:
            raise ConfigError(_printable(name), f"unknown key in {path}", _suggestion(name))
    return flat


def _suggestion(name: str) -> str:
    """What may have been meant by an unknown ``name``: a key in another table, one almost equal, or any."""
    key = name.rpartition(".")[2]
    elsewhere = [setting for setting in SETTINGS if setting.key == key]
    if not elsewhere:
        return suggest(name, _BY_NAME)
    meant = elsewhere[0]
    place = f"under [{meant.table}]" if meant.table else "above all tables"
    return f"did you mean {meant.name}? it belongs {place}"


def _flatten(table: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    sections = {setting.table for setting in SETTINGS}
    for name, value in table.items():
        if isinstance(value, dict) and (value or name in sections):
            flat.update({f"{name}.{key}": inner for key, inner in value.items()})
        else:
            flat[name] = value
    return flat


def _printable(name: str) -> str:
    return name if name.isprintable() else shown(name)


def example_toml(values: Mapping[str, object] | None = None) -> str:
    """The config that `p2pfl init` writes: every key explained, and those without a default commented out.

    ``values``, by field name, are written in the place of defaults and examples; None means not to.
    """
    lines = ["# Configuration of one p2pfl node. Paths are relative to this file."]
    table = ""
    for setting in SETTINGS:
        if setting.table != table:
            table = setting.table
            lines += ["", f"[{table}]"]
        else:
            lines.append("")
        lines.append(f"# {setting.help}")
        value = (values or {}).get(setting.field)
        example = _EXAMPLES.get(setting.field) or f"{setting.key} = {_toml(setting.default)}"
        lines.append(example if value is None else f"{setting.key} = {_toml(value)}")
    return "\n".join(lines) + "\n"


_EXAMPLES = {
    "federation": '# id = "hearts.manifest"',
    "ticket": '# ticket = "ticket.txt"',
    "backbone": '# backbone = "backbone.safetensors"',
    "initial": '# initial = "initial.safetensors"',
    "announce": '# announce = ["/dns4/p2pfl.hospital.example/tcp/4001"]',
    "bootstrap": f'# bootstrap = ["/ip4/192.0.2.1/tcp/4001/p2p/{_EXAMPLE_PEER}"]',
    "rendezvous": f'# rendezvous = ["/ip4/192.0.2.2/tcp/4002/p2p/{_EXAMPLE_PEER}"]',
    "network_key": '# key_file = "network.key"',
    "data_train": 'train = "train.csv"',
    "data_test": '# test = "test.csv"',
    "data_held_out": "# held_out = 0.2",
    "status_token_file": '# token_file = "status.token"',
    "threads": "# threads = 2",
    "memory": '# memory = "4 GB"',
}


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value), ensure_ascii=False)
