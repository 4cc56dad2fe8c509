"""``set_random_seed`` beside that of the installed Keras, and Keras' own generator."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline import default_seed as room
from feedline import set_random_seed
from tests.optional import torch
from tests.utils.differential import cases, outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

keras: Any = pytest.importorskip("keras")
theirs = keras.utils.set_random_seed


@pytest.fixture(autouse=True)
def _put_back(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(room, "_stream", room.SeedStream(None))
    python, legacy, tensor = (
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
    )
    yield
    random.setstate(python)
    np.random.set_state(legacy)
    torch.set_rng_state(tensor)


def draws() -> list[Any]:
    return [
        [random.random() for _ in range(5)],
        [random.gauss(0, 1) for _ in range(5)],
        np.random.random(5).tolist(),
        np.random.normal(size=5).tolist(),
        torch.rand(5).tolist(),
        torch.randn(5).tolist(),
        keras.random.uniform((5,)).tolist(),
        keras.random.normal((5,)).tolist(),
    ]


SEEDS = st.one_of(
    st.integers(0, 2**32 - 1), st.integers(0, 99), st.booleans(), st.just(2**32 - 1)
)


@cases(1200)
@given(SEEDS, st.booleans())
def test_the_next_draws_are_the_same(number: Any, dirty: bool) -> None:
    theirs(number)
    expected = draws()
    if dirty:  # the second of a pair of normal deviates is waiting
        random.gauss(0, 1), np.random.normal(), keras.random.normal((3,))
    set_random_seed(number)
    assert draws() == expected
    assert keras.src.utils.rng_utils.get_random_seed() == number


NOT_SEEDS = st.one_of(
    st.integers(max_value=-1),
    st.integers(min_value=2**32),
    st.floats(),
    st.text(max_size=5),
    st.none(),
    st.binary(max_size=5),
    st.complex_numbers(),
    st.lists(st.integers(0, 9), max_size=2),
    st.integers(0, 9).map(np.float32),
    st.just(np.True_),
)


@cases(500)
@given(NOT_SEEDS)
def test_what_is_no_seed_is_refused_alike_and_here_changes_nothing(bad: Any) -> None:
    set_random_seed(7)
    expected = draws()
    set_random_seed(7)
    assert outcome(set_random_seed, bad) is ValueError
    assert draws() == expected
    assert outcome(theirs, bad) is ValueError


@cases(300)
@given(st.integers(0, 255), st.sampled_from(["i1", "i8", "u1", "u4", "u8"]))
def test_only_integers_of_numpy_make_a_difference(number: int, dtype: str) -> None:
    given_seed = np.dtype(dtype).type(number % 128)
    assert outcome(theirs, given_seed) is ValueError
    theirs(number % 128)
    expected = draws()
    set_random_seed(given_seed)
    assert draws() == expected


def test_keras_imported_later_follows_and_tensorflow_is_not_imported_for_it(
    tmp_path: Path,
) -> None:
    # Installed, but not imported: importing it is what must not happen.
    (tmp_path / "tensorflow.py").write_text("raise AssertionError('imported')")
    code = f"""
import json, sys
from feedline import set_random_seed
from feedline.default_seed import import_framework
set_random_seed(7)
keras = import_framework("keras")
sys.path.insert(0, {str(tmp_path)!r})
def draws():
    return [keras.random.uniform((3,)).tolist() for _ in range(2)]
drawn = [draws()]
for number in (8, 7):
    set_random_seed(number)
    drawn.append(draws())
known = keras.src.utils.rng_utils.get_random_seed()
print(json.dumps([drawn, known, "tensorflow" in sys.modules]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    (late, eight, again), known, imported = json.loads(done.stdout)
    assert late == again != eight
    assert known == 7
    assert not imported
    set_random_seed(7)
    assert [keras.random.uniform((3,)).tolist() for _ in range(2)] == again
