"""Which tests of the engine there are, where a framework is missing."""

from __future__ import annotations

from importlib.util import find_spec

# Not skipped but left out: where everything is installed, a skip is a failure.
collect_ignore = []
if not (find_spec("lightning") and find_spec("accelerate")):
    collect_ignore.append("test_training_loops.py")
if not find_spec("jax"):
    collect_ignore.append("test_jax.py")
