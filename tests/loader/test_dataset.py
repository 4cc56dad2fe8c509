"""``PyDataset`` used by hand behaves as the Keras class of that name does."""

from __future__ import annotations

import pickle
import warnings
from itertools import islice
from typing import Any

import numpy as np
import pytest

from feedline import PyDataset
from feedline.seeding import WorkerInfo, building


class Counted(PyDataset):
    def __init__(self, length: int = 3, **settings: Any) -> None:
        super().__init__(**settings)
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return index


class Forgetful(PyDataset):
    def __init__(self) -> None:
        """Leave ``super().__init__()`` out."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        return index


def test_the_defaults_are_one_thread_and_a_queue_of_ten() -> None:
    dataset = Counted()
    assert dataset.workers == 1
    assert dataset.use_multiprocessing is False
    assert dataset.max_queue_size == 10


def test_settings_may_be_given_by_position_in_the_order_of_old() -> None:
    dataset = PyDataset(4, True, 20)
    assert (dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size) == (
        4,
        True,
        20,
    )


@pytest.mark.parametrize("odd", [0, -1, None, "many", 2.5])
def test_settings_are_kept_as_given_and_not_checked(odd: Any) -> None:
    dataset = PyDataset(workers=odd, use_multiprocessing=odd, max_queue_size=odd)
    assert dataset.workers is odd
    assert dataset.use_multiprocessing is odd
    assert dataset.max_queue_size is odd


def test_settings_can_be_set_and_set_alone() -> None:
    dataset = Counted()
    dataset.workers = 8
    assert (dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size) == (
        8,
        False,
        10,
    )
    dataset.use_multiprocessing = True
    dataset.max_queue_size = 3
    assert (dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size) == (
        8,
        True,
        3,
    )


@pytest.mark.parametrize(
    ("name", "default"),
    [("workers", 1), ("use_multiprocessing", False), ("max_queue_size", 10)],
)
def test_a_forgotten_super_call_warns_once_and_gets_the_defaults(
    name: str, default: object
) -> None:
    dataset = Forgetful()
    with pytest.warns(UserWarning, match=r"Forgetful.*super\(\).__init__") as seen:
        first = getattr(dataset, name)
    assert first == default
    assert len(seen) == 1
    assert dataset.workers == 1  # a second warning would be an error
    assert dataset.use_multiprocessing is False
    assert dataset.max_queue_size == 10
    assert seen[0].filename == __file__


def test_a_value_set_before_the_first_read_survives_the_defaults() -> None:
    dataset = Forgetful()
    dataset.workers = 4
    with pytest.warns(UserWarning, match="max_queue_size=10"):
        assert dataset.max_queue_size == 10
    assert dataset.workers == 4


def test_setting_a_value_before_the_super_call_is_no_forgotten_call() -> None:
    class Early(PyDataset):
        def __init__(self) -> None:
            self.workers = 4
            super().__init__(workers=2)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Early().workers == 2


def test_using_a_forgetful_dataset_by_hand_does_not_warn() -> None:
    assert list(Forgetful()) == [0, 1]


def test_the_number_of_batches_is_the_length() -> None:
    assert Counted(5).num_batches == 5


def test_num_batches_wins_over_len() -> None:
    class Both(Counted):
        @property
        def num_batches(self) -> int:
            return 2

    assert list(Both(5)) == [0, 1]


def test_without_len_and_num_batches_the_number_is_not_implemented() -> None:
    class Neither(PyDataset):
        def __getitem__(self, index: int) -> int:
            return index

    with pytest.raises(NotImplementedError, match=r"Neither.*__len__.*num_batches"):
        _ = Neither().num_batches


def test_a_dataset_that_tells_no_length_goes_on_without_end() -> None:
    class Neither(PyDataset):
        def __getitem__(self, index: int) -> int:
            return index

    assert list(islice(Neither(), 1000)) == list(range(1000))


def test_num_batches_none_is_without_end_even_where_there_is_a_len() -> None:
    class Endless(Counted):
        @property
        def num_batches(self) -> None:
            return None

    assert list(islice(Endless(2), 50)) == list(range(50))


def test_an_index_error_inside_an_epoch_is_an_error_and_not_its_end() -> None:
    class Short(Counted):
        def __getitem__(self, index: int) -> int:
            return [10, 20][index]

    batches = iter(Short(3))
    assert [next(batches), next(batches)] == [10, 20]
    with pytest.raises(IndexError):
        next(batches)


def test_an_empty_dataset_yields_nothing() -> None:
    assert list(Counted(0)) == []


@pytest.mark.parametrize("wrong", [2.0, "3"])
def test_a_number_of_batches_that_is_no_integer_is_a_type_error(wrong: Any) -> None:
    class Wrong(Counted):
        @property
        def num_batches(self) -> Any:
            return wrong

    with pytest.raises(TypeError):
        list(Wrong())


def test_num_batches_as_a_plain_method_is_a_type_error() -> None:
    class Method(Counted):
        def num_batches(self) -> int:  # type: ignore[override]
            return 3

    with pytest.raises(TypeError):
        list(Method())


def test_a_numpy_integer_is_a_number_of_batches() -> None:
    class Numpy(Counted):
        @property
        def num_batches(self) -> Any:
            return np.int64(3)

    assert list(Numpy()) == [0, 1, 2]


def test_iterating_by_hand_runs_no_hooks_and_can_be_repeated() -> None:
    class Hooked(Counted):
        def on_epoch_begin(self) -> None:
            raise AssertionError("by hand there are no hooks")

        on_epoch_end = on_epoch_begin

    dataset = Hooked()
    assert list(dataset) == list(dataset) == [0, 1, 2]


def test_the_base_class_has_no_batches_of_its_own() -> None:
    with pytest.raises(NotImplementedError, match="__getitem__"):
        PyDataset()[0]


def test_the_base_hooks_do_nothing() -> None:
    dataset = Counted()
    before = dict(vars(dataset))
    dataset.on_epoch_begin()
    dataset.on_epoch_end()
    assert vars(dataset) == before


def test_rng_is_the_batch_s_own_inside_a_loader() -> None:
    dataset = Counted()
    with building(WorkerInfo(0, 1, 5, 2, 3)):
        drawn = dataset.rng.random(4).tolist()
    with building(WorkerInfo(7, 8, 5, 2, 3)):
        assert dataset.rng.random(4).tolist() == drawn
        assert dataset.rng is dataset.rng


def test_rng_outside_a_loader_is_fresh_each_time() -> None:
    dataset = Counted()
    assert dataset.rng.random() != dataset.rng.random()


def test_a_subclass_may_keep_an_rng_of_its_own() -> None:
    dataset = Counted()
    mine = np.random.default_rng(3)
    dataset.rng = mine
    assert dataset.rng is mine
    with building(WorkerInfo(0, 1, 5, 2, 3)):
        assert dataset.rng is mine


def test_an_rng_of_its_own_travels_with_the_dataset() -> None:
    dataset = Counted()
    dataset.rng = np.random.default_rng(3)
    twin = pickle.loads(pickle.dumps(dataset))
    assert twin.rng.random() == np.random.default_rng(3).random()
