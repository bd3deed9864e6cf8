"""What is imported when: a node listens before it has what takes long to import."""

import gc
import platform
import subprocess
import sys

import pytest

from p2pfl.node.libraries import uncollected

LISTENING = """
import sys
import p2pfl.node.daemon, p2pfl.node.start
heavy = {"torch", "scipy", "dp_accounting", "pandas", "pyarrow", "matplotlib"}
print(sorted(heavy & sys.modules.keys()))
"""
TRAINING = """
import sys
import numpy as np
from p2pfl.node.libraries import import_torch
import_torch()
from p2pfl.gossip.manifest import DenseModel
from p2pfl.node.training.models import Model
print(Model(DenseModel("logistic"), 3).summed_gradient(np.zeros(4), np.ones((2, 3)), np.zeros(2), 1.0).any())
print("sympy" in sys.modules)
"""
LOADED = """
import sys
from pathlib import Path
from p2pfl.node import libraries
libraries._load_without_the_lock()
mapped = {Path(line.split()[-1]).name for line in open("/proc/self/maps")}
print(sorted(mapped & {"libtorch_cpu.so", "libtorch_python.so"}))
print("torch" in sys.modules)
"""
IDLE = """
import re
from p2pfl.node.libraries import import_torch
import_torch()
mapped = re.split(r"^(?=[0-9a-f]+-)", open("/proc/self/smaps").read(), flags=re.MULTILINE)
code = [each for each in mapped if " r-xp " in each and "libtorch_cpu.so" in each]
print([int(re.search(r"^Rss: +([0-9]+) kB", each, re.MULTILINE)[1]) < 4096 for each in code])
import torch
print(torch.ones(2, 3) @ torch.ones(3))
"""
KEPT = """
import resource
import numpy as np
from p2pfl.node.libraries import keep_pages

def taken(mib):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for each in [np.ones(1 << 17) for _ in range(mib)]:
        del each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

keep_pages()
print(taken(48) > 10_000, taken(48) < 100)
"""


def said_by(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_node_can_listen_before_torch_and_scipy_are_here() -> None:
    assert said_by(LISTENING) == ["[]"]


def test_training_brings_torch_along_but_no_computer_algebra() -> None:
    assert said_by(TRAINING) == ["True", "False"]


def test_torchs_large_libraries_are_loaded_while_python_goes_on() -> None:
    """As foreign functions, before the extension module that would load them with Python's lock."""
    assert said_by(LOADED) == ["['libtorch_cpu.so', 'libtorch_python.so']", "False"]


def test_the_collector_rests_while_libraries_are_imported() -> None:
    with uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.unfreeze()


def test_code_that_only_the_import_needed_is_given_back_and_comes_again() -> None:
    assert said_by(IDLE) == ["[True]", "tensor([3., 3.])"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have other habits")
def test_what_a_step_frees_the_next_one_has_without_asking_the_system() -> None:
    assert said_by(KEPT) == ["True True"]
