"""Tests for feedline.utils.fit."""

from __future__ import annotations

import gc
import io
import math
import re
import weakref
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from feedline import Loader, PyDataset
from feedline.utils import History, console, fit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def loss_of(batch: Any) -> Mapping[str, Any]:
    """A step whose loss is the mean of the batch."""
    return {"loss": np.mean(batch[0] if isinstance(batch, tuple) else batch)}


def replace_stdout(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    """Replace what the package sees; sys.stdout itself is exchanged by pytest."""
    monkeypatch.setattr(console, "sys", SimpleNamespace(stdout=stream))


@pytest.fixture
def stdout(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    replace_stdout(monkeypatch, stream)
    return stream


class Rows(PyDataset):
    """Two batches; the epoch's number is in the second epoch's."""

    def __init__(self) -> None:
        super().__init__(workers=2)
        self.epoch = 0
        self.ended = 0

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return np.full(4, self.epoch, dtype=np.float32)

    def on_epoch_begin(self) -> None:
        self.epoch += 1

    def on_epoch_end(self) -> None:
        self.ended += 1


# ---- means ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batches",
    [
        [np.zeros(1), np.ones(3)],
        [(np.zeros((1, 5)), np.zeros(1)), (np.ones((3, 5)), np.ones(3))],
    ],
    ids=["arrays", "pairs"],
)
def test_batch_weighs_as_much_as_it_has_samples(batches: list[Any]) -> None:
    assert fit(loss_of, batches, verbose=0)["loss"] == [0.75]


@pytest.mark.parametrize(
    ("wrap", "weight"),
    [
        (lambda a: {"x": {"deep": a}}, 3),
        (lambda a: [None, "text", [a]], 3),
        (lambda a: (np.float32(2.0), a), 3),
        (lambda a: {"name": "text"}, 1),
        (lambda a: 7, 1),
    ],
    ids=["dicts", "lists", "after-a-scalar", "no-array", "a-number"],
)
def test_samples_are_counted_in_the_first_array_of(wrap: Any, weight: int) -> None:
    losses = iter([1.0, 0.0])
    batches = [wrap(np.zeros((3, 2))), np.zeros(1)]
    history = fit(lambda batch: {"loss": next(losses)}, batches, verbose=0)
    assert history["loss"] == [weight / (weight + 1)]


def test_metric_that_some_batches_lack_is_averaged_over_the_others() -> None:
    metrics = iter([{"loss": 1.0}, {"loss": 3.0, "extra": 5.0}])
    history = fit(lambda batch: next(metrics), [0, 0], verbose=0)
    assert dict(history) == {"loss": [2.0], "extra": [5.0]}


def test_epoch_without_a_metric_has_nan_for_it() -> None:
    metrics = iter([{"a": 1.0}, {"b": 2.0}])
    history = fit(lambda batch: next(metrics), [0], epochs=2, verbose=0)
    assert history["a"][0] == 1.0
    assert math.isnan(history["a"][1])
    assert math.isnan(history["b"][0])
    assert history["b"][1] == 2.0


# ---- the loop ------------------------------------------------------------------------


def test_every_batch_of_every_epoch_is_trained_on_in_order() -> None:
    trained: list[int] = []

    def step(batch: int) -> Mapping[str, float]:
        trained.append(batch)
        return {}

    fit(step, [1, 2, 3], epochs=2, verbose=0)
    assert trained == [1, 2, 3, 1, 2, 3]


def test_validation_comes_after_each_epoch_under_a_prefix() -> None:
    calls: list[str] = []

    def train(batch: int) -> Mapping[str, float]:
        calls.append("train")
        return {"loss": batch}

    def test(batch: int) -> Mapping[str, float]:
        calls.append("test")
        return {"loss": 10 * batch}

    history = fit(
        train, [1, 3], epochs=2, validation_data=[2], test_step=test, verbose=0
    )
    assert calls == ["train", "train", "test"] * 2
    assert dict(history) == {"loss": [2.0, 2.0], "val_loss": [20.0, 20.0]}


def test_batch_is_let_go_before_the_next_is_asked_for() -> None:
    class Lent(list[float]):
        """A list that can be watched."""

    class Lender:
        def __iter__(self) -> Iterator[Lent]:
            for _ in range(3):
                batch = Lent([1.0])
                held = weakref.ref(batch)
                yield batch
                del batch
                assert held() is None

    gc.disable()  # a batch in a cycle would be held until a collection
    try:
        assert fit(lambda batch: {"loss": batch[0]}, Lender(), verbose=0)["loss"] == [1]
    finally:
        gc.enable()


def test_loader_is_iterated_once_per_epoch_and_left_open() -> None:
    with Loader(Rows()) as loader:
        assert fit(loss_of, loader, epochs=2, verbose=0)["loss"] == [1.0, 2.0]
        assert fit(loss_of, loader, verbose=0)["loss"] == [3.0]


def test_dataset_by_itself_has_its_hooks_run() -> None:
    dataset = Rows()
    assert fit(loss_of, dataset, epochs=3, verbose=0)["loss"] == [1.0, 2.0, 3.0]
    assert dataset.ended == 3


def test_error_of_a_step_arrives_as_itself_after_the_line_was_ended(
    stdout: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdout, "isatty", lambda: True, raising=False)
    losses = iter([1.0])
    with pytest.raises(StopIteration):
        fit(lambda batch: {"loss": next(losses)}, [1, 2])
    assert stdout.getvalue().endswith("loss: 1.0000\n")


# ---- what it shows -------------------------------------------------------------------


@pytest.mark.parametrize("verbose", [1, 2])
def test_each_epoch_has_a_title_and_a_final_line(
    stdout: io.StringIO, verbose: int
) -> None:
    fit(
        loss_of,
        [np.zeros(1), np.ones(3)],
        epochs=2,
        validation_data=[np.ones(1)],
        test_step=loss_of,
        verbose=verbose,
    )
    lines = stdout.getvalue().splitlines()
    assert lines[0::2] == ["Epoch 1/2", "Epoch 2/2"]
    for line in lines[1::2]:
        assert line.startswith("2/2 - ")
        assert line.endswith("/step - loss: 0.7500 - val_loss: 1.0000")


def test_length_that_was_unknown_is_known_at_the_end(stdout: io.StringIO) -> None:
    fit(loss_of, (np.ones(1) for _ in range(3)))
    assert stdout.getvalue().splitlines()[1].startswith("3/3 - ")


def test_verbose_0_shows_nothing(stdout: io.StringIO) -> None:
    fit(loss_of, [np.ones(1)], verbose=0)
    assert stdout.getvalue() == ""


def test_training_goes_on_without_a_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_stdout(monkeypatch, None)
    assert fit(loss_of, [np.ones(1)])["loss"] == [1.0]


# ---- the history ---------------------------------------------------------------------


def test_history_tells_epochs_seconds_and_a_short_story() -> None:
    history = fit(loss_of, [np.ones(1)], epochs=3, verbose=0)
    assert history.epochs == [1, 2, 3]
    assert len(history.seconds) == 3
    story = r"History\(3 epochs in \d+\.\d s, loss 1 -> 1\)"
    assert re.fullmatch(story, repr(history))


def test_history_is_a_mapping_of_metrics() -> None:
    history = History([1], {"loss": [0.5]}, [1.0])
    assert "loss" in history
    assert dict(history) == {"loss": [0.5]}
    with pytest.raises(KeyError, match=r"'lss' was not measured; \['loss'\] were"):
        history["lss"]


# ---- what it refuses -----------------------------------------------------------------


@pytest.mark.parametrize("epochs", [0, -1, 1.5, "2", None])
def test_epochs_must_be_a_whole_number_of_1_or_more(epochs: Any) -> None:
    with pytest.raises(
        ValueError, match=r"^epochs must be an integer of 1 or more, got"
    ):
        fit(loss_of, [np.ones(1)], epochs=epochs)


@pytest.mark.parametrize("verbose", [3, -1, "auto"])
def test_verbose_must_be_0_1_or_2(verbose: Any) -> None:
    with pytest.raises(ValueError, match=r"^verbose must be 0, 1 or 2, got"):
        fit(loss_of, [np.ones(1)], verbose=verbose)


def test_validation_data_without_a_test_step_is_refused_before_training() -> None:
    def step(batch: int) -> Mapping[str, float]:
        pytest.fail("trained")

    with pytest.raises(
        ValueError, match=r"^validation_data needs a test_step, got None"
    ):
        fit(step, [1], validation_data=[1])


@pytest.mark.parametrize("result", [None, 0.5, [("loss", 0.5)]])
def test_step_that_returns_no_mapping_is_named(result: Any) -> None:
    with pytest.raises(TypeError, match=r"^train_step must return a mapping .*got"):
        fit(lambda batch: result, [1], verbose=0)
    with pytest.raises(TypeError, match=r"^test_step must return a mapping .*got"):
        fit(
            lambda batch: {},
            [1],
            validation_data=[1],
            test_step=lambda batch: result,
            verbose=0,
        )


def test_metric_that_is_no_number_is_named() -> None:
    with pytest.raises(TypeError, match=r"^metric 'loss' must be a number or an array"):
        fit(lambda batch: {"loss": "low"}, [1], verbose=0)


def test_data_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^data must give batches anew each time"):
        fit(loss_of, [], verbose=0)


def test_data_that_can_be_iterated_only_once_is_refused_in_the_second_epoch() -> None:
    with pytest.raises(ValueError, match=r"^data must give batches anew each time"):
        fit(loss_of, iter([np.ones(1)]), epochs=2, verbose=0)


def test_validation_data_without_a_batch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^validation_data must give batches anew"):
        fit(loss_of, [np.ones(1)], validation_data=[], test_step=loss_of, verbose=0)
