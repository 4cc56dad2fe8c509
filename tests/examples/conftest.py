"""Which examples are run, where a framework is missing."""

from __future__ import annotations

from importlib.util import find_spec

# Not skipped but left out: where everything is installed, a skip is a failure.
collect_ignore = [] if find_spec("jax") else ["test_jax_cnn.py"]
