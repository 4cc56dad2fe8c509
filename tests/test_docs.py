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


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_show_what_happens(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_the_documented_examples_of_the_utilities_show_what_happens() -> None:
    examples = ROOT / "tests" / "utils" / "documented_examples.txt"
    result = doctest.testfile(str(examples), module_relative=False)
    assert result.attempted > 30
    assert result.failed == 0


def can_run(page: Path) -> bool:
    """Whether everything is installed that the page says it needs, on its first line."""
    needs = re.match(r"<!-- needs: (.*) -->", page.read_text())
    return needs is None or all(map(find_spec, needs[1].split(", ")))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if can_run(page)], ids=lambda page: page.name
)
def test_code_on_the_page_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    ):
        exec(compile(code, f"{page.name}[{number}]", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
