"""Every way to call ``fit``, and what it must train on.

``KERAS_BACKEND=torch python -m tests.loader.keras_matrix`` runs cases in which any two
choices meet, ``--meeting 3`` any three; ``--meeting 7`` runs all there are. Prints a line
for each case that went wrong, and how many there were.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import warnings
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from feedline import Loader, PyDataset, get_worker_info

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LENGTH, VALIDATION_LENGTH = 5, 3
WAYS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "1 thread": {"workers": 1, "use_multiprocessing": False},
    "4 threads": {"workers": 4, "use_multiprocessing": False},
    "1 process": {"workers": 1, "use_multiprocessing": True},
    "4 processes": {"workers": 4, "use_multiprocessing": True},
}
CHOICES: dict[str, list[Any]] = {
    "way": list(WAYS),
    "warm": [False, True],
    "epochs": [1, 2, 3],
    "steps": [None, 2, LENGTH, LENGTH + 2],
    "validation": ["none", "whole", "steps"],
    "order": ["plain", "shuffled", "endless"],
    "ending": ["whole", "stopped", "raised"],
}


@dataclass(frozen=True)
class Case:
    """One call of ``fit``."""

    way: str
    warm: bool
    epochs: int
    steps: int | None
    validation: str
    order: str
    ending: str


class Stamped(PyDataset):
    """Batches that tell which they are, in which epoch, and their random state."""

    def __init__(self, length: int | None) -> None:
        super().__init__()
        self.length = length
        self.begun = 0
        self.hooks: list[str] = []

    @property
    def num_batches(self) -> int | None:
        return self.length

    def on_epoch_begin(self) -> None:
        assert get_worker_info() is None
        self.begun += 1
        self.hooks.append("begin")

    def on_epoch_end(self) -> None:
        self.hooks.append("end")

    def __getitem__(self, index: int) -> Any:
        rows = 2 if index == LENGTH - 1 else 3  # the last batch is smaller
        x = np.empty((rows, 3), np.float32)
        x[:] = index, self.begun, self.rng.random()
        return x / 10, x[:, :1].copy()


def stamp(batch: Any) -> tuple[float, ...]:
    """What distinguishes a batch, from whatever Keras hands to a step."""
    x = batch[0]
    x = x.detach().cpu() if hasattr(x, "detach") else x
    return tuple(np.asarray(x)[0].round(5).tolist())


class Oracle:
    """Which batches must come, worked out by hand from the plan's epochs."""

    def __init__(self, length: int | None, *, shuffle: bool, most: int) -> None:
        self.batches = []
        with Loader(Stamped(length), workers=0, shuffle=shuffle, seed=1) as loader:
            for _ in range(most):
                self.batches.append(list(itertools.islice(loader, 40)))
        self.epoch, self.position = -1, 0
        self.length = length
        self.hooks: list[str] = []

    def begin(self) -> None:
        """A pass begins, whatever became of the one before."""
        self.epoch, self.position = self.epoch + 1, 0
        self.hooks.append("begin")

    def take(self, steps: int | None) -> list[Any]:
        """The batches of one epoch of Keras'."""
        if self.epoch < 0 or self.position == self.length or steps is None:
            self.begin()
        start = self.position
        stop = min(start + (steps or 40), self.length or 1000)
        self.position = stop
        if stop == self.length:
            self.hooks.append("end")
        return self.batches[self.epoch][start:stop]


def recorder(record: list[Any]) -> Any:
    """A model that notes each batch that its steps get."""
    import keras

    jax = keras.backend.backend() == "jax"

    class Model(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x: Any) -> Any:
            return self.dense(x)

        def train_step(self, *arguments: Any) -> Any:
            record.append(("train", stamp(arguments[1 if jax else 0])))
            return super().train_step(*arguments)

        def test_step(self, *arguments: Any) -> Any:
            record.append(("test", stamp(arguments[1 if jax else 0])))
            return super().test_step(*arguments)

    keras.utils.set_random_seed(3)
    model = Model()
    model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
    return model


def warm_up(model: Any) -> None:
    """Build everything, so that Keras need not look at a batch."""
    model.fit(np.ones((2, 3)), np.ones((2, 1)), epochs=1, verbose=0)


class Boom(Exception):
    """Raised by a callback."""


def endings(case: Case, record: list[Any]) -> Any:
    """Notes where epochs begin; ends the fit after the second batch of the last."""
    import keras

    class Ending(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.last = epoch == case.epochs - 1
            record.append(("epoch", epoch))

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if self.last and batch == 1:
                if case.ending == "stopped":
                    self.model.stop_training = True
                elif case.ending == "raised":
                    raise Boom

    return Ending()


def expected(case: Case, training: Oracle, validation: Oracle) -> tuple[Any, bool]:
    """What the record must be, and whether the callback raises."""
    record: list[Any] = []
    steps = 2 if case.validation == "steps" else None
    for epoch in range(case.epochs):
        record.append(("epoch", epoch))
        batches = training.take(case.steps)
        stops = case.ending != "whole" and epoch == case.epochs - 1
        if stops and len(batches) >= 2:
            if training.position == training.length and len(batches) > 2:
                training.hooks.pop()
            batches = batches[:2]
        record += [("train", stamp(batch)) for batch in batches]
        if stops and len(batches) == 2 and case.ending == "raised":
            return record, True
        if case.validation != "none":
            validation.begin()
            validation.position = 0
            got = validation.batches[validation.epoch][:steps]
            if steps is None:
                validation.hooks.append("end")
            record += [("test", stamp(batch)) for batch in got]
    return record, False


def fit(
    case: Case, model: Any, data: Any, validation_data: Any, *callbacks: Any
) -> None:
    """Call it as the case says."""
    arguments: dict[str, Any] = {}
    if case.validation != "none":
        arguments["validation_data"] = validation_data
    if case.validation == "steps":
        arguments["validation_steps"] = 2
    model.fit(
        data,
        epochs=case.epochs,
        steps_per_epoch=case.steps,
        callbacks=[*callbacks],
        shuffle=case.order == "shuffled",
        verbose=0,
        **arguments,
    )


def indices(case: Case, adapted: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Which batches each epoch trained on, and each round validated with."""
    record: list[Any] = []
    options = {"seed": 1, **WAYS[case.way]}
    with (
        adapted(Stamped(LENGTH), **options) as data,
        adapted(Stamped(VALIDATION_LENGTH), **options) as validation_data,
    ):
        fit(case, recorder(record), data, validation_data, endings(case, record))
    trained: list[list[int]] = []
    validated: list[list[int]] = []
    for kind, what in record:
        if kind == "epoch":
            trained.append([])
            validated.append([])
        else:
            kinds = trained if kind == "train" else validated
            kinds[-1].append(round(10 * what[0]))
    return trained, validated


def run(case: Case, adapted: Any) -> list[str]:
    """Fit, and say what was wrong."""
    length = None if case.order == "endless" else LENGTH
    shuffle = case.order == "shuffled"
    training = Oracle(length, shuffle=shuffle, most=6)
    validation = Oracle(VALIDATION_LENGTH, shuffle=False, most=4)
    dataset, validated = Stamped(length), Stamped(VALIDATION_LENGTH)
    record: list[Any] = []
    model = recorder(record)
    if case.warm:
        warm_up(model)
        record.clear()
    wrong = []
    options = {"seed": 1, **WAYS[case.way]}
    with (
        adapted(dataset, shuffle=shuffle, **options) as data,
        adapted(validated, **options) as validation_data,
    ):
        raised = False
        try:
            fit(case, model, data, validation_data, endings(case, record))
        except Boom:
            raised = True
        wanted, must_raise = expected(case, training, validation)
        if record != wanted:
            wrong.append(f"trained on {record}, not on {wanted}")
        if raised != must_raise:
            wrong.append(f"the callback raised: {raised}")
        for name, got, must in (
            ("training", dataset.hooks, training.hooks),
            ("validation", validated.hooks, validation.hooks),
        ):
            if got[: len(must)] != must or len(got) > len(must) + 1:
                wrong.append(f"{name} hooks ran as {got}, not as {must}")
        weights = [np.asarray(weight) for weight in model.get_weights()]
        if not all(map(np.array_equal, weights, stock_weights(case, training, wanted))):
            wrong.append("the weights are not those of stock Keras")
        # Once more with what is left lying about: a whole epoch of the plan.
        record.clear()
        steps = None if length else LENGTH
        model.fit(data, steps_per_epoch=steps, shuffle=shuffle, verbose=0)
        again = training.batches[training.epoch + 1][:LENGTH]
        if record != [("train", stamp(batch)) for batch in again]:
            wrong.append(f"then trained on {record}, not on {again}")
    return wrong


def stock_weights(case: Case, training: Oracle, record: list[Any]) -> list[Any]:
    """What stock Keras makes of the same batches, inline and in one epoch."""
    import keras

    by_stamp = {stamp(batch): batch for epoch in training.batches for batch in epoch}
    batches = [by_stamp[what] for kind, what in record if kind == "train"]

    class Replay(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> Any:
            return batches[index]

    model = recorder([])
    if case.warm:
        warm_up(model)
    model.fit(Replay(), epochs=1, shuffle=False, verbose=0)
    return [np.asarray(weight) for weight in model.get_weights()]


def stock(dataset: Stamped, *, seed: int, **options: Any) -> Any:
    """Keras' own engine, in the place of ours: what the recorder must catch."""
    import contextlib

    import keras

    options.pop("shuffle", None)

    class Same(keras.utils.PyDataset):  # type: ignore[misc]
        begun = 0
        rng = np.random.default_rng(0)

        @property
        def num_batches(self) -> int | None:
            return dataset.num_batches

        on_epoch_begin = dataset.on_epoch_begin
        on_epoch_end = dataset.on_epoch_end

        def __getitem__(self, index: int) -> Any:
            return dataset[index]

    return contextlib.nullcontext(Same(**options))


def is_possible(case: Case) -> bool:
    """Without an end or steps, an epoch would have no end either."""
    return case.order != "endless" or case.steps is not None


def everything() -> Iterator[Case]:
    """The full product."""
    for values in itertools.product(*CHOICES.values()):
        if is_possible(case := Case(*values)):
            yield case


def covering(cases: Iterable[Case], strength: int) -> list[Case]:
    """Few cases in which any two (or three) choices meet that meet in one at all."""
    names = [field.name for field in fields(Case)]

    def meetings(case: Case) -> set[Any]:
        chosen = [(name, getattr(case, name)) for name in names]
        return set(itertools.combinations(chosen, strength))

    left = {case: meetings(case) for case in cases}
    chosen = []
    while left:
        best = max(left, key=lambda case: len(left[case]))
        met = left[best]
        chosen.append(best)
        left = {case: rest for case in left if (rest := left[case] - met)}
    return chosen


def tell(**facts: Any) -> None:
    """A line of JSON."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.loader.keras_matrix")
    parser.add_argument("--meeting", type=int, default=2, help="choices that meet")
    parser.add_argument("--part", type=int, default=0, help="which, from 0")
    parser.add_argument("--parts", type=int, default=1, help="to share the cases out")
    parser.add_argument("--start-method", default=None)
    options = parser.parse_args()
    from feedline.keras import as_keras

    warnings.filterwarnings("ignore", "Your input ran out of data")
    for way in WAYS.values():
        if way.get("use_multiprocessing"):
            way["start_method"] = options.start_method
    cases = [*everything()]
    if options.meeting < len(CHOICES):
        cases = covering(cases, options.meeting)
    cases = cases[options.part :: options.parts]
    bad = 0
    for number, case in enumerate(cases):
        if number and number % 200 == 0:
            sys.stderr.write(f"{number} of {len(cases)} cases, {bad} wrong\n")
        wrong = run(case, as_keras)
        if wrong:
            bad += 1
            tell(case=asdict(case), wrong=wrong)
    tell(backend=os.environ["KERAS_BACKEND"], cases=len(cases), wrong=bad)


if __name__ == "__main__":
    main()
