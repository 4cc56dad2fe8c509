"""Keras trains on exactly the loader's epochs, on every backend that is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
from filelock import FileLock

from feedline import Loader
from tests import datasets

if TYPE_CHECKING:
    from collections.abc import Callable

if find_spec("keras") is None:
    pytest.skip("keras is not installed", allow_module_level=True)

from feedline.keras import as_keras

Runs: TypeAlias = "Callable[[str], dict[str, Any]]"


class Arrays(datasets.Stateful):
    """Batches that Keras takes."""

    def __getitem__(self, index: int) -> Any:
        return np.array([index])


BACKENDS = [name for name in ("torch", "jax", "tensorflow") if find_spec(name)]
LENGTH = 5

backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """What ``keras_runs`` finds with a backend: once for all tests, in any process."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def found(backend: str) -> dict[str, Any]:
        path = shared / f"keras-{backend}.json"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                path.write_text(json.dumps(run_keras(backend)))
        return dict(json.loads(path.read_text()))

    return found


def run_keras(backend: str) -> Any:
    done = subprocess.run(
        # No module of it is __main__, which new processes would import, Keras with it.
        [sys.executable, "-c", "from tests.loader.keras_runs import main; main()"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    name, found = json.loads(done.stdout.splitlines()[-1])
    assert name == backend
    return found


def expected(epochs: int, steps: int | None, length: int = LENGTH) -> list[Any]:
    """What is trained on, in each epoch: pairs of index and pass."""
    if steps is None:
        return [[[i, e] for i in range(length)] for e in range(1, epochs + 1)]
    position, number, trained = 0, 1, []
    for _ in range(epochs):
        if position == length:
            position, number = 0, number + 1
        stop = min(position + steps, length)
        trained.append([[i, number] for i in range(position, stop)])
        position = stop
        if len(trained[-1]) < steps:  # the data ended, and begins anew
            position, number = 0, number + 1
    return trained


@backends
def test_each_epoch_is_trained_on_exactly_its_batches(runs: Runs, backend: str) -> None:
    wrong = []
    cases = 0
    for name, found in runs(backend).items():
        if not name.startswith("["):
            continue
        cases += 1
        _, epochs, steps, _, check = json.loads(name)
        right = expected(epochs, steps)
        tested = min(int(check), 3) if check and check != "all" else 3
        rounds = [list(range(tested))] * epochs if check else []
        seen = [[index for index, _ in batches] for batches in found["tested"]]
        if found["trained"] != right or seen != rounds:
            wrong.append((name, found))
    assert cases >= 40
    assert wrong == []


@backends
def test_hooks_run_once_for_each_pass(runs: Runs, backend: str) -> None:
    for name, found in runs(backend).items():
        if name.startswith("["):
            _, epochs, steps, _, _ = json.loads(name)
            if steps is None:
                assert found["hooks"] == [epochs, epochs], name
            else:
                begun = max(number for e in found["trained"] for _, number in e)
                assert found["hooks"][0] == begun, name
                assert found["hooks"][1] in (begun - 1, begun), name


@backends
@pytest.mark.parametrize("ending", ["stop", "raise"])
def test_after_training_ended_early_an_epoch_is_whole_again(
    runs: Runs, backend: str, ending: str
) -> None:
    found = {n: run for n, run in runs(backend).items() if n.startswith(ending)}
    assert len(found) == 5
    for name, trained in found.items():
        first, *rest = trained
        assert first == [[0, 1], [1, 1], [2, 1]], name
        assert rest[:-1] == ([["raised"]] if ending == "raise" else []), name
        assert [index for index, _ in rest[-1]] == [0, 1, 2, 3, 4], name
        assert len({number for _, number in rest[-1]}) == 1, name


@backends
def test_every_batch_of_an_epoch_sees_what_a_callback_set_when_it_began(
    runs: Runs, backend: str
) -> None:
    for way in ("inline", "4 threads", "4 processes"):
        # on_epoch_begin, which adds one, ran before Keras looked, and not again.
        first, second = runs(backend)[f"told {way}"]
        assert first == [100], way
        assert second == [201], way


@backends
def test_hooks_run_where_several_epochs_share_a_pass(runs: Runs, backend: str) -> None:
    for way in ("inline", "4 threads", "4 processes"):
        assert runs(backend)[f"halves {way}"] == [2, 2], way


@backends
def test_evaluating_begins_anew_each_time(runs: Runs, backend: str) -> None:
    for way in ("inline", "4 threads", "4 processes"):
        tested, shape = runs(backend)[f"evaluate {way}"]
        rounds = [[index for index, _ in batches] for batches in tested]
        assert rounds == [[*range(5)], [0, 1], [0, 1], [*range(5)]], way
        assert shape == [19, 1]


@backends
def test_the_weights_are_those_of_keras_in_the_training_thread(
    runs: Runs, backend: str
) -> None:
    for way in ("inline", "4 threads", "4 processes"):
        ours, theirs = runs(backend)[f"weights {way}"]
        assert ours == theirs, way


@backends
def test_batches_may_be_nested_and_classes_have_weights(
    runs: Runs, backend: str
) -> None:
    for way in ("inline", "4 threads", "4 processes"):
        epochs, (own, by_class) = runs(backend)[f"nested {way}"]
        assert epochs == 2
        assert own == by_class, way


# TensorFlow's way through Keras' engine does not go wrong at its beginning.
if wronged := [backend for backend in BACKENDS if backend != "tensorflow"]:

    @pytest.mark.parametrize("backend", wronged)
    def test_the_stamps_catch_keras_own_engine(runs: Runs, backend: str) -> None:
        epochs = runs(backend)["keras"]
        assert any(epoch != list(range(20)) for epoch in epochs)


# ---- what is refused -----------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, [1, 2], datasets.Numbers(3)], ids=type)
def test_what_is_no_loader_is_refused_with_the_way_to_one(wrong: Any) -> None:
    with pytest.raises(
        TypeError, match=r"must be a feedline\.Loader, got .*; Loader\("
    ):
        as_keras(wrong)


@pytest.mark.parametrize(
    "weights", [[1, 2], {"0": 1.0}, {0: "1"}, {0.5: 1.0}], ids=repr
)
def test_weights_of_what_is_no_class_are_refused(weights: Any) -> None:
    with pytest.raises(TypeError, match="class_weight must"):
        as_keras(Loader(range(3)), class_weight=weights)


def batches_of(batch: Any, **options: Any) -> list[Any]:
    with Loader([batch], workers=0) as loader:
        return list(as_keras(loader, **options).get_numpy_iterator())


@pytest.mark.parametrize(
    "batch", [None, 3, "text", (), (1, 2, 3, 4), {1}, iter([])], ids=type
)
def test_a_batch_that_keras_cannot_take_is_refused_by_its_type(batch: Any) -> None:
    with pytest.raises(TypeError, match=f"got a {type(batch).__qualname__}"):
        batches_of(batch)


def test_batches_become_what_keras_knows() -> None:
    x = np.ones((2, 2))
    assert batches_of(x) == [(x,)]
    assert batches_of([x]) == [(x,)]
    assert batches_of({"a": x}) == [{"a": x}]


@pytest.mark.parametrize(
    ("y", "weights"),
    [
        (np.array([0, 1, 2]), [1, 5, 1]),
        (np.array([[0.9], [1.2], [7]]), [5, 5, 1]),
        (np.eye(3)[[1, 0, 2]], [5, 1, 1]),
    ],
    ids=["numbers", "column", "one-hot"],
)
def test_weights_of_classes_become_weights_of_samples(y: Any, weights: Any) -> None:
    ((_, _, found),) = batches_of((np.ones((3, 1)), y), class_weight={1: 5})
    assert found.dtype == np.float32
    assert found.tolist() == weights


@pytest.mark.parametrize(
    "batch",
    [
        {"a": np.ones(2)},
        (np.ones(2),),
        (np.ones(2), np.ones(2), np.ones(2)),
        (np.ones(2), np.ones((2, 2, 2))),
    ],
    ids=["dict", "x alone", "weights already", "3-D"],
)
def test_weights_of_classes_are_never_passed_over_in_silence(batch: Any) -> None:
    with pytest.raises(ValueError, match="class_weight needs"):
        batches_of(batch, class_weight={1: 5})


def test_an_iterator_that_is_not_used_starts_nothing() -> None:
    dataset = datasets.Stateful(4)
    with Loader(dataset, workers=2) as loader:
        adapted = as_keras(loader)
        for _ in range(5):
            iter(adapted.get_numpy_iterator())
        assert dataset.begun == 0
        assert loader.stats().epochs == 0


def test_without_the_private_class_the_public_one_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import keras

    name = "keras.src.trainers.data_adapters.data_adapter"
    monkeypatch.setitem(sys.modules, name, None)
    dataset = Arrays(5)
    with Loader(dataset, workers=2) as loader:
        adapted = as_keras(loader)
        assert isinstance(adapted, keras.utils.PyDataset)
        adapted.on_epoch_begin()
        assert adapted[0][0] == [0]  # looked at
        adapted.on_epoch_end()
        trained = []
        for _ in range(3):
            adapted.on_epoch_begin()
            batches = [adapted[0] for _ in range(adapted.num_batches)]
            trained.append([int(x[0]) for (x,) in batches])
            adapted.on_epoch_end()
        assert trained == [list(range(5))] * 3
        assert (dataset.begun, dataset.ended) == (3, 3)
