"""Hypothesis tries the same examples on every run, and a slow machine is no failure."""

import os

# Before NumPy is loaded: for products as small as those here its threads meet longer than they multiply.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")
