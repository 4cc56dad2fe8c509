"""What the documentation shows is run, word for word."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import feedline

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MODULES = ["feedline"] + [
    module.name for module in pkgutil.walk_packages(feedline.__path__, "feedline.")
]
BRIDGES = {"feedline.torch": "torch"}


def needed(page: Path) -> list[str]:
    """What the code on a page imports and a Python may lack: ``<!-- needs: torch -->``."""
    return re.findall(r"<!-- needs: (\w+) -->", page.read_text())


RUNNABLE = [page for page in PAGES if all(map(find_spec, needed(page)))]
TESTABLE = [name for name in MODULES if find_spec(BRIDGES.get(name, "feedline"))]


@pytest.mark.parametrize("name", TESTABLE)
def test_docstring_examples_show_what_happens(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_documented_examples_of_the_utilities_show_what_happens() -> None:
    examples = ROOT / "tests" / "utils" / "documented_examples.txt"
    result = doctest.testfile(str(examples), module_relative=False)
    assert result.attempted > 30
    assert result.failed == 0


@pytest.mark.parametrize("page", RUNNABLE, ids=lambda page: page.name)
def test_code_on_the_page_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    ):
        exec(compile(code, f"{page.name}[{number}]", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
