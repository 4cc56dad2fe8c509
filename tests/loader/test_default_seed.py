"""One seed behind every global generator and every loader that has none of its own."""

from __future__ import annotations

import json
import random
import secrets
import subprocess
import sys
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import feedline.utils
from feedline import Loader, draw_seed, set_random_seed
from feedline import default_seed as room
from tests.optional import needs_torch, torch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST = 5426587384001987823  # that is drawn after set_random_seed(7)


@pytest.fixture(autouse=True)
def _put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin each test unseeded, and give the global generators back."""
    monkeypatch.setattr(room, "_stream", room.SeedStream(None))
    python, legacy = random.getstate(), np.random.get_state()
    tensor = None if torch is None else torch.get_rng_state()
    yield
    random.setstate(python)
    np.random.set_state(legacy)
    if torch is not None:
        torch.set_rng_state(tensor)


def draws() -> list[Any]:
    """What every generator gives next."""
    drawn: list[Any] = [random.random(), np.random.random(), draw_seed()]
    if torch is not None:
        drawn.append(torch.rand(1).item())
    return drawn


def order(**options: Any) -> list[int]:
    """How a loader without a seed shuffles."""
    with Loader(range(1000), workers=0, shuffle=True, **options) as loader:
        return list(loader)


# ---- what it seeds -------------------------------------------------------------------


def test_the_same_seed_gives_the_same_draws_of_every_generator() -> None:
    set_random_seed(7)
    first = draws()
    others = draws()
    set_random_seed(7)
    assert draws() == first
    set_random_seed(8)
    eights = draws()
    for mine, later, eight in zip(first, others, eights, strict=True):
        assert len({mine, later, eight}) == 3


@pytest.mark.parametrize(
    ("given", "number"),
    [(True, 1), (False, 0), (np.int64(5), 5), (np.uint8(5), 5), (2**32 - 1, 2**32 - 1)],
)
def test_whatever_is_an_integer_is_a_seed(given: Any, number: int) -> None:
    set_random_seed(number)
    expected = draws()
    set_random_seed(given)
    assert draws() == expected


@pytest.mark.parametrize(
    "bad", [-1, 2**32, 10**30, 1.0, np.float64(3), "7", None, [7], np.array([7]), 1j]
)
def test_a_bad_seed_is_named_and_changes_nothing(bad: Any) -> None:
    set_random_seed(7)
    expected = draws()
    set_random_seed(7)
    with pytest.raises(
        ValueError, match=r"^seed must be an integer from 0 to 2\*\*32 - 1"
    ):
        set_random_seed(bad)
    assert draws() == expected


def test_a_generator_that_the_user_gave_to_numpy_is_seeded_too() -> None:
    legacy: Any = np.random
    before = legacy.get_bit_generator()
    legacy.set_bit_generator(np.random.PCG64(0))
    try:
        set_random_seed(7)
        first = np.random.random()
        set_random_seed(7)
        assert np.random.random() == first
    finally:
        legacy.set_bit_generator(before)


def test_new_generators_of_numpy_stay_fresh() -> None:
    set_random_seed(7)
    first = np.random.default_rng().random()
    set_random_seed(7)
    assert np.random.default_rng().random() != first


def test_it_is_one_of_the_utilities_too() -> None:
    assert feedline.utils.set_random_seed is set_random_seed


# ---- loaders -------------------------------------------------------------------------


def test_loaders_without_a_seed_repeat_themselves_from_run_to_run() -> None:
    set_random_seed(7)
    first, second = order(), order()
    assert first != second
    set_random_seed(7)
    assert [order(), order()] == [first, second]


def test_the_stream_is_that_of_every_release_so_far() -> None:
    set_random_seed(7)
    assert draw_seed() == FIRST
    set_random_seed(7)
    assert Loader([1]).seed == FIRST


@pytest.mark.parametrize("own", [0, 3])
def test_a_loader_with_a_seed_keeps_it_and_takes_none(own: int) -> None:
    set_random_seed(7)
    assert Loader([1], seed=own).seed == own
    assert draw_seed() == FIRST


def test_the_stream_is_not_the_one_of_the_global_generator() -> None:
    set_random_seed(7)
    assert draw_seed() != random.getrandbits(64)


def test_drawing_a_seed_touches_no_global_generator() -> None:
    set_random_seed(7)
    expected = draws()
    set_random_seed(7)
    first = draw_seed()
    now = draws()
    assert first == expected.pop(2)
    del now[2]
    assert now == expected


def test_before_the_first_call_seeds_are_fresh_and_no_global_state_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random.seed(7)
    np.random.seed(7)
    expected = random.random(), np.random.random()
    random.seed(7)
    np.random.seed(7)
    assert draw_seed() != draw_seed()
    assert (random.random(), np.random.random()) == expected
    monkeypatch.setattr(secrets, "randbits", lambda bits: bits)
    monkeypatch.setattr(room, "_stream", room.SeedStream(None))
    assert Loader([1]).seed == 64


# ---- frameworks ----------------------------------------------------------------------


def run(code: str, *paths: Path) -> Any:
    """Run code in a Python of its own; what it prints, from JSON."""
    heading = f"import json, sys; sys.path[:0] = {[str(path) for path in paths]!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", heading + code],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_split_without_a_seed_follows_it_too() -> None:
    def left() -> list[int]:
        return list(feedline.utils.split_dataset(range(100), 0.5, shuffle=True)[0])

    set_random_seed(7)
    first, second = left(), left()
    set_random_seed(7)
    assert (left(), left()) == (first, second)
    assert first != second


def test_no_framework_is_imported() -> None:
    code = (
        "from feedline import set_random_seed; set_random_seed(7); "
        "print(json.dumps(list(sys.modules)))"
    )
    assert not {"torch", "tensorflow", "keras", "jax"} & set(run(code))


FAKE = """
drawn = []
class random:
    set_seed = drawn.append
manual_seed = drawn.append
"""


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    """A torch and a TensorFlow that note their seeds."""
    for name in ("torch", "tensorflow"):
        (tmp_path / f"{name}.py").write_text(FAKE)
    return tmp_path


@pytest.mark.parametrize("name", ["torch", "tensorflow"])
def test_a_framework_that_feedline_imports_later_is_seeded_once(
    fakes: Path, name: str
) -> None:
    code = f"""
from feedline import set_random_seed
from feedline.default_seed import import_framework
set_random_seed(7)
framework = import_framework({name!r})
first = list(framework.drawn)
import_framework({name!r})
set_random_seed(8)
print(json.dumps([first, framework.drawn]))
"""
    assert run(code, fakes) == [[7], [7, 8]]


@needs_torch
def test_torch_that_came_with_a_worker_s_batch_is_seeded() -> None:
    code = """
from feedline import Loader, PyDataset, set_random_seed

class Tensors(PyDataset):
    def __len__(self):
        return 1
    def __getitem__(self, index):
        import torch
        return torch.zeros(3)

set_random_seed(7)
before = "torch" in sys.modules
with Loader(Tensors(), workers=1, use_multiprocessing=True) as loader:
    list(loader)
torch = sys.modules["torch"]
mine = torch.rand(3).tolist()
torch.manual_seed(7)
print(json.dumps([before, mine, torch.rand(3).tolist()]))
"""
    before, mine, expected = run(code)
    assert not before
    assert mine == expected


def test_a_framework_that_the_user_imported_meanwhile_goes_on_as_it_is(
    fakes: Path,
) -> None:
    code = """
from feedline import set_random_seed
from feedline.default_seed import import_framework
set_random_seed(7)
import torch
import_framework("torch")
print(json.dumps(torch.drawn))
"""
    assert run(code, fakes) == []


def test_without_a_seed_a_framework_is_imported_as_it_is(fakes: Path) -> None:
    code = """
from feedline.default_seed import import_framework
print(json.dumps(import_framework("torch").drawn))
"""
    assert run(code, fakes) == []


def test_an_import_that_draws_leaves_the_global_generators_as_they_were(
    fakes: Path,
) -> None:
    code = """
import random, numpy
from feedline import set_random_seed
from feedline.default_seed import import_framework
set_random_seed(7)
import_framework("drawing")
late = random.random(), numpy.random.random()
set_random_seed(7)
print(json.dumps([late, (random.random(), numpy.random.random())]))
"""
    drawing = "import random, numpy; random.random(); numpy.random.random()"
    (fakes / "drawing.py").write_text(drawing)
    late, early = run(code, fakes)
    assert late == early


def test_what_a_framework_brings_along_is_seeded_too(fakes: Path) -> None:
    (fakes / "keras.py").write_text("import torch")
    code = """
from feedline import set_random_seed
from feedline.default_seed import import_framework
set_random_seed(7)
keras = import_framework("keras")
print(json.dumps([keras.torch.drawn, "tensorflow" in sys.modules]))
"""
    assert run(code, fakes) == [[7], False]


@needs_torch
def test_torch_imported_later_draws_as_if_it_had_been_there() -> None:
    code = """
from feedline import set_random_seed
from feedline.default_seed import import_framework
set_random_seed(7)
late = import_framework("torch").rand(3).tolist()
set_random_seed(7)
print(json.dumps([late, sys.modules["torch"].rand(3).tolist()]))
"""
    late, early = run(code)
    assert late == early


@pytest.mark.parametrize("stub", [None, ModuleType("stub"), SimpleNamespace()])
@pytest.mark.parametrize("name", ["torch", "tensorflow", "keras"])
def test_a_framework_that_is_not_fully_there_is_left_alone(
    name: str, stub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("torch", "tensorflow", "keras"):
        monkeypatch.setitem(sys.modules, other, None)
    monkeypatch.setitem(sys.modules, name, stub)
    set_random_seed(7)
    assert draw_seed() == FIRST
