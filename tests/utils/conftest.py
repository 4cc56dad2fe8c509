"""What is collected only where its framework is installed."""

from __future__ import annotations

import importlib.util

# Not skipped: a run where every framework counts allows no skipped test, and TensorFlow
# is not one of those.
collect_ignore = (
    []
    if importlib.util.find_spec("tensorflow")
    else ["test_tfdata.py", "test_split_on_tensorflow.py"]
)
