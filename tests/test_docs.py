"""What the documentation shows is run, word for word, or stands in the file it is from."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from importlib.util import find_spec
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

import feedline

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
MODULES = ["feedline"] + [
    module.name for module in pkgutil.walk_packages(feedline.__path__, "feedline.")
]
BRIDGES = {"feedline.torch": "torch"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def needed(page: Path) -> list[str]:
    """What the code on a page imports and a Python may lack: ``<!-- needs: torch -->``."""
    return re.findall(r"<!-- needs: (\w+) -->", page.read_text())


def places(text: str) -> set[str]:
    """Where a link may lead on a page: its headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings}


def excerpts(text: str) -> Iterator[tuple[str | None, str]]:
    """The blocks of a page that quote a file, and the file's name.

    They are marked ``py``, so that they are not run, and have a line before them:
    ``<!-- from: examples/train_digits.py -->``.
    """
    found = re.finditer(
        r"^(?:<!-- from: (\S+) -->\n)?```py\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    )
    return ((block[1], block[2]) for block in found)


def stands_in(excerpt: str, source: str) -> bool:
    """Whether a file has these lines, one below the other, however far indented.

    Empty lines do not count: ruff puts two between functions on a page, where the file
    has one between methods.
    """
    wanted = _full_lines(dedent(excerpt))
    lines = _full_lines(source)
    return any(
        _full_lines(dedent("\n".join(lines[start : start + len(wanted)]))) == wanted
        for start in range(len(lines) - len(wanted) + 1)
    )


def _full_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


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


@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_code_on_the_page_runs(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, code in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    ):
        exec(compile(code, f"{page.name}[{number}]", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    prose = re.sub(
        r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE
    )
    for target, place in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", prose):
        there = page.parent / target if target else page
        assert there.exists(), f"{page.name} links to {target}"
        assert not place or place in places(there.read_text()), f"{target}#{place}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_excerpts_stand_in_the_file_that_the_page_names(page: Path) -> None:
    for name, excerpt in excerpts(page.read_text()):
        assert name is not None, f"no <!-- from: ... --> above\n{excerpt}"
        assert stands_in(excerpt, (ROOT / name).read_text()), (
            f"{name} has no\n{excerpt}"
        )


def test_excerpt_that_was_changed_cut_short_or_not_named_is_seen() -> None:
    source = "def f(x):\n    if x:\n        return 1\n\n    return 2\n"
    assert stands_in("if x:\n    return 1\n\nreturn 2\n", source)
    assert not stands_in("if x:\n    return 2\n", source)
    assert not stands_in("if x:\nreturn 1\n", source)
    assert not stands_in("if x:\n    return 2\n\nreturn 2\n\nreturn 3\n", source)
    assert not stands_in("def f(x):\n    return 2\n", source)
    page = "<!-- from: a.py -->\n```py\na\n```\n\n```py\nb\n```\n```python\nc\n```\n"
    assert list(excerpts(page)) == [("a.py", "a\n"), (None, "b\n")]


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_every_example_is_run_by_a_test_and_has_a_page(example: Path) -> None:
    assert (ROOT / "tests" / "examples" / f"test_{example.name}").exists()
    assert any(f"python {name_of(example)}" in page.read_text() for page in PAGES)
