"""Hypothesis tries the same examples on every run, and a slow machine is no failure."""

import os

# Before NumPy is loaded: its threads would spend more time on meeting than on products as small as those here.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")
