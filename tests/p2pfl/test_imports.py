"""What the command imports before it has anything to do: nothing heavy, so that help comes at once."""

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "libp2p",
    "numpy",
    "trio",
    "networkx",
    "cryptography",
    "nacl",
    "msgpack",
    "safetensors",
    "matplotlib",
    "dp_accounting",
}


def modules_after(*arguments: str) -> set[str]:
    """Top-level modules loaded in a fresh interpreter after ``p2pfl`` has run with ``arguments``."""
    script = (
        "import sys\n"
        "from p2pfl.cli import main\n"
        "try:\n"
        "    status = main(sys.argv[1:])\n"
        "except SystemExit as ended:\n"
        "    status = ended.code\n"
        "assert status != 1, 'it crashed'\n"
        "print('\\n' + ' '.join(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--version",), (), ("no-such-command",), ("federation", "--help"), ("topology", "--help")],
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert not modules_after(*arguments) & HEAVY


@pytest.mark.parametrize("command", ["init", "node", "demo", "evaluate", "predict", "privacy", "simulate"])
def test_the_help_of_a_command_imports_neither_torch_nor_libp2p(command: str) -> None:
    assert not modules_after(command, "--help") & {"torch", "libp2p", "trio", "dp_accounting"}


def test_the_check_would_notice() -> None:
    assert "argparse" in modules_after("--help")
