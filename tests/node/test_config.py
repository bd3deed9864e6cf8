"""Configuration: three sources, one order, and a refusal that names the key and the remedy."""

import dataclasses
import tomllib
import typing
from pathlib import Path

import pytest

from p2pfl.crypto.identity import Identity
from p2pfl.node.config import SETTINGS, Endpoint, NodeConfig, example_toml, load_config
from p2pfl.node.errors import ConfigError

PEER = Identity.from_seed(bytes(32)).peer_id
MEMBER = f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}"
ID = "ab" * 32

FULL = f"""
identity = "keys/me.key"
state = "/var/lib/p2pfl"

[federation]
id = "hearts.manifest"
ticket = "ticket.txt"

[model]
backbone = "backbone.safetensors"
initial = "initial.safetensors"

[network]
listen = ["/ip4/127.0.0.1/tcp/0", "/ip6/::/tcp/4001"]
announce = ["/dns4/p2pfl.hospital.example/tcp/443"]
bootstrap = ["{MEMBER}"]
mdns = true
rendezvous = ["{MEMBER}"]
relay = true
key_file = "network.key"

[data]
train = "train.csv"
test = "../test.csv"

[status]
listen = "[::1]:9464"
token_file = "status.token"

[limits]
threads = 2
memory = "4 GB"

[log]
level = "debug"
json = true
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(FULL)
    return path


def load(path: Path | None, environ: dict[str, str] | None = None, **options: object) -> NodeConfig:
    return load_config(path, environ or {}, options)


def refused(path: Path | None, environ: dict[str, str] | None = None, **options: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(path, environ, **options)
    error = caught.value
    for text in (error.what, error.hint):
        assert text
        assert text.isprintable()
        assert not text.endswith(".")
    return error


def test_every_key_is_read_and_paths_are_relative_to_the_file(file: Path) -> None:
    assert load(file) == NodeConfig(
        identity=file.parent / "keys/me.key",
        state=Path("/var/lib/p2pfl"),
        listen=("/ip4/127.0.0.1/tcp/0", "/ip6/::/tcp/4001"),
        announce=("/dns4/p2pfl.hospital.example/tcp/443",),
        bootstrap=(MEMBER,),
        mdns=True,
        rendezvous=(MEMBER,),
        relay=True,
        network_key=file.parent / "network.key",
        federation=file.parent / "hearts.manifest",
        ticket=file.parent / "ticket.txt",
        backbone=file.parent / "backbone.safetensors",
        initial=file.parent / "initial.safetensors",
        data_train=file.parent / "train.csv",
        data_test=file.parent / "../test.csv",
        data_held_out=None,
        status_listen=Endpoint("::1", 9464),
        status_token_file=file.parent / "status.token",
        threads=2,
        memory=4 * 10**9,
        log_level="debug",
        json_logs=True,
    )


def test_defaults(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[data]\ntrain = "d.csv"\n')
    assert load(path) == NodeConfig(
        identity=tmp_path / "identity.key",
        state=tmp_path / "state",
        listen=("/ip4/0.0.0.0/tcp/4001",),
        announce=(),
        bootstrap=(),
        mdns=False,
        rendezvous=(),
        relay=False,
        network_key=None,
        federation=None,
        ticket=None,
        backbone=None,
        initial=None,
        data_train=tmp_path / "d.csv",
        data_test=None,
        data_held_out=None,
        status_listen=Endpoint("127.0.0.1", 0),
        status_token_file=None,
        threads=None,
        memory=None,
        log_level="info",
        json_logs=False,
    )


def test_variables_win_over_the_file_and_options_over_both(file: Path) -> None:
    environ = {"P2PFL_LOG_LEVEL": "error", "P2PFL_STATE": "here", "P2PFL_JSON_LOGS": "false", "HOME": "/x"}
    config = load(file, environ, state="there", listen=["/ip4/10.0.0.1/tcp/1"], ticket=None)
    assert config.log_level == "error"
    assert config.state == Path("there")
    assert config.json_logs is False
    assert config.listen == ("/ip4/10.0.0.1/tcp/1",)
    assert config.ticket == file.parent / "ticket.txt"
    assert load(file, environ).state == Path("here")


def test_a_variable_holds_a_list_separated_by_commas(file: Path) -> None:
    config = load(file, {"P2PFL_BOOTSTRAP": f" {MEMBER}, {MEMBER} ", "P2PFL_ANNOUNCE": ""})
    assert config.bootstrap == (MEMBER, MEMBER)
    assert config.announce == ()


def test_no_file_is_needed() -> None:
    config = load(None, {"P2PFL_DATA_TRAIN": "train.csv"}, federation=ID.upper())
    assert config.federation == ID
    assert config.identity == Path("identity.key")


def test_a_federation_is_an_id_or_a_file(file: Path) -> None:
    assert load(file, federation=ID).federation == ID
    assert load(file, federation="hearts.manifest").federation == Path("hearts.manifest")


def test_a_part_of_an_id_is_not_taken_for_a_file(file: Path) -> None:
    for part in (ID[:12], ID[:-1], f"{ID[:12]}…", f"{ID[:12]}...", ID + "ab"):
        error = refused(file, federation=part)
        assert "is not a whole id" in error.what
        assert "all 64 hexadecimal digits" in error.hint
    file.write_text(FULL.replace("hearts.manifest", "deadbeef"))
    assert refused(file).field == "federation.id"
    (file.parent / "deadbeef").touch()
    assert load(file).federation == file.parent / "deadbeef"


WRONG = [
    ('state = "/var/lib/p2pfl"', "state = 5", "state"),
    ('state = "/var/lib/p2pfl"', 'state = ""', "state"),
    ('state = "/var/lib/p2pfl"', 'stat = "x"', "stat"),
    ('id = "hearts.manifest"', "id = true", "federation.id"),
    ('"/ip6/::/tcp/4001"', '"/ip6/::/udp/4001"', "network.listen"),
    ('"/ip6/::/tcp/4001"', '"/ip6/::/tcp/65536"', "network.listen"),
    ('"/ip6/::/tcp/4001"', '"0.0.0.0:4001"', "network.listen"),
    ('"/ip6/::/tcp/4001"', '"/dns4/a.example/tcp/1"', "network.listen"),
    ('"/ip6/::/tcp/4001"', f'"{MEMBER}"', "network.listen"),
    ('["/ip4/127.0.0.1/tcp/0", "/ip6/::/tcp/4001"]', "[]", "network.listen"),
    ('["/ip4/127.0.0.1/tcp/0", "/ip6/::/tcp/4001"]', "4001", "network.listen"),
    (f'bootstrap = ["{MEMBER}"]', 'bootstrap = ["/ip4/192.0.2.1/tcp/4001"]', "network.bootstrap"),
    (f'bootstrap = ["{MEMBER}"]', f'bootstrap = ["{MEMBER}x"]', "network.bootstrap"),
    (f'bootstrap = ["{MEMBER}"]', "bootstrap = [1]", "network.bootstrap"),
    (f'bootstrap = ["{MEMBER}"]', 'bootstrap = ["\\u001b[2J"]', "network.bootstrap"),
    ('train = "train.csv"', 'tarin = "train.csv"', "data.tarin"),
    ('level = "debug"', 'level = "loud"', "log.level"),
    ('"[::1]:9464"', '"localhost:9464"', "status.listen"),
    ('"[::1]:9464"', '"127.0.0.1"', "status.listen"),
    ('"[::1]:9464"', '"127.0.0.1:65536"', "status.listen"),
    ('"[::1]:9464"', "9464", "status.listen"),
    ("threads = 2", "threads = 0", "limits.threads"),
    ("threads = 2", "threads = true", "limits.threads"),
    ("threads = 2", 'threads = "two"', "limits.threads"),
    ('memory = "4 GB"', "memory = 4", "limits.memory"),
    ('memory = "4 GB"', 'memory = "4 kB"', "limits.memory"),
    ('memory = "4 GB"', 'memory = "100 MB"', "limits.memory"),
    ('memory = "4 GB"', 'memory = "2000000 GiB"', "limits.memory"),
    ("json = true", 'json = "maybe"', "log.json"),
    ("json = true", "json = 1", "log.json"),
    ("[log]", "[logs]", "logs.level"),
    ('[log]\nlevel = "debug"\njson = true', "[logs]", "logs"),
]


@pytest.mark.parametrize(("old", "new", "field"), WRONG)
def test_what_is_wrong_is_refused_by_key(file: Path, old: str, new: str, field: str) -> None:
    assert old in FULL
    file.write_text(FULL.replace(old, new, 1))
    assert refused(file).field == field


def test_status_pages_beyond_this_machine_need_a_token(file: Path) -> None:
    file.write_text(FULL.replace('token_file = "status.token"', ""))
    for listen in ("0.0.0.0:9464", "[::]:0", "192.0.2.1:9464"):
        error = refused(file, status_listen=listen)
        assert error.field == "status.listen"
        assert "can be reached from other machines" in error.what
        assert load(file, status_listen=listen, status_token_file="token").status_listen is not None
    assert load(file, status_listen="127.8.0.1:9464").status_listen == Endpoint("127.8.0.1", 9464)
    assert load(file, status_listen="off").status_listen is None


def test_limits_may_come_from_variables(file: Path) -> None:
    config = load(file, {"P2PFL_THREADS": "3", "P2PFL_MEMORY": "1GiB"})
    assert (config.threads, config.memory) == (3, 1 << 30)


def test_an_unknown_key_is_answered_with_the_closest_one(file: Path) -> None:
    file.write_text(FULL.replace("bootstrap =", "boostrap ="))
    assert "did you mean network.bootstrap?" in refused(file).hint
    file.write_text(FULL)
    for old, new, meant in (
        ("[log]", "[logs]", "did you mean log.level? it belongs under [log]"),
        ("[data]\n", "", "did you mean data.train? it belongs under [data]"),
        ("[log]\n", '[log]\nstate = "x"\n', "did you mean state? it belongs above all tables"),
    ):
        file.write_text(FULL.replace(old, new))
        assert meant in refused(file).hint
    file.write_text(FULL)
    assert "did you mean P2PFL_LOG_LEVEL?" in refused(file, {"P2PFL_LOGLEVEL": "info"}).hint


def test_variables_and_options_are_blamed_by_their_own_names(file: Path) -> None:
    assert refused(file, {"P2PFL_LOG_LEVEL": "loud"}).field == "P2PFL_LOG_LEVEL"
    assert refused(file, listen=["here"]).field == "--listen"


def test_a_port_that_is_none_is_named(file: Path) -> None:
    file.write_text(FULL.replace("/ip6/::/tcp/4001", "/ip6/::/tcp/65536"))
    assert "no port is 65536: the largest is 65535" in refused(file).what


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, file: Path) -> None:
    assert "no such file" in refused(tmp_path / "gone.toml").what
    assert "cannot be read" in refused(tmp_path).what
    file.write_text("state = [")
    assert "not valid toml" in refused(file).what.lower()
    file.write_bytes(b"\xff\xfe")
    assert "UTF-8" in refused(file).what
    file.write_text("[task]\n[privacy]\n")
    assert "defines a federation" in refused(file).what
    file.write_text("P2PFL-SECRET-KEY-1ABC")
    assert "secret key" in refused(file).what
    assert "ABC" not in refused(file).what + refused(file).hint


def test_an_empty_value_is_said_to_be_empty(file: Path) -> None:
    for empty in ('""', '"  "'):
        file.write_text(FULL.replace('"train.csv"', empty))
        error = refused(file)
        assert error.what == "data.train: is empty"
        assert "quotes" not in error.hint
    assert refused(None, {"P2PFL_TICKET": ""}, data_train="x").what == "P2PFL_TICKET: is empty"


def test_a_key_or_a_ticket_in_place_of_its_file_is_recognised(file: Path) -> None:
    for field in ("identity", "ticket", "federation", "data_train"):
        error = refused(file, None, **{field: "P2PFL-SECRET-KEY-1ABC"})
        assert "a secret key itself" in error.what
        assert "ABC" not in error.what + error.hint
        assert "a ticket itself" in refused(file, None, **{field: "p2pfl-ticket-v1:AAAA"}).what
    assert "ABC" not in refused(file, bootstrap=["p2pfl-secret-key-1ABC"]).what


def test_a_home_directory_is_found(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load(file, state="~/state").state == Path("/home/somebody/state")


def test_the_example_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(example_toml())
    bare = tmp_path / "bare.toml"
    bare.write_text('[data]\ntrain = "train.csv"\n')
    assert load(path) == load(bare)
    uncommented = example_toml().replace("12D3KooW…", PEER).replace("\n# id =", "\nid =")
    for setting in SETTINGS:
        uncommented = uncommented.replace(f"\n# {setting.key} = ", f"\n{setting.key} = ")
        assert f"# {setting.help}\n" in uncommented
    for one, other in (("test", "held_out"), ("held_out", "test")):  # there is only one of them
        path.write_text(uncommented.replace(f"\n{other} = ", f"\n# {other} = "))
        config = load(path)
        assert config.federation == tmp_path / "hearts.manifest"
        assert getattr(config, f"data_{one}") is not None
    table = tomllib.loads(uncommented)
    for setting in SETTINGS:
        assert setting.key in (table[setting.table] if setting.table else table)


def test_a_share_to_hold_out(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[data]\ntrain = "d.csv"\nheld_out = 0.2\n')
    assert load(path).data_held_out == 0.2
    assert load(path, {"P2PFL_DATA_HELD_OUT": "0.25"}).data_held_out == 0.25
    for share in ("0", "1", "-0.1", "nan", "20%", 1, 0.0, True):
        assert "a share of the records" in refused(path, data_held_out=share).what
    assert refused(path, data_test="t.csv").what == "data.held_out: set, and so is data.test"


def test_settings_and_fields_are_the_same_and_of_the_right_type(file: Path) -> None:
    fields = sorted(field.name for field in dataclasses.fields(NodeConfig))
    assert sorted(setting.field for setting in SETTINGS) == fields
    config = load(file)
    for name, hint in typing.get_type_hints(NodeConfig).items():
        allowed = typing.get_args(hint) if typing.get_origin(hint) is not tuple else (tuple,)
        assert isinstance(getattr(config, name), tuple(a for a in allowed if isinstance(a, type)) or hint)


def test_every_setting_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    for setting in SETTINGS:
        for word in (setting.name, setting.variable, setting.option):
            assert f"`{word}" in text, word
        assert setting.help.split(";")[0].split(":")[0] in text, setting.name
