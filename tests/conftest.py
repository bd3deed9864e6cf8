"""Hypothesis tries the same examples on every run, and a slow machine is no failure."""

from hypothesis import settings

settings.register_profile("deterministic", derandomize=True, deadline=None)
settings.load_profile("deterministic")
