"""Trains with the Keras of this process's backend, and prints what was trained on.

Its ``main`` is run in a process of its own: frameworks start threads, and belong to no
process that tests fork.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from feedline import Loader
from feedline.keras import as_keras
from tests.datasets import Named, Stamped, Weighted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WAYS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "1 thread": {"workers": 1},
    "4 threads": {"workers": 4},
    "1 process": {"workers": 1, "use_multiprocessing": True},
    "4 processes": {"workers": 4, "use_multiprocessing": True},
}
STEPS = (None, 2, 5, 7)


class Recording(keras.Model):  # type: ignore[misc]
    """Notes the stamps of every batch that it is trained or tested on."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.trained: list[list[Any]] = []
        self.tested: list[list[Any]] = []

    def train_step(self, *arguments: Any) -> Any:
        self.trained[-1].append(stamps(arguments[-1]))
        return super().train_step(*arguments)

    def test_step(self, *arguments: Any) -> Any:
        self.tested[-1].append(stamps(arguments[-1]))
        return super().test_step(*arguments)


class Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Parts what is noted into epochs; ends training, or fails, where it is told to."""

    def __init__(self, ending: str = "", at: int = 1) -> None:
        super().__init__()
        self.ending = ending
        self.at = at

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.model.trained.append([])

    def on_test_begin(self, logs: Any = None) -> None:
        self.model.tested.append([])

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if batch == self.at and self.ending == "stop":
            self.model.stop_training = True
        if batch == self.at and self.ending == "raise":
            raise InterruptedError


def stamps(data: Any) -> list[int]:
    x, y = data[0], data[1]
    return [int(np.asarray(x)[0, 0]), int(np.asarray(y)[0, 0])]


def model() -> Any:
    keras.utils.set_random_seed(1)
    entrance = keras.Input((3,))
    made = Recording(entrance, keras.layers.Dense(1)(entrance))
    made.compile("sgd", "mse", run_eagerly=True, jit_compile=False)
    return made


def run(way: str, epochs: int, steps: int | None, *, warm: bool, check: str) -> Any:
    """One fit; with ``check``, validation of that many steps, or of all."""
    learner = model()
    if warm:
        learner.trained.append([])
        rows = np.zeros((4, 3), "float32"), np.zeros((4, 1), "float32")
        learner.fit(*rows, verbose=0)
        learner.trained.clear()
    data, validation = Stamped(), Stamped(3)
    with (
        Loader(data, **WAYS[way]) as loader,
        Loader(validation, **WAYS[way]) as measured,
    ):
        more: dict[str, Any] = {}
        if check:
            more = {"validation_data": as_keras(measured)}
            if check != "all":
                more["validation_steps"] = int(check)
        learner.fit(
            as_keras(loader), epochs=epochs, steps_per_epoch=steps, verbose=0,
            callbacks=[Epochs()], **more,
        )  # fmt: skip
    return {
        "trained": learner.trained,
        "tested": learner.tested,
        "hooks": [data.begun, data.ended],
    }


def cases() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every way with every count of steps, and in turn everything else."""
    others = itertools.cycle(
        itertools.product((1, 2, 3), (False, True), ("", "all", "2", "9"))
    )
    every = int(os.environ.get("FEEDLINE_EXAMPLES", "1")) > 1
    for way, steps in itertools.product(WAYS, STEPS):
        for epochs, warm, check in (
            itertools.product((1, 2, 3), (False, True), ("", "all", "2", "9"))
            if every
            else itertools.islice(others, 2)
        ):
            name = json.dumps([way, epochs, steps, warm, check])
            yield (
                name,
                lambda *a, w=way, e=epochs, s=steps, v=warm, c=check: run(
                    w, e, s, warm=v, check=c
                ),
            )


def ended_early(way: str, ending: str) -> Any:
    """A fit that ends in its first epoch, and another one after it."""
    learner = model()
    data = Stamped()
    with Loader(data, **WAYS[way]) as loader:
        adapted = as_keras(loader)
        try:
            learner.fit(adapted, epochs=3, verbose=0, callbacks=[Epochs(ending, 2)])
        except InterruptedError:
            learner.trained.append(["raised"])
        learner.fit(adapted, epochs=1, verbose=0, callbacks=[Epochs()])
    return learner.trained


class Setting(Epochs):
    """Changes the dataset when an epoch begins, after Keras has looked at a batch."""

    def __init__(self, dataset: Stamped) -> None:
        super().__init__()
        self.dataset = dataset

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch)
        self.dataset.begun = 100 * (epoch + 1)


def told(way: str) -> Any:
    """What batches tell of a state that a callback has set."""
    learner = model()
    data = Stamped()
    with Loader(data, **WAYS[way]) as loader:
        learner.fit(as_keras(loader), epochs=2, verbose=0, callbacks=[Setting(data)])
    return [sorted({number for _, number in epoch}) for epoch in learner.trained]


def halves(way: str) -> Any:
    """Two epochs of Keras' for each of the loader's: how often its hooks ran."""
    data = Stamped(4)
    with Loader(data, **WAYS[way]) as loader:
        model().fit(
            as_keras(loader), epochs=4, steps_per_epoch=2, verbose=0,
            callbacks=[Epochs()],
        )  # fmt: skip
    return [data.begun, data.ended]


def evaluated(way: str) -> Any:
    """Evaluating twice and predicting, with one adapter."""
    learner = model()
    with Loader(Stamped(), **WAYS[way]) as loader:
        adapted = as_keras(loader)
        for steps in (None, 2, 2, None):
            learner.evaluate(adapted, steps=steps, verbose=0, callbacks=[Epochs()])
        predicted = learner.predict(adapted, verbose=0)
    return [learner.tested, list(predicted.shape)]


def weights(way: str) -> Any:
    """After training on a loader, and on Keras' own dataset in the training thread."""

    class Same(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> Any:
            rng = np.random.default_rng(index)
            return rng.random((8, 3), "float32"), rng.random((8, 1), "float32")

    found = []
    with Loader(Same(), **WAYS[way]) as loader:
        for data in (as_keras(loader), Same()):
            learner = model()
            learner.fit(data, epochs=3, shuffle=False, verbose=0, callbacks=[Epochs()])
            found.append([w.numpy().tolist() for w in map(_array, learner.weights)])
    return found


def _array(variable: Any) -> Any:
    value = keras.ops.convert_to_numpy(variable)
    return type("Value", (), {"numpy": lambda self: value})()


def nested(way: str) -> Any:
    """Several inputs and outputs by name, sample weights, and weights of classes."""
    a, b = keras.Input((2,), name="a"), keras.Input((1,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    outputs = {
        "p": keras.layers.Dense(1, name="p")(joined),
        "q": keras.layers.Dense(1, name="q")(joined),
    }
    learner = keras.Model({"a": a, "b": b}, outputs)
    learner.compile("sgd", {"p": "mse", "q": "mse"})

    with Loader(Named(), **WAYS[way]) as loader:
        history = learner.fit(as_keras(loader), epochs=2, verbose=0)
    weighted = []
    for dataset, options in (
        (Weighted(own=True), {}),
        (Weighted(own=False), {"class_weight": {0: 2.0, 1: 0.5}}),
    ):
        learner = model()
        with Loader(dataset, **WAYS[way]) as loader:
            learner.fit(as_keras(loader, **options), verbose=0, callbacks=[Epochs()])
        weighted.append(keras.ops.convert_to_numpy(learner.weights[0]).tolist())
    return [len(history.history["loss"]), weighted]


def of_keras() -> Any:
    """Keras' own dataset, in four threads of its own: what the stamps would catch."""

    class Own(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(workers=4, max_queue_size=10)

        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> Any:
            return np.full((4, 3), index, "float32"), np.zeros((4, 1), "float32")

    learner = model()
    learner.fit(Own(), epochs=4, verbose=0, callbacks=[Epochs()])
    return [sorted(index for index, _ in epoch) for epoch in learner.trained]


def main() -> None:
    warnings.simplefilter("ignore")  # of epochs cut short, and of forks beside threads
    found: dict[str, Any] = {name: case() for name, case in cases()}
    for way in WAYS:
        found[f"stop {way}"] = ended_early(way, "stop")
        found[f"raise {way}"] = ended_early(way, "raise")
    for way in ("inline", "4 threads", "4 processes"):
        found[f"evaluate {way}"] = evaluated(way)
        found[f"weights {way}"] = weights(way)
        found[f"nested {way}"] = nested(way)
        found[f"told {way}"] = told(way)
        found[f"halves {way}"] = halves(way)
    found["keras"] = of_keras()
    sys.stdout.write(json.dumps([keras.backend.backend(), found]) + "\n")
