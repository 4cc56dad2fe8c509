"""Keras trains on exactly the loader's epochs, on every backend that is installed."""

from __future__ import annotations

import gc
import json
import os
import sys
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
from filelock import FileLock

from feedline import Loader, LoaderClosedError
from tests import datasets
from tests.limits import PROCESS_HANGS

from .apart import told

if TYPE_CHECKING:
    from collections.abc import Callable

if find_spec("keras") is None:
    pytest.skip("keras is not installed", allow_module_level=True)

from feedline.keras import as_keras
from feedline.keras_call import check_call

from . import keras_checks, keras_matrix

Check: TypeAlias = "Callable[[str, str], str]"

BACKENDS = [name for name in ("torch", "jax", "tensorflow") if find_spec(name)]
EVERY = int(os.environ.get("FEEDLINE_EXAMPLES", "1")) > 1
PARTS = 60 if EVERY else 1  # of the cases, so that none takes long
CHECKS = [check.__name__ for check in keras_checks.CHECKS]
SHARES = 4  # of the checks, for the same reason

backends = pytest.mark.parametrize("backend", BACKENDS)


class Arrays(datasets.Stateful):
    """Batches that Keras takes."""

    def __getitem__(self, index: int) -> Any:
        return np.array([index])


# ---- on a backend, in a process of its own -------------------------------------------


@pytest.fixture(scope="session")
def failure_of(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """How a check failed with a backend. A share of them runs once for all tests.

    They run in a process of their own, whichever test process asks for it.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent

    def failure(backend: str, check: str) -> str:
        number = CHECKS.index(check) % SHARES
        path = shared / f"keras-{backend}-{number}.json"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                (failures,) = told(
                    "keras_checks",
                    *CHECKS[number::SHARES],
                    patience=PROCESS_HANGS,
                    KERAS_BACKEND=backend,
                )
                path.write_text(json.dumps(failures))
        return str(json.loads(path.read_text())[check])

    return failure


@backends
@pytest.mark.parametrize("part", range(PARTS))
def test_each_epoch_trains_on_exactly_its_batches_and_once(
    backend: str, part: int
) -> None:
    # Every choice with every other, or, in a short run, any two in some case.
    meeting = len(keras_matrix.CHOICES) if EVERY else 2
    *wrong, total = told(
        "keras_matrix",
        *("--meeting", str(meeting), "--part", str(part), "--parts", str(PARTS)),
        patience=PROCESS_HANGS,
        KERAS_BACKEND=backend,
    )
    assert wrong == []
    assert total["backend"] == backend
    assert total["cases"] >= (2970 // PARTS if EVERY else 24)


@backends
@pytest.mark.parametrize("check", CHECKS)
def test_on_this_backend(failure_of: Check, backend: str, check: str) -> None:
    failure = failure_of(backend, check)
    assert failure == "", failure


def test_no_check_is_lost() -> None:
    assert "keras_calls_in_fit_of_a_new_model_are_as_known" in CHECKS
    assert len(CHECKS) > 45


# ---- what is refused -----------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, 3, {0: 1}, {1, 2}], ids=type)
def test_what_is_no_dataset_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"dataset must have __getitem__"):
        as_keras(wrong)


def test_options_beside_a_loader_are_refused_with_the_way_out() -> None:
    with (
        Loader(range(3), workers=0) as loader,
        pytest.raises(TypeError, match=r"got \['shuffle', 'workers'\].*to Loader\("),
    ):
        as_keras(loader, workers=2, shuffle=True)


def test_an_option_that_a_loader_has_not_is_refused() -> None:
    with pytest.raises(TypeError, match="worker_count"):
        as_keras(range(3), worker_count=2)


@pytest.mark.parametrize(
    "weights", [[1, 2], {"0": 1.0}, {0: "1"}, {0.5: 1.0}], ids=repr
)
def test_weights_of_what_is_no_class_are_refused(weights: Any) -> None:
    with pytest.raises(TypeError, match="class_weight must"):
        as_keras(Loader(range(3)), class_weight=weights)


def batches_of(batch: Any, **options: Any) -> list[Any]:
    with as_keras([batch], workers=0, **options) as data:
        return list(data.get_numpy_iterator())


@pytest.mark.parametrize(
    "batch", [None, 3, "text", (), (1, 2, 3, 4), {1}, iter([])], ids=type
)
def test_a_batch_that_keras_cannot_take_is_refused_by_its_type(batch: Any) -> None:
    kind = type(batch).__qualname__
    with pytest.raises(TypeError, match=rf"batch 0 of epoch 0: .*got a {kind}"):
        batches_of(batch)


def test_where_the_order_is_not_that_of_the_plan_no_index_is_made_up() -> None:
    options: dict[str, Any] = {"workers": 1, "in_order": False}
    with (
        as_keras([None], **options) as data,
        pytest.raises(TypeError, match=r"^a batch of epoch 0: "),
    ):
        next(data.get_numpy_iterator())


def test_batches_become_what_keras_knows() -> None:
    x = np.ones((2, 2))
    assert batches_of(x) == [(x,)]
    assert batches_of([x]) == [(x,)]
    assert batches_of({"a": x}) == [{"a": x}]
    assert batches_of((x, x, None)) == [(x, x)]
    assert batches_of((x, None)) == [(x,)]


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
        (np.ones(2), {"u": np.ones(2)}),
    ],
    ids=["dict", "x alone", "weights already", "3-D", "several"],
)
def test_weights_of_classes_are_never_passed_over_in_silence(batch: Any) -> None:
    with pytest.raises(ValueError, match="batch 0 of epoch 0: class_weight needs"):
        batches_of(batch, class_weight={1: 5})


def test_a_keras_that_calls_in_another_way_is_not_judged() -> None:
    def asks(x: Any, class_weight: Any) -> None:
        check(x)

    def asks_of(data: Any, class_weight: Any) -> None:
        check(data)

    def check(data: Any) -> None:
        check_call(data, shuffles=False, endless=True)

    data = object()
    with pytest.raises(ValueError, match="class_weight does not reach"):
        asks(data, {0: 1})
    asks(data, None)  # and the number of steps is not known
    asks_of(data, {0: 1})


def test_every_option_of_a_loader_reaches_the_one_that_is_made() -> None:
    options: dict[str, Any] = {
        "timeout": 5, "on_timeout": "replace", "on_error": "skip", "max_errors": 0.5,
        "retries": 2, "retry_delay": 0.5,
    }  # fmt: skip
    with as_keras(Arrays(), workers=2, **options) as data:
        made = data.loader.options
        assert {name: getattr(made, name) for name in options} == options


# ---- ends ----------------------------------------------------------------------------


def test_closing_ends_the_workers_of_a_loader_that_was_made() -> None:
    with as_keras(Arrays(4), workers=2) as data:
        assert len(list(data.get_numpy_iterator())) == 4
    with pytest.raises(LoaderClosedError):
        iter(data.loader)
    data.close()


def test_what_is_left_to_itself_ends_its_workers_without_a_warning() -> None:
    for processes in (False, True):
        data = as_keras(Arrays(4), workers=2, use_multiprocessing=processes)
        loader = data.loader
        assert len(list(data.get_numpy_iterator())) == 4
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del data
            gc.collect()
        with pytest.raises(LoaderClosedError):
            iter(loader)


def test_closing_gives_a_given_loader_back_for_other_use() -> None:
    with Loader(Arrays(4), workers=2) as loader:
        with as_keras(loader) as data:
            batches = data.get_numpy_iterator()
            next(batches)
        assert len(list(loader)) == 4  # a dataset with hooks allows one epoch at a time


def test_closing_after_the_loader_is_fine() -> None:
    with Loader(Arrays(4), workers=2) as loader:
        data = as_keras(loader)
        batches = data.get_numpy_iterator()
        for _ in range(4):  # all of them, and not the end
            next(batches)
    data.close()


def test_without_the_private_class_the_public_one_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import keras

    name = "keras.src.trainers.data_adapters.data_adapter"
    monkeypatch.setitem(sys.modules, name, None)
    dataset = Arrays(5)
    with Loader(dataset, workers=2) as loader:
        data = as_keras(loader)
        assert isinstance(data, keras.utils.PyDataset)
        assert data.num_batches == 5
        data.on_epoch_begin()
        assert data[0][0] == [0]  # looked at
        assert data.num_batches == 5
        data.on_epoch_end()
        trained = []
        for _ in range(3):
            data.on_epoch_begin()
            batches = [data[0] for _ in range(data.num_batches)]
            trained.append([int(x[0]) for (x,) in batches])
            data.on_epoch_end()
        assert trained == [list(range(5))] * 3
        assert (dataset.begun, dataset.ended) == (3, 3)


def test_a_keras_that_takes_no_adapter_gets_the_public_one_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import keras
    from keras.src.trainers import data_adapters

    def refuse(x: Any) -> None:
        raise ValueError("unknown data")

    for answer in (refuse, lambda x: object()):
        monkeypatch.setattr(data_adapters, "get_data_adapter", answer)
        with as_keras(Arrays(5), workers=0) as data:
            assert isinstance(data, keras.utils.PyDataset)
