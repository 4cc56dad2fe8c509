"""The house has one total order: a room imports only rooms above it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
LOADER, UTILS = ROOT / "loader", ROOT / "utils"

ORDER = [
    "errors",
    "seeding",
    "default_seed",
    "dataset",
    "checks",
    "options",
    "records",
    "stats",
    "failures",
    "plan",
    "progress",
    "delivery",
    "inplace",
    "collate",
    "leaves",
    "samples",
    "build",
    "pickling",
    "remote",
    "mapped",
    "arena",
    "board",
    "slots",
    "codec",
    "snapshot",
    "process_settings",
    "worker",
    "pool",
    "thread_pool",
    "postmortem",
    "quiet",
    "starting",
    "frames",
    "pipes",
    "crew",
    "pace",
    "dispatch",
    "process_pool",
    "pools",
    "epoch",
    "course",
    "turns",
    "engine",
    "__init__",
    "keras_batches",
    "keras_call",
    "keras_passes",
    "keras",
    "device",
    "torch",
]
UTILS_ORDER = [
    "console",
    "cells",
    "metrics",
    "progress",
    "progbar",
    "history",
    "training",
    "callbacks",
    "fit",
    "kinds",
    "labels",
    "arrays",
    "packing",
    "nests",
    "views",
    "tfdata",
    "split",
    "download_errors",
    "checksum",
    "body",
    "ftp",
    "web",
    "source",
    "partial",
    "transfer",
    "place",
    "inside",
    "archive",
    "unpack",
    "download",
    "__init__",
]
FRAMEWORKS = {"torch", "keras", "jax", "tensorflow", "ray"}
HEAVY = FRAMEWORKS | {"multiprocessing", "cloudpickle", "psutil", "requests", "sklearn"}
ALLOWED_SECONDS = (
    0.15  # for ``import feedline`` on top of numpy; it takes a third of it
)


def rooms(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.py"))


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Every module that the code imports, anywhere; relative ones begin with dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            if node.module is None or node.module == "feedline":
                joint = "" if node.module is None else "."
                yield from (f"{base}{joint}{alias.name}" for alias in node.names)


def siblings(room: Path) -> set[str]:
    """Rooms of the same folder that a room imports, however it names them."""
    known = {path.stem for path in rooms(room.parent)}
    found = set()
    for name in imports_of(ast.parse(room.read_text())):
        if name.startswith("."):
            stem = name.lstrip(".").split(".")[0]
            found.add(stem or "__init__")
        elif name.split(".")[0] == "feedline":
            stem = [*name.split("."), ""][1]
            found.add(stem if stem in known else "__init__")
    return found & known


@pytest.mark.parametrize(
    ("folder", "order"),
    [(LOADER, ORDER), (UTILS, UTILS_ORDER)],
    ids=["loader", "utils"],
)
def test_every_room_has_its_place_in_the_order(folder: Path, order: list[str]) -> None:
    assert sorted(order) == sorted(path.stem for path in rooms(folder))
    assert len(order) == len(set(order))


def test_the_map_of_the_engine_shows_every_room_in_its_place() -> None:
    page = (LOADER / "README.md").read_text()
    shown = re.findall(r"^\| `(\w+)\.py` \|", page, re.MULTILINE)
    assert shown == [name for name in ORDER if name != "__init__"]


@pytest.mark.parametrize("name", ORDER)
def test_a_room_of_the_engine_imports_only_rooms_above_it(name: str) -> None:
    above = set(ORDER[: ORDER.index(name)])
    assert siblings(LOADER / f"{name}.py") - above == set()


@pytest.mark.parametrize("name", UTILS_ORDER)
def test_a_room_of_the_utilities_imports_only_rooms_above_it(name: str) -> None:
    above = set(UTILS_ORDER[: UTILS_ORDER.index(name)])
    # The engine is one house, seen from here; its name is taken for this __init__.
    assert siblings(UTILS / f"{name}.py") - above - {"__init__"} == set()


def test_the_check_would_see_an_import_in_any_disguise(tmp_path: Path) -> None:
    for name in ("a", "b", "__init__"):
        (tmp_path / f"{name}.py").touch()
    for code in (
        "from .a import x",
        "from . import a",
        "import feedline.a",
        "from feedline.a import x",
        "from feedline import a",
        "def f():\n    from .a import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import x",
    ):
        (tmp_path / "b.py").write_text(code)
        assert "a" in siblings(tmp_path / "b.py"), code
    (tmp_path / "b.py").write_text("from feedline import Loader\nimport os")
    assert siblings(tmp_path / "b.py") == {"__init__"}


def test_the_engine_does_not_know_the_utilities() -> None:
    for room in rooms(LOADER):
        for name in imports_of(ast.parse(room.read_text())):
            if name.split(".")[0] in ("", "feedline"):
                assert "utils" not in name.split("."), room.name
            assert not name.startswith(".."), room.name


def test_the_utilities_use_the_engine_s_public_names_alone() -> None:
    import feedline

    for room in rooms(UTILS):
        for node in ast.walk(ast.parse(room.read_text())):
            if not isinstance(node, ast.ImportFrom) or node.level == 1:
                continue
            assert node.level == 0, room.name
            if node.module is not None and node.module.split(".")[0] == "feedline":
                assert node.module in ("feedline", "feedline.utils"), room.name
                names = {alias.name for alias in node.names}
                assert names <= {*feedline.__all__, "utils"}, room.name


def at_module_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What runs when a module is imported, as far as statements go."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from at_module_level(node.orelse)
            continue
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for name in ("body", "orelse", "finalbody"):
                yield from at_module_level(getattr(node, name, []))
            for handler in getattr(node, "handlers", []):
                yield from at_module_level(handler.body)


@pytest.mark.parametrize(
    "room",
    [*rooms(LOADER), *rooms(UTILS)],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_no_room_imports_a_framework_when_it_is_imported(room: Path) -> None:
    for node in at_module_level(ast.parse(room.read_text()).body):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {name.split(".")[0] for name in imports_of(node)}
            assert not names & FRAMEWORKS, ast.unparse(node)


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("name", ["feedline", "feedline.utils"])
def test_importing_it_brings_no_framework_and_no_process_machinery(name: str) -> None:
    code = f"import json, sys, {name}; print(json.dumps(sorted(sys.modules)))"
    brought = {module.split(".")[0] for module in json.loads(run(code))}
    assert brought & HEAVY == set()


def test_importing_it_is_quick() -> None:
    code = (
        "import time, numpy, numpy.random; start = time.process_time(); "
        "import feedline; print(time.process_time() - start)"
    )
    run(code)  # once for the byte code
    assert min(float(run(code)) for _ in range(7)) < ALLOWED_SECONDS


def test_every_room_opens_with_its_one_job() -> None:
    for room in [*rooms(LOADER), *rooms(UTILS)]:
        opening = ast.get_docstring(ast.parse(room.read_text()))
        assert opening, room.name
        first = opening.splitlines()[0]
        assert first.endswith((".", ":")), room.name
