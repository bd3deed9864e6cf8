"""The direction of imports: topologies, crypto → gossip → node → p2pfl. Arrows point to the importer; nothing
points back. And the packaging: every dependency pinned, every file in the wheel and the source distribution.
"""

import ast
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LAYERS = ("topologies", "crypto", "gossip", "node", "p2pfl")
MAY_IMPORT = {
    "topologies": {"topologies"},
    "crypto": {"crypto"},
    "gossip": {"gossip", "crypto", "topologies"},
    "node": {"node", "gossip", "crypto", "topologies"},
    "p2pfl": {"p2pfl", "node", "gossip", "crypto", "topologies"},
}
# What is outside the package and the standard library. libp2p and torch have narrower homes below.
THIRD_PARTY = {
    "topologies": {"numpy", "networkx"},
    "crypto": {"numpy", "nacl", "cryptography", "base58", "mpmath"},
    "gossip": {"numpy", "msgpack", "networkx"},
    "node": {
        "numpy",
        "trio",
        "libp2p",
        "multiaddr",
        "torch",
        "safetensors",
        "dp_accounting",
        "cryptography",
        "nacl",
        "Crypto",
        "pyarrow",
        "PIL",
        "h11",
        "prometheus_client",
        "zeroconf",
    },
    "p2pfl": {"numpy", "networkx", "torch", "matplotlib", "pyarrow", "ray"},
}
# A machine is handed its time and its randomness, and touches neither disk nor network.
NO_WORLD = {
    "time",
    "random",
    "secrets",
    "os",
    "socket",
    "threading",
    "asyncio",
    "subprocess",
    "pathlib",
    "shutil",
    "select",
}


def files(layer: str) -> list[Path]:
    return sorted((ROOT / layer).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that ``path`` imports, at any depth of its code, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def runtime_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Those of :func:`imports` that happen when the code runs, not only when its types are checked."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    checked = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    for line, module in imports(path):
        if not any(block.lineno < line <= (block.body[-1].end_lineno or 0) for block in checked):
            yield line, module


def layer_of(module: str) -> str | None:
    """Which layer ``module`` is in; None if it is not ours."""
    first, _, rest = module.partition(".")
    if first != "p2pfl":
        assert first not in LAYERS, f"{module}: the root folders are installed as p2pfl.{first}"
        return None
    second = rest.partition(".")[0]
    return second if second in LAYERS else "p2pfl"


def below(path: Path, *folders: str) -> bool:
    return any(path.is_relative_to(ROOT / folder) for folder in folders)


def every_file() -> list[Path]:
    return [path for layer in LAYERS for path in files(layer)]


def test_every_layer_is_there() -> None:
    assert all(files(layer) for layer in LAYERS)


def test_every_package_is_installed() -> None:
    declared = PROJECT["tool"]["setuptools"]["packages"]
    folders = [
        path.parent.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("__init__.py")
    ]
    names = {".".join(folder.parts).removeprefix("p2pfl.") for folder in folders} - {"p2pfl"}
    assert sorted(declared) == sorted({"p2pfl"} | {f"p2pfl.{name}" for name in names})


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_downwards(layer: str) -> None:
    wrong = []
    for path in files(layer):
        for line, module in imports(path):
            found = layer_of(module)
            # `from p2pfl import cli` would also name the bare package, which is the face.
            if found is not None and found not in MAY_IMPORT[layer] and module != "p2pfl":
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {module}")
    assert not wrong


@pytest.mark.parametrize("layer", LAYERS)
def test_only_declared_libraries_are_used(layer: str) -> None:
    allowed = THIRD_PARTY[layer] | set(sys.stdlib_module_names) | {"p2pfl"}
    wrong = {
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in files(layer)
        for line, module in runtime_imports(path)
        if module.partition(".")[0] not in allowed
    }
    assert not wrong


def test_gossip_has_no_clock_no_chance_and_no_world() -> None:
    wrong = {
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in files("gossip")
        for line, module in imports(path)
        if module.partition(".")[0] in NO_WORLD or module.startswith("p2pfl.crypto.randomness.system_random")
    }
    assert not wrong


def test_chance_that_repeats_stops_at_simulation() -> None:
    """Noise and masks of a node that anybody can compute hide nothing."""
    repeating = "p2pfl.crypto.randomness.seeded_random"
    simulated = "p2pfl/simulation", "p2pfl/attacks", "p2pfl/commands/privacy_attack.py", "gossip/rehearsal.py"
    wrong = {
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in every_file()
        for line, module in imports(path)
        if module == repeating and not below(path, *simulated)
    }
    assert not wrong


def test_libp2p_stops_at_the_transport() -> None:
    wrong = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in every_file()
        for line, module in imports(path)
        if module.partition(".")[0] == "libp2p" and not below(path, "node/hardened", "node/transport")
    }
    assert not wrong


def test_torch_stops_at_training_and_simulation() -> None:
    wrong = {
        f"{path.relative_to(ROOT)}:{line}"
        for path in every_file()
        for line, module in imports(path)
        if module.partition(".")[0] == "torch" and not below(path, "node/training", "p2pfl/simulation")
    }
    assert not wrong


def test_nothing_is_unpickled_or_evaluated() -> None:
    modules, calls = {"pickle", "marshal", "shelve", "dill", "joblib"}, {"eval", "exec"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in every_file()
        for line, module in imports(path)
        if module.partition(".")[0] in modules
    ]
    wrong += [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.func.id}"
        for path in every_file()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in calls
    ]
    assert not wrong


def test_the_check_itself_sees_what_it_should(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import torch.nn as nn\n"
        "def f():\n    from p2pfl.node import store\n    import time\n"
        "if TYPE_CHECKING:\n    import types_only\nelse:\n    import real\n"
    )
    runtime = ["torch.nn", "p2pfl.node", "p2pfl.node.store", "time", "real"]
    assert sorted(module for _, module in runtime_imports(path)) == sorted(runtime)
    assert sorted(module for _, module in imports(path)) == sorted([*runtime, "types_only"])
    assert layer_of("p2pfl.node.store") == "node"
    assert layer_of("p2pfl.cli") == "p2pfl"
    assert layer_of("numpy") is None
    with pytest.raises(AssertionError, match=r"installed as p2pfl\.node"):
        layer_of("node.store")


def declared_requirements() -> list[Requirement]:
    """What pyproject.toml asks for: to build, to run, to develop."""
    project = PROJECT["project"]
    lines = [*PROJECT["build-system"]["requires"], *project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        lines += extra
    return [Requirement(line) for line in lines]


def pins() -> dict[str, Version]:
    """The lines of constraints.txt, by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    found: dict[str, Version] = {canonicalize_name(name): Version(version) for name, version in pairs}
    assert len(found) == len(pairs), "a package is pinned twice"
    return found


def installed_closure(requirements: list[Requirement]) -> dict[str, Version]:
    """Every distribution that ``requirements`` lead to, at any depth, and its version without local label."""
    found: dict[str, Version] = {}
    waiting, seen = list(requirements), set()
    while waiting:
        requirement = waiting.pop()
        extras = requirement.extras or {""}
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        installed = metadata.distribution(requirement.name)
        found[canonicalize_name(requirement.name)] = Version(Version(installed.version).public)
        for line in installed.requires or []:
            further = Requirement(line)
            marker = further.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(further)
    return found


def test_every_requirement_is_bounded_and_pinned() -> None:
    pinned = pins()
    for requirement in declared_requirements():
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators & {"<", "=="}, f"{requirement} has no upper bound"
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_pins_are_what_is_installed() -> None:
    installed = installed_closure(declared_requirements())
    # The GPU build of PyTorch pins these itself, and differently for each version of CUDA.
    own = {name for name in installed if name.startswith(("cuda-", "nvidia-", "triton"))}
    expected = {name: version for name, version in installed.items() if name not in own}
    # pip is brought to its pin by `make setup`, and nothing requires it.
    assert {name: version for name, version in pins().items() if name != "pip"} == expected


def listed(*options: str) -> set[str]:
    """Files of the clone as ``git ls-files`` lists them, relative to its root."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", *options]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return {name for name in done.stdout.split("\0") if name and (ROOT / name).exists()}


class Built(NamedTuple):
    """Names of files, relative to the root of the wheel, the source distribution and the clone."""

    wheel: set[str]
    source: set[str]
    tracked: set[str]
    untracked: set[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Builds what `make dist` builds, without the network: with the setuptools that torch brings along."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a clone: nothing says which files belong to the project")
    tracked, untracked = listed("--cached"), listed("--others", "--exclude-standard")
    copy = tmp_path_factory.mktemp("clone")
    for name in tracked | untracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--quiet", "--no-isolation"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (copy / "dist").glob("*.whl")
    (source,) = (copy / "dist").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(source) as tar:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        return Built(names, {name.partition("/")[2] for name in tar.getnames()}, tracked, untracked)


def installed_names(files: set[str]) -> set[str]:
    """Where those of ``files`` that belong to a package are installed."""
    ours = {name for name in files if name.partition("/")[0] in LAYERS}
    return {name if name.startswith("p2pfl/") else f"p2pfl/{name}" for name in ours}


def test_the_wheel_holds_the_packages_and_nothing_else(built: Built) -> None:
    assert "p2pfl/py.typed" in built.wheel
    assert installed_names(built.tracked) <= built.wheel
    assert built.wheel <= installed_names(built.tracked | built.untracked)


def test_the_source_distribution_holds_the_clone(built: Built) -> None:
    assert built.tracked <= built.source
