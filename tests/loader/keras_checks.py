"""What the bridge to Keras promises on every backend, one function for each promise.

``KERAS_BACKEND=torch python -m tests.loader.keras_checks [name ...]`` runs them, in a
process of their own: Keras has one backend in each, and frameworks start threads.
"""

from __future__ import annotations

import gc
import inspect
import os
import sys
import threading
import warnings
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import numpy as np

from feedline import Loader, LoaderBusyError, LoaderClosedError, PyDataset
from feedline.keras import as_keras

from .apart import tell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BACKEND = os.environ.get("KERAS_BACKEND", "")
THREADS: dict[str, Any] = {"workers": 2, "use_multiprocessing": False}
PROCESSES: dict[str, Any] = {"workers": 2, "use_multiprocessing": True}


class Batches(PyDataset):
    """Gives what it was made of; counts what happens to it."""

    def __init__(self, *batches: Any) -> None:
        super().__init__()
        self.batches = batches
        self.asked = 0
        self.begun = 0
        self.ended = 0

    def __len__(self) -> int:
        return len(self.batches)

    def on_epoch_begin(self) -> None:
        self.begun += 1

    def on_epoch_end(self) -> None:
        self.ended += 1

    def __getitem__(self, index: int) -> Any:
        self.asked += 1
        batch = self.batches[index]
        if isinstance(batch, Exception):
            raise batch
        return batch


class Endless(PyDataset):
    """Batches that tell their number, without end."""

    num_batches = None

    def __getitem__(self, index: int) -> Any:
        return a_batch(index)


class Pair(NamedTuple):
    """A batch by another name."""

    x: Any
    y: Any


class Own(Exception):
    """The user's, with more than its words."""

    def __init__(self, words: str, code: int) -> None:
        super().__init__(words, code)
        self.code = code


def a_batch(index: int) -> Any:
    return np.full((2, 3), index, np.float32), np.ones((2, 1), np.float32)


def numbered(count: int) -> Batches:
    """Batches that tell their number."""
    return Batches(*map(a_batch, range(count)))


def columns(count: int, rows: int = 3) -> Iterator[tuple[Any, Any]]:
    """Inputs and targets that differ from batch to batch."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        x = rng.random((rows, 3), np.float32)
        yield x, x[:, :1] * 2


def small_model(*, built: bool = False, **compiled: Any) -> Any:
    import keras

    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True, **compiled)
    if built:
        model.fit(np.ones((2, 3)), np.ones((2, 1)), verbose=0)
    return model


def recording(**compiled: Any) -> tuple[Any, list[list[int]], list[list[int]]]:
    """A model, what it is trained on, and what it is tested on, in each epoch."""
    import keras

    trained: list[list[int]] = []
    tested: list[list[int]] = []

    class Recording(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.dense(x)

        def train_step(self, *arguments: Any) -> Any:
            trained[-1].append(number_of(arguments[-1]))
            return super().train_step(*arguments)

        def test_step(self, *arguments: Any) -> Any:
            tested[-1].append(number_of(arguments[-1]))
            return super().test_step(*arguments)

        def fit(self, *arguments: Any, callbacks: Any = (), **options: Any) -> Any:
            mine = [*callbacks, Parts()]
            return super().fit(*arguments, callbacks=mine, verbose=0, **options)

    class Parts(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            trained.append([])

        def on_test_begin(self, logs: Any = None) -> None:
            tested.append([])

    model = Recording()
    model.compile("sgd", "mse", run_eagerly=True, **compiled)
    return model, trained, tested


def number_of(batch: Any) -> int:
    x = batch[0]
    x = x.detach().cpu() if hasattr(x, "detach") else x
    return int(np.asarray(x)[0, 0])


def stopping(at: int) -> Any:
    import keras

    class Stopping(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = self.model.stop_training or batch >= at

    return Stopping()


def refusal(kind: type[BaseException], act: Callable[[], object]) -> Any:
    """The error by which an act is refused, as it must be."""
    try:
        act()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")


def warned(act: Callable[[], object]) -> list[str]:
    """What an act warns of, other than of the end of the data."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    said = []
    for warning in caught:
        words = str(warning.message)
        if "passed over" in words or "order" in words:
            assert warning.filename == __file__, f"{words} at {warning.filename}"
            said.append(words)
    return said


# What Keras calls: if one of these fails, Keras has changed, and the bridge may be wrong


def traced(data: Any) -> list[str]:
    """Have what Keras is given note every call.

    ``N`` for the length, ``B`` and ``E`` for the hooks, ``G`` for an iterator or a
    ``tf.data.Dataset``, a number for each batch, a name for what is never asked for.
    """
    trace: list[str] = []

    class Spy(type(data)):  # type: ignore[misc]
        @property
        def num_batches(self) -> Any:
            trace.append("N")
            return self.passes.length()

        def on_epoch_begin(self) -> None:
            trace.append("B")
            super().on_epoch_begin()

        def on_epoch_end(self) -> None:
            trace.append("E")
            super().on_epoch_end()

        def __getattribute__(self, name: str) -> Any:
            if name.startswith("get_"):
                trace.append("G")
            elif name in {"batch_size", "has_partial_batch", "partial_batch_size"}:
                trace.append(name)
            return super().__getattribute__(name)

    def noted(batch: Any) -> Any:
        trace.append(str(number_of(batch)))
        return batch

    passes = data.passes
    one = passes.one
    passes.one = lambda: Noting(one(), noted)
    data.__class__ = Spy
    return trace


class Noting:
    """An iterator that notes what it gives, and can be closed."""

    def __init__(self, batches: Any, noted: Callable[[Any], Any]) -> None:
        self.batches, self.noted = batches, noted
        self.close = batches.close

    def __iter__(self) -> Noting:
        return self

    def __next__(self) -> Any:
        return self.noted(next(self.batches))


def expect(act: Callable[[Any], object], torch_jax: str, tf: str, **given: Any) -> None:
    dataset = given.get("dataset") or numbered(3)
    with as_keras(dataset, **THREADS) as data:
        trace = traced(data)
        act(data)
        wanted = tf if BACKEND == "tensorflow" else torch_jax
        got = " ".join(trace)
        assert got == wanted, f"Keras called {got}, not {wanted}"


def keras_calls_in_fit_of_a_new_model_are_as_known() -> None:
    expect(
        lambda data: small_model().fit(data, epochs=2, verbose=0),
        "N B G 0 N E B G 0 1 2 G E B G 0 1 2 G E",
        "N G 0 1 N E B 0 1 2 E B 0 1 2 E",
    )


def keras_calls_in_fit_of_a_model_in_use_are_as_known() -> None:
    expect(
        lambda data: small_model(built=True).fit(data, epochs=2, verbose=0),
        "N N E B G 0 1 2 G E B G 0 1 2 G E",
        "N G 0 1 N E B 0 1 2 E B 0 1 2 E",
    )


def keras_calls_in_fit_with_steps_are_as_known() -> None:
    expect(
        lambda data: small_model(built=True).fit(
            data, epochs=3, steps_per_epoch=2, verbose=0
        ),
        "N N E B G 0 1 E B 2 3 E B 4 G E",
        "N G 0 1 N E B 0 1 E B 2 3 E B 4 E",
        dataset=numbered(5),
    )


def keras_calls_in_fit_without_end_are_as_known() -> None:
    expect(
        lambda data: small_model(built=True).fit(
            data, epochs=2, steps_per_epoch=2, verbose=0
        ),
        "N N E B G 0 1 E B 2 3 E",
        "N G 0 1 N E B 0 1 E B 2 3 E",
        dataset=Endless(),
    )


def keras_calls_in_evaluate_are_as_known() -> None:
    expect(
        lambda data: small_model(built=True).evaluate(data, verbose=0),
        "N N E B G 0 1 2 G E",
        "N G 0 1 N E B 0 1 2 E",
    )


def keras_calls_in_predict_are_as_known() -> None:
    expect(
        lambda data: small_model(built=True).predict(data, verbose=0),
        "N B G 0 1 2 G E",
        "N G 0 1 B 0 1 2 E",
    )


def keras_calls_in_predict_of_a_new_model_are_as_known() -> None:
    expect(
        lambda data: small_model().predict(data, verbose=0),
        {"jax": "N B G 0 N E B G 0 1 2 G E"}.get(BACKEND, "N B G 0 1 2 G E"),
        "N G 0 1 B 0 1 2 E",
    )


def keras_calls_in_validation_are_as_known() -> None:
    expect(
        lambda data: small_model(built=True).fit(
            *next(columns(1)), epochs=2, validation_data=data, verbose=0
        ),
        "N N E B G 0 1 2 G E N E B G 0 1 2 G E",
        "N G 0 1 N E B 0 1 2 E N E B 0 1 2 E",
    )


def keras_calls_in_validation_with_steps_are_as_known() -> None:
    expect(
        lambda data: small_model(built=True).fit(
            *next(columns(1)),
            epochs=2,
            validation_data=data,
            validation_steps=2,
            verbose=0,
        ),
        "N N E B G 0 1 E N E B G 0 1 E",
        "N G 0 1 N E B 0 1 E N E B 0 1 E",
    )


def keras_calls_after_training_was_stopped_are_as_known() -> None:
    def act(data: Any) -> None:
        model = small_model(built=True)
        model.fit(data, callbacks=[stopping(0)], verbose=0)
        model.fit(data, verbose=0)

    expect(
        act,
        "N N E B G 0 N N E B G 0 1 2 G E",
        "N G 0 1 N E B 0 N G 0 1 N E B 0 1 2 E",
    )


# What comes of it


def a_look_costs_what_is_looked_at_and_no_more() -> None:
    dataset = numbered(3)
    with as_keras(dataset, workers=0) as data:
        small_model().fit(data, epochs=2, verbose=0)
        looks = 2 if BACKEND == "tensorflow" else 1
        assert dataset.asked == looks + 2 * 3, dataset.asked
        assert data.loader.epoch == 2


def a_dataset_of_one_or_two_batches_loses_no_epoch_to_a_look() -> None:
    for count in (1, 2, 3):
        dataset = numbered(count)
        with as_keras(dataset, **THREADS) as data:
            model, trained, _ = recording()
            model.fit(data, epochs=2)
            assert trained == [[*range(count)]] * 2, trained
            for _ in range(2):
                model.predict(data, verbose=0)
            small_model().predict(data, verbose=0)
            hooks = [dataset.begun, dataset.ended]
            assert hooks == [5, 5], (count, hooks)
            assert data.loader.epoch == 5, (count, data.loader.epoch)


def a_step_or_two_are_no_look() -> None:
    for steps in (1, 2, 3):
        dataset = numbered(4)
        with as_keras(dataset, **THREADS) as data:
            model, trained, _ = recording()
            for _ in range(2):
                model.fit(data, steps_per_epoch=steps)
            assert trained == [[*range(steps)]] * 2, trained
            for _ in range(2):
                model.predict(data, steps=steps, verbose=0)
            assert dataset.begun == 4, (steps, dataset.begun)


def the_getter_starts_nothing() -> None:
    dataset = numbered(3)
    before = threading.active_count()
    with as_keras(dataset, **THREADS) as data:
        for name in ("numpy_iterator", "jax_iterator", "torch_dataloader"):
            iter(getattr(data, f"get_{name}")())
        assert (dataset.asked, dataset.begun) == (0, 0)
        assert threading.active_count() == before


def what_was_built_ahead_can_be_given_back_after_a_stop() -> None:
    with Loader(numbered(6), **THREADS) as loader:
        data = as_keras(loader)
        small_model(built=True).fit(data, callbacks=[stopping(3)], verbose=0)
        data.close()
        # An epoch under way would make this a LoaderBusyError: the dataset has hooks.
        assert [number_of(batch) for batch in loader] == [*range(6)]


def hooks_that_are_missing_or_too_many_disturb_nothing() -> None:
    with as_keras(numbered(3), **THREADS) as data:
        for _ in range(3):
            data.on_epoch_end()
        data.on_epoch_begin()
        data.on_epoch_begin()
        data.on_epoch_end()
        for epoch in range(3):  # an iterator serves even if no hook is ever called
            got = [number_of(batch) for batch in data.get_numpy_iterator()]
            assert got == [0, 1, 2], got
            assert data.loader.epoch == epoch + 1


def two_uses_of_one_are_noticed() -> None:
    with as_keras(numbered(6), **THREADS) as data:
        first = data.get_numpy_iterator()
        next(first)
        next(data.get_numpy_iterator())
        said = refusal(LoaderBusyError, lambda: next(first))
        assert "as_keras of its own" in str(said)


def every_batch_sees_what_a_callback_sets_when_its_epoch_begins() -> None:
    import keras

    class Scaled(Batches):
        scale = 0

        def __getitem__(self, index: int) -> Any:
            return a_batch(self.scale)

    class Setting(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            dataset.scale = epoch + 1

    for options in ({"workers": 0}, THREADS, PROCESSES):
        dataset = Scaled(*range(4))
        model, trained, _ = recording()
        with as_keras(dataset, **options) as data:
            model.fit(data, epochs=2, callbacks=[Setting()])
        assert trained == [[1] * 4, [2] * 4], (options, trained)


def hooks_run_once_for_a_pass_that_several_epochs_share() -> None:
    dataset = numbered(4)
    with as_keras(dataset, **THREADS) as data:
        small_model().fit(data, epochs=4, steps_per_epoch=2, verbose=0)
    assert (dataset.begun, dataset.ended) == (2, 2)


def evaluating_begins_anew_each_time() -> None:
    model, _, tested = recording()
    with as_keras(numbered(5), **THREADS) as data:
        for steps in (None, 2, 2, None):
            tested.append([])
            model.evaluate(data, steps=steps, verbose=0)
    assert tested == [[*range(5)], [0, 1], [0, 1], [*range(5)]], tested


def predictions_come_in_the_order_of_the_batches_the_partial_last_one_too() -> None:
    import keras

    entrance = keras.Input((1,))
    model = keras.Model(entrance, keras.layers.Rescaling(2.0)(entrance))
    batches = [np.arange(i * 3, min(i * 3 + 3, 20))[:, None] / 1 for i in range(7)]
    with as_keras(Batches(*batches), workers=4) as data:
        for _ in range(2):
            predicted = model.predict(data, verbose=0)
            assert predicted[:, 0].tolist() == [2.0 * n for n in range(20)]


def steps_per_execution_trains_on_what_stock_keras_does() -> None:
    import keras

    class Stock(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return 5

        def __getitem__(self, index: int) -> Any:
            return a_batch(index)

    every = [(k, steps) for k in (2, 3, 7) for steps in (None, 2, 3, 4, 7)]
    few = [(2, None), (2, 3), (3, 4), (7, None)]
    many = int(os.environ.get("FEEDLINE_EXAMPLES", "1")) > 1
    for at_once, steps in every if many else few:
        given: dict[str, Any] = {"epochs": 3, "steps_per_epoch": steps}
        given["shuffle"] = False
        found = []
        with (
            as_keras(numbered(5), **THREADS) as data,
            as_keras(numbered(5), **THREADS) as checked,
        ):
            for x, y in ((data, checked), (Stock(), Stock())):
                model, trained, tested = recording(steps_per_execution=at_once)
                try:
                    model.fit(x, validation_data=y, **given)
                except ValueError:
                    if BACKEND != "torch":  # which has no such steps, in some versions
                        raise
                found.append((trained, tested))
            assert found[0] == found[1], (at_once, steps, found)
            if trained and steps is None:
                assert trained == [[*range(5)]] * 3, trained
                assert data.loader.epoch == 3
            # Refused or not, the next epoch is a whole one.
            model, trained, _ = recording()
            model.fit(data, shuffle=False)
            assert trained == [[*range(5)]], trained


def jax_may_read_one_batch_ahead() -> None:
    """As it does on an accelerator."""
    if BACKEND != "jax":
        return
    import jax

    with patch.object(jax, "default_backend", lambda: "gpu"):
        for steps, right in (
            (None, [[0, 1, 2, 3, 4]] * 3),
            (2, [[0, 1], [2, 3], [4]]),
            (5, [[0, 1, 2, 3, 4]] * 3),
        ):
            dataset, checked = numbered(5), numbered(3)
            model, trained, tested = recording()
            with (
                as_keras(dataset, **THREADS) as data,
                as_keras(checked, **THREADS) as validation,
            ):
                model.fit(
                    data,
                    epochs=3,
                    steps_per_epoch=steps,
                    validation_data=validation,
                    validation_steps=2,
                )
                assert trained == right, trained
                assert tested == [[0, 1]] * 3, tested
                assert dataset.begun == (1 if steps == 2 else 3), dataset.begun


def a_dataset_without_end_trains_step_by_step() -> None:
    model, trained, tested = recording()
    with (
        as_keras(Endless(), **THREADS) as data,
        as_keras(Endless(), **THREADS) as validation,
    ):
        model.fit(
            data,
            epochs=3,
            steps_per_epoch=4,
            validation_data=validation,
            validation_steps=2,
        )
        assert trained == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]], trained
        assert tested == [[0, 1]] * 3, tested
        model.fit(data, steps_per_epoch=2)
        assert trained[-1] == [0, 1], trained
        tested.append([])
        model.evaluate(data, steps=3, verbose=0)
        assert tested[-1] == [0, 1, 2], tested
        assert model.predict(data, steps=3, verbose=0).shape == (6, 1)


def a_dataset_without_end_is_refused_without_steps() -> None:
    with as_keras(Endless(), **THREADS) as data:
        for act in (
            lambda: small_model().fit(data, verbose=0),
            lambda: small_model().evaluate(data),
            lambda: small_model().predict(data),
            lambda: small_model().fit(*next(columns(1)), validation_data=data),
        ):
            said = refusal(ValueError, act)
            assert "without end needs a number of steps" in str(said), said


def an_empty_dataset_is_refused_by_name() -> None:
    with as_keras(Batches(), **THREADS) as data:
        said = refusal(ValueError, lambda: small_model().fit(data, verbose=0))
        assert "must have a batch" in str(said), said


def a_fit_goes_on_where_another_loader_was() -> None:
    order: dict[str, Any] = {"shuffle": True, "seed": 5}
    with Loader(numbered(4), **order) as loader:
        whole = [[number_of(batch) for batch in loader] for _ in range(3)]
        batches = iter(loader)
        received = [number_of(next(batches)) for _ in range(2)]
        state = loader.state_dict()
        rest = [number_of(batch) for batch in batches]
        later = [number_of(batch) for batch in loader]
    assert len(whole) == 3
    assert len(received) == 2
    with as_keras(numbered(4), **order, **THREADS) as data:
        data.loader.load_state_dict(state)
        model, trained, _ = recording()
        model.fit(data, epochs=2)
        assert trained == [rest, later], (trained, rest, later)


# Batches


def stock(batches: list[Any], *, class_weight: Any = None, shape: Any = None) -> Any:
    """What stock Keras makes of the batches, inline."""
    import keras

    class Same(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> Any:
            return batches[index]

    model = (shape or small_model)()
    model.fit(Same(), epochs=2, shuffle=False, verbose=0, class_weight=class_weight)
    return model.get_weights()


def agree(batches: list[Any], **options: Any) -> None:
    """Fail unless the weights are those of stock Keras."""
    wanted = stock(batches, **options)
    model = (options.pop("shape", None) or small_model)()
    with as_keras(Batches(*batches), **options, **THREADS) as data:
        model.fit(data, epochs=2, verbose=0)
    for a, b in zip(model.get_weights(), wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def pairs() -> list[Any]:
    return [*columns(3), *columns(1, rows=2)]  # the last one is smaller


def weights() -> list[Any]:
    return [np.linspace(0, 1, len(x), dtype=np.float32) for x, _ in pairs()]


def several_model() -> Any:
    import keras

    keras.utils.set_random_seed(3)
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    joint = keras.layers.Concatenate()([a, b])
    outputs = [keras.layers.Dense(1, name=name)(joint) for name in ("u", "v")]
    model = keras.Model({"a": a, "b": b}, dict(zip("uv", outputs, strict=True)))
    model.compile(keras.optimizers.SGD(0.1), {"u": "mse", "v": "mae"})
    return model


def several() -> list[Any]:
    return [({"a": x, "b": x[:, :2]}, {"u": y, "v": y + 1}) for x, y in pairs()]


def unsupervised_model() -> Any:
    import keras

    class Norm(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x: Any) -> Any:
            y = self.dense(x["a"] if isinstance(x, dict) else x)
            self.add_loss(keras.ops.mean(y**2))
            return y

    keras.utils.set_random_seed(3)
    model = keras.Sequential([Norm()])
    model.compile(keras.optimizers.SGD(0.1))
    return model


def pairs_lists_and_named_tuples_train_alike_the_partial_last_one_too() -> None:
    agree(pairs())
    agree([list(pair) for pair in pairs()])
    agree([Pair(*pair) for pair in pairs()])


def weights_of_samples_train_as_in_keras() -> None:
    agree([(*pair, w) for pair, w in zip(pairs(), weights(), strict=True)])


def a_weight_of_none_is_none() -> None:
    wanted = stock(pairs())
    model = small_model()
    with as_keras(Batches(*((*pair, None) for pair in pairs())), **THREADS) as data:
        model.fit(data, epochs=2, verbose=0)
    for a, b in zip(model.get_weights(), wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def inputs_alone_train_as_in_keras_by_name_too() -> None:
    agree([x for x, _ in pairs()], shape=unsupervised_model)
    agree([(x,) for x, _ in pairs()], shape=unsupervised_model)
    agree([{"a": x} for x, _ in pairs()], shape=unsupervised_model)


def several_inputs_and_outputs_by_name_train_as_in_keras() -> None:
    agree(several(), shape=several_model)
    agree(
        [
            (*batch, {"u": w, "v": w * 2})
            for batch, w in zip(several(), weights(), strict=True)
        ],
        shape=several_model,
    )


def lists_of_inputs_and_outputs_train() -> None:
    import keras

    a, b = keras.Input((3,)), keras.Input((3,))
    joint = keras.layers.Add()([a, b])
    model = keras.Model([a, b], [keras.layers.Dense(1)(joint) for _ in range(2)])
    model.compile("sgd", ["mse", "mse"])
    batches = Batches(*(([x, x], [y, y]) for x, y in columns(3)))
    with as_keras(batches, **THREADS) as data:
        model.fit(data, epochs=2, verbose=0)
        assert [part.shape for part in model.predict(data, verbose=0)] == [(9, 1)] * 2


def what_keras_does_not_take_is_refused_by_index_and_type() -> None:
    x, y = a_batch(0)
    for odd, name in (
        (None, "NoneType"),
        ("text", "str"),
        ((x, x, x, x), "tuple of 4"),
    ):
        batches = Batches(*[(x, y)] * 3, odd)
        with as_keras(batches, **THREADS) as data:
            fit = small_model(built=True).fit
            said = refusal(TypeError, lambda f=fit, d=data: f(d, verbose=0))  # type: ignore[misc]
            assert str(said).startswith("batch 3 of epoch 0: a batch for Keras"), said
            assert f"got a {name}" in str(said), said
    with as_keras(batches, shuffle=True, seed=3, **THREADS) as data:
        fit = small_model(built=True).fit
        assert str(refusal(TypeError, lambda: fit(data))).startswith("batch 3 of")


def an_exception_of_the_dataset_arrives_as_itself() -> None:
    good, bad = a_batch(0), Own("fourth", 4)
    note = "Raised by __getitem__(3) in epoch 0"
    executions: list[Any] = (
        [{}] if BACKEND == "torch" else [{}, {"steps_per_execution": 2}]
    )
    calls = [
        (method, compiled, THREADS)
        for method in ("fit", "evaluate", "predict")
        for compiled in executions
    ]
    for method, compiled, options in [*calls, ("fit", {}, PROCESSES)]:
        model = small_model(built=not compiled, **compiled)
        with as_keras(Batches(*[good] * 3, bad, good), **options) as data:
            call = getattr(model, method)
            error = refusal(Own, lambda c=call, d=data: c(d, verbose=0))  # type: ignore[misc]
            assert error.code == 4
            assert note in error.__notes__, error.__notes__
    with as_keras(Batches(bad, good), **THREADS) as data:
        assert refusal(Own, lambda: small_model().fit(data, verbose=0)).code == 4


def after_an_exception_the_next_epoch_is_whole() -> None:
    dataset = numbered(5)
    good = dataset.batches
    with as_keras(dataset, **THREADS) as data:
        model, trained, _ = recording()
        dataset.batches = (*good[:3], Own("late", 1), good[4])
        refusal(Own, lambda: model.fit(data))
        dataset.batches = good
        model.fit(data, epochs=2)
        assert trained[1:] == [[*range(5)]] * 2, trained


def an_exception_of_a_hook_arrives_as_itself() -> None:
    class Failing(Batches):
        def on_epoch_begin(self) -> None:
            super().on_epoch_begin()
            self.fail_in("begin", self.begun)

        def on_epoch_end(self) -> None:
            super().on_epoch_end()
            self.fail_in("end", self.ended)

        def fail_in(self, hook: str, number: int) -> None:
            if hook == failing and number == 2:
                raise Own(hook, 2)

    for failing in ("begin", "end"):
        with as_keras(Failing(*numbered(3).batches), **THREADS) as data:
            model, trained, _ = recording()
            error = refusal(Own, lambda: model.fit(data, epochs=3))  # noqa: B023 - now
            assert error.args == (failing, 2), error
            assert len(trained) == 2, trained


# What is given to fit, and what to as_keras


def class_weight_weighs_as_in_keras() -> None:
    from keras.src.trainers.data_adapters import data_adapter_utils

    from feedline.keras_batches import ClassWeights

    rng = np.random.default_rng(7)
    for _ in range(500):
        classes = int(rng.integers(1, 6))
        rows = int(rng.integers(1, 7))
        kind = rng.integers(4)
        if kind == 0:
            targets: Any = rng.integers(-1, classes + 1, rows)
        elif kind == 1:
            targets = rng.uniform(-0.6, classes, (rows, 1)).astype(np.float32)
        elif kind == 2:
            targets = np.eye(classes + 1)[rng.integers(0, classes, rows)]
        else:
            targets = rng.integers(0, 2, rows).astype(bool)
        keys = rng.permutation(classes)[: rng.integers(0, classes + 1)]
        table = {int(key): float(rng.random() * 3) for key in keys}
        got = ClassWeights(table).of(targets)
        wanted = data_adapter_utils.class_weight_to_sample_weights(targets, table)
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == wanted.dtype


def class_weight_trains_to_the_same_weights() -> None:
    batches = [(x, np.array([0, 1, 2])) for x, _ in columns(3)]
    agree(batches, class_weight={0: 3.0, 1: 0.5})


def class_weight_that_does_not_fit_a_batch_is_refused_by_its_index() -> None:
    x, y = a_batch(0)
    batches = Batches(*[(x, y)] * 3, (x, y, y[:, 0]))
    with as_keras(batches, class_weight={0: 1.0}, **THREADS) as data:
        fit = small_model(built=True).fit
        said = str(refusal(ValueError, lambda: fit(data, verbose=0)))
        assert said.startswith("batch 3 of epoch 0: class_weight needs"), said


def what_keras_would_pass_over_is_refused() -> None:
    given: dict[str, Any] = {
        "class_weight": {0: 2.0},
        "sample_weight": np.ones(6),
        "y": np.ones(6),
    }
    with as_keras(numbered(3), **THREADS) as data:
        for name, value in given.items():
            calls = ["fit"] if name == "class_weight" else ["fit", "evaluate"]
            for method in calls:
                call = getattr(small_model(), method)
                said = refusal(
                    ValueError,
                    lambda c=call, n=name, v=value: c(data, **{n: v}, verbose=0),  # type: ignore[misc]
                )
                assert f"{name} does not reach data" in str(said), said
        x, y = next(columns(1))
        said = refusal(
            ValueError, lambda: small_model().fit(x, y, validation_data=(data, y))
        )
        assert "y does not reach data" in str(said), said
        refusal(ValueError, lambda: small_model().fit(data, validation_split=0.5))
        # Of what concerns other data than ours nothing is said.
        said_nothing = warned(
            lambda: small_model().fit(
                x,
                y,
                class_weight={0: 1.0},
                batch_size=2,
                verbose=0,
                validation_data=data,
                validation_steps=1,
            )
        )
        assert said_nothing == [], said_nothing


def what_fit_says_of_shuffling_is_never_passed_over_in_silence() -> None:
    for shuffles in (False, True):
        with as_keras(numbered(3), shuffle=shuffles, **THREADS) as data:
            for said in (False, True):
                for call in (
                    lambda d, s: small_model().fit(d, shuffle=s, verbose=0, epochs=2),
                    lambda d, s: recording()[0].fit(d, shuffle=s, epochs=2),
                ):
                    words = warned(lambda c=call, s=said: c(data, s))  # type: ignore[misc]
                    assert len(words) == (shuffles != said), (shuffles, said, words)
            # True is what fit says unless it is told.
            words = warned(lambda: small_model().fit(data, verbose=0))
            assert len(words) == (not shuffles), (shuffles, words)
            assert warned(lambda: small_model().evaluate(data, verbose=0)) == []
            words = warned(lambda: small_model().predict(data, verbose=0))
            assert len(words) == shuffles, (shuffles, words)


def a_batch_size_is_told_to_be_without_effect() -> None:
    with as_keras(numbered(3), shuffle=True, **THREADS) as data:
        for method in ("fit", "evaluate"):
            call = getattr(small_model(), method)
            words = warned(lambda c=call: c(data, batch_size=2, verbose=0))  # type: ignore[misc]
            assert len(words) == 1, words
            assert f"{method}(batch_size=2)" in words[0]


# Datasets of Keras, and the end of the workers


def keras_dataset(*, with_init: bool) -> Any:
    import keras

    class Written(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            if with_init:
                super().__init__(workers=4, use_multiprocessing=True, max_queue_size=5)
            self.batches = pairs()
            self.epoch = 0

        def __len__(self) -> int:
            return len(self.batches)

        def on_epoch_end(self) -> None:
            self.epoch += 1

        def __getitem__(self, index: int) -> Any:
            x, y = self.batches[index]
            return x + self.epoch, y

    return Written()


def a_dataset_of_keras_trains_unchanged() -> None:
    for with_init in (True, False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras' own, where __init__ is not called
            inline = keras_dataset(with_init=with_init)
            inline.workers = 0
            inline.use_multiprocessing = False
            wanted = small_model(built=True)
            # Keras calls the hook once more before it begins.
            inline.epoch = -1
            wanted.fit(inline, epochs=2, shuffle=False, verbose=0)
            model = small_model(built=True)
            with as_keras(keras_dataset(with_init=with_init)) as data:
                options = data.loader.options
                chosen = options.workers, options.processes, options.max_queue_size
                assert chosen == ((4, True, 5) if with_init else (1, False, 10)), chosen
                model.fit(data, epochs=2, verbose=0)
        for a, b in zip(model.get_weights(), wanted.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)


def workers_end_with_what_as_keras_made() -> None:
    for options in (THREADS, PROCESSES):
        data = as_keras(numbered(3), **options)
        loader = data.loader
        small_model().fit(data, verbose=0)
        iter(loader)
        del data
        gc.collect()
        refusal(LoaderClosedError, lambda: iter(loader))  # noqa: B023 - called here


def after_a_stop_workers_end_with_what_as_keras_made() -> None:
    data = as_keras(numbered(9), **PROCESSES)
    loader = data.loader
    small_model().fit(data, callbacks=[stopping(1)], verbose=0)
    del data
    gc.collect()
    refusal(LoaderClosedError, lambda: iter(loader))


def nothing_keeps_what_a_fit_has_done_with() -> None:
    model = small_model(built=True)
    gc.collect()
    gc.disable()
    try:
        data = as_keras(numbered(3), **THREADS)
        kept = weakref.ref(data)
        model.fit(data, epochs=2, verbose=0)
        del data
        assert kept() is None
    finally:
        gc.enable()


def a_loader_that_is_given_stays_open() -> None:
    with Loader(numbered(3), **THREADS) as loader:
        with as_keras(loader) as data:
            small_model().fit(data, verbose=0)
        del data
        gc.collect()
        assert [number_of(batch) for batch in loader] == [0, 1, 2]


# Without the private part of Keras, and without ours


def without_the_private_adapter_the_public_dataset_serves() -> None:
    import keras

    from . import keras_matrix

    # An import of what is None raises ImportError.
    gone = "keras.src.trainers.data_adapters.data_adapter"
    cases = keras_matrix.covering(keras_matrix.everything(), 2)
    cases = [case for case in cases if case.way in {"inline", "4 threads"}]
    if BACKEND == "tensorflow":
        # It looks without a hook. After a stop that costs the number of an epoch.
        cases = [case for case in cases if case.ending == "whole"]
    assert len(cases) > 3
    with patch.dict(sys.modules, {gone: None}):
        with as_keras(numbered(3), workers=0) as data:
            assert isinstance(data, keras.utils.PyDataset)
        wrong = [
            (case, found)
            for case in cases
            if (found := keras_matrix.run(case, as_keras))
        ]
    assert wrong == [], wrong


def the_recorder_sees_what_stock_keras_does_wrong() -> None:
    """With several workers Keras mixes batches of one epoch into another."""
    from . import keras_matrix

    training = [[0, 1, 2, 3, 4]] * 3
    validation = [[0, 1]] * 3
    for way, made, right in (
        ("inline", keras_matrix.stock, True),
        ("4 threads", keras_matrix.stock, False),
        ("4 threads", as_keras, True),
    ):
        case = keras_matrix.Case(way, False, 3, None, "steps", "plain", "whole")
        got = keras_matrix.indices(case, made)
        assert (got == (training, validation)) == right, (way, got)


# Functions that take nothing and give nothing: a check cannot be forgotten.
CHECKS = [
    check
    for check in list(vars().values())
    if inspect.isfunction(check) and str(inspect.signature(check)) == "() -> 'None'"
]


def main() -> None:
    """The command line."""
    warnings.filterwarnings("ignore", "Your input ran out of data")
    warnings.filterwarnings("ignore", ".*is passed over")
    tell(CHECKS)


if __name__ == "__main__":
    main()
