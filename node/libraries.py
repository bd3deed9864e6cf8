"""When the libraries that take long are imported.

Torch is a second of processor time and 200 MB: a node listens before it has it, and imports it on another
thread than the event loop's.
"""

import ctypes
import gc
import importlib.util
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LARGE = ("libtorch_cpu.so", "libtorch_python.so")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""As mallopt(3) calls them."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Python's garbage collector rests meanwhile, and never looks at what there is afterwards: what is
    imported stays, and to look through it again and again is a fifth of the time that importing takes.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def import_torch() -> None:
    """Import all that training needs. On any thread: it does not keep others from working for long."""
    _load_without_the_lock()
    with uncollected():
        import p2pfl.node.training.own_models  # noqa: F401 - for those who import it next
    _give_back_code()
    keep_pages()


def keep_pages() -> None:
    """Of what is freed, glibc keeps up to 64 MiB for whoever asks next. By itself it returns all but a few
    MiB to the system, and a step of training may spend a fifth of its time on having them back.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 25)
        mallopt(_M_TRIM_THRESHOLD, 1 << 26)


def _load_without_the_lock() -> None:
    """Load torch's large libraries, which takes 0.2 s and more, as foreign function calls: Python's lock is
    free meanwhile, as it is not while an extension module is loaded. None of them calls Python as it loads:
    programs in C++ link them, and begin before their Python does.
    """
    found = importlib.util.find_spec("torch")
    if found is not None and found.origin is not None:
        for library in (Path(found.origin).parent / "lib" / name for name in _LARGE):
            if library.exists():  # elsewhere it has another name
                ctypes.CDLL(None).dlopen(os.fsencode(library), os.RTLD_NOW)


def _give_back_code() -> None:
    """Let go of the pages of these libraries' code that only their start has used, up to 80 MB with what the
    kernel maps around them. Whatever is needed again comes back from the system's cache of the file, so code
    that somebody has written to (a debugger, say), which is not as in the file, is left alone.
    """
    smaps = Path("/proc/self/smaps")
    if not smaps.exists():
        return
    libc = ctypes.CDLL(None)
    for line in smaps.read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            place, code = first, rest[0] == "r-xp" and Path(rest[-1]).name in _LARGE
        elif first == "Anonymous:" and code and rest[0] == "0":
            start, end = (int(edge, 16) for edge in place.split("-"))
            libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)
