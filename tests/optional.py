"""Frameworks that a Python may do without, and the mark of the tests that need one."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

import pytest

torch: Any = importlib.import_module("torch") if find_spec("torch") else None

needs_torch = pytest.mark.skipif(torch is None, reason="torch is not installed")
