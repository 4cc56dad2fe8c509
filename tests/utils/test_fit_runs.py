"""Runs of ``fit``: steps, callbacks, an early end, and going on after one."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedline import Loader
from feedline.utils import Callback, EarlyStopping, fit
from tests import datasets
from tests.utils.differential import cases

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KINDS: dict[str, dict[str, Any]] = {
    "inline": {"workers": 0},
    "thread": {"workers": 2},
    "fork": {"workers": 2, "use_multiprocessing": True},
}


class Taken:
    """A step that notes its batches, and a callback that parts them into epochs."""

    def __init__(self) -> None:
        self.epochs: list[list[Any]] = []

    def on_epoch_begin(self, epoch: int) -> None:
        assert epoch == len(self.epochs)
        self.epochs.append([])

    def step(self, batch: Any) -> Mapping[str, float]:
        self.epochs[-1].append(batch)
        return {"loss": float(batch)}


def taken(data: Any, **options: Any) -> list[list[Any]]:
    noted = Taken()
    fit(noted.step, data, callbacks=[noted], verbose=0, **options)
    return noted.epochs


# ---- steps ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_steps_that_divide_the_data_go_through_it_again_and_again(kind: str) -> None:
    with Loader(datasets.Numbers(6), **KINDS[kind]) as loader:
        epochs = taken(loader, epochs=4, steps_per_epoch=2)
    assert epochs == [[0, 1], [2, 3], [4, 5], [0, 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_in_which_the_data_ends_is_a_short_one(kind: str) -> None:
    with (
        Loader(datasets.Numbers(5), **KINDS[kind]) as loader,
        pytest.warns(UserWarning, match="data ended after 1 of steps_per_epoch=2") as w,
    ):
        epochs = taken(loader, epochs=6, steps_per_epoch=2)
    assert epochs == [[0, 1], [2, 3], [4], [0, 1], [2, 3], [4]]
    assert len(w) == 1


def test_more_steps_than_there_are_batches_end_with_the_data() -> None:
    with pytest.warns(UserWarning, match="data ended after 3 of steps_per_epoch=9"):
        assert taken([0, 1, 2], epochs=2, steps_per_epoch=9) == [[0, 1, 2]] * 2


def test_data_without_end_has_epochs_of_so_many_steps() -> None:
    with Loader(datasets.Blocks(None), workers=2) as loader:
        epochs = taken(
            (index for index, _ in loader), epochs=3, steps_per_epoch=4
        )  # a generator goes on where it is
    assert epochs == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_a_generator_of_the_user_s_is_left_as_it_is() -> None:
    numbers = (number for number in count())
    assert taken(numbers, epochs=2, steps_per_epoch=2) == [[0, 1], [2, 3]]
    assert next(numbers) == 4


def test_hooks_run_once_for_each_pass_whatever_the_steps() -> None:
    dataset = datasets.Stateful(6)
    noted: list[int] = []

    def step(batch: Any) -> Mapping[str, float]:
        noted.append(batch[1])
        return {}

    with Loader(dataset, workers=2) as loader:
        fit(step, loader, epochs=6, steps_per_epoch=2, verbose=0)
    assert noted == [1] * 6 + [2] * 6
    assert (dataset.begun, dataset.ended) == (2, 2)


def test_validation_takes_its_first_steps_each_time() -> None:
    seen: list[int] = []

    def test(batch: int) -> Mapping[str, float]:
        seen.append(batch)
        return {"loss": batch}

    with Loader(datasets.Numbers(5), workers=2) as loader:
        history = fit(
            lambda batch: {}, [0], epochs=3, verbose=0, test_step=test,
            validation_data=loader, validation_steps=2,
        )  # fmt: skip
    assert seen == [0, 1] * 3
    assert history["val_loss"] == [0.5] * 3


@pytest.mark.parametrize("name", ["epochs", "steps_per_epoch", "validation_steps"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "3"])
def test_a_number_that_is_none_is_refused(name: str, value: Any) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"{name} must be an integer of 1 or more"):
        fit(lambda batch: {}, [0], verbose=0, **options)


# ---- callbacks -----------------------------------------------------------------------


class Noting(Callback):
    """Notes every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def on_train_begin(self) -> None:
        self.calls.append(("train",))

    def on_train_end(self) -> None:
        self.calls.append(("end",))

    def on_epoch_begin(self, epoch: int) -> None:
        self.calls.append(("epoch", epoch))

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.calls.append(("epoch end", epoch, logs))

    def on_batch_begin(self, batch: int) -> None:
        self.calls.append(("batch", batch))

    def on_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        self.calls.append(("batch end", batch, logs))


def test_hooks_of_callbacks_come_in_order_with_what_is_known() -> None:
    noting = Noting()
    fit(
        lambda batch: {"loss": batch}, [2, 4], epochs=2, verbose=0, callbacks=[noting],
        validation_data=[7], test_step=lambda batch: {"loss": batch},
    )  # fmt: skip
    logs = {"loss": 3.0, "val_loss": 7.0}
    steps = [
        ("batch", 0), ("batch end", 0, {"loss": 2.0}),
        ("batch", 1), ("batch end", 1, {"loss": 3.0}),
    ]  # fmt: skip
    assert noting.calls == [
        ("train",),
        ("epoch", 0), *steps, ("epoch end", 0, logs),
        ("epoch", 1), *steps, ("epoch end", 1, logs),
        ("end",),
    ]  # fmt: skip


class Stopping(Callback):
    def __init__(self, hook: str, number: int) -> None:
        def stop(at: int, *_: object) -> None:
            if at == number:
                self.training.stop()

        setattr(self, hook, stop)


def test_training_that_is_stopped_in_an_epoch_ends_it_and_is_over() -> None:
    noted = Taken()
    history = fit(
        noted.step, [1, 2, 3], epochs=5, verbose=0,
        callbacks=[noted, Stopping("on_batch_end", 1)],
        validation_data=[0], test_step=lambda batch: {"loss": 0},
    )  # fmt: skip
    assert noted.epochs == [[1, 2]]
    assert dict(history) == {"loss": [1.5], "val_loss": [0.0]}


def test_training_that_is_stopped_after_an_epoch_is_over() -> None:
    noted = Taken()
    fit(
        noted.step, [1, 2], epochs=5, verbose=0,
        callbacks=[noted, Stopping("on_epoch_end", 2)],
    )  # fmt: skip
    assert len(noted.epochs) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_batch_end", "on_epoch_end"])
def test_an_exception_in_a_callback_comes_out_and_the_loader_goes_on(
    kind: str, hook: str
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("mine")

    callback = SimpleNamespace(**{hook: fail})
    with Loader(datasets.Numbers(20), **KINDS[kind]) as loader:
        with pytest.raises(KeyError, match="mine"):
            fit(lambda batch: {}, loader, verbose=0, callbacks=[callback])
        assert list(loader) == list(range(20))


@pytest.mark.parametrize("wrong", [object(), EarlyStopping, print], ids=type)
def test_what_has_no_hook_is_no_callback(wrong: Any) -> None:
    with pytest.raises(TypeError, match="a callback must be an object with one of"):
        fit(lambda batch: {}, [0], verbose=0, callbacks=[wrong])


def test_a_hook_that_nothing_would_call_is_refused() -> None:
    class Ported(Callback):
        def on_train_batch_end(self, batch: int, logs: Any) -> None:
            raise AssertionError("who calls?")

    with pytest.raises(TypeError, match=r"got \['on_train_batch_end'\]"):
        fit(lambda batch: {}, [0], verbose=0, callbacks=[Ported()])


@pytest.mark.parametrize("name", ["steps_per_epoch", "validation_steps"])
def test_data_without_end_is_refused_where_no_steps_are_said(name: str) -> None:
    taken = []

    def step(batch: Any) -> Mapping[str, float]:
        taken.append(batch)
        return {}

    given = {"steps_per_epoch": 2, "validation_steps": 2, name: None}
    with (
        Loader(datasets.Blocks(None), workers=0) as data,
        Loader(datasets.Blocks(None), workers=0) as validation,
        pytest.raises(ValueError, match=f"{name} must say how many batches to take"),
    ):
        fit(
            step, data, validation_data=validation, test_step=step, verbose=0,
            **given,  # type: ignore[arg-type]
        )  # fmt: skip
    assert taken == []


def test_the_history_tells_how_long_batches_were_waited_for() -> None:
    with Loader(datasets.Numbers(5), workers=2) as loader:
        history = fit(lambda batch: {}, loader, epochs=3, verbose=0)
        assert sum(history.waited) <= loader.stats().wait_seconds
    assert all(0 < w <= s for w, s in zip(history.waited, history.seconds, strict=True))
    assert all(map(math.isnan, fit(lambda batch: {}, [0], verbose=0).waited))


# ---- early stopping ------------------------------------------------------------------


def stopped_after(losses: list[float], **options: Any) -> tuple[int, EarlyStopping]:
    """In how many epochs a run with these losses ends."""
    stopping = EarlyStopping("loss", **options)
    values = iter(losses)
    history = fit(
        lambda batch: {"loss": next(values)}, [0], epochs=len(losses), verbose=0,
        callbacks=[stopping],
    )  # fmt: skip
    return len(history.epochs), stopping


def test_training_ends_when_the_metric_is_not_better_for_a_while() -> None:
    epochs, stopping = stopped_after([5, 4, 3, 3, 3.5, 9, 9], patience=2)
    assert epochs == 5
    assert (stopping.best, stopping.best_epoch) == (3, 2)


@pytest.mark.parametrize("patience", [2, 9], ids=["early", "at the end"])
def test_the_best_model_is_kept_and_put_back_when_training_ends(patience: int) -> None:
    model = {"weights": 0}

    def train(batch: int) -> Mapping[str, float]:
        model["weights"] += 1
        return {"loss": [5, 3, 4, 4][model["weights"] - 1]}

    stopping = EarlyStopping(
        "loss", patience=patience, save=model.copy, restore=model.update
    )
    fit(train, [0], epochs=4, verbose=0, callbacks=[stopping])
    assert model == {"weights": 2}


@pytest.mark.parametrize(
    ("name", "values"), [("val_accuracy", [1, 2, 1]), ("my_loss", [2, 1, 2])]
)
def test_the_mode_is_told_by_the_name(name: str, values: list[float]) -> None:
    stopping = EarlyStopping(name)
    metrics = iter(values)

    def step(batch: int) -> Mapping[str, float]:
        return {name: next(metrics)}

    fit(step, [0], epochs=3, verbose=0, callbacks=[stopping])
    assert stopping.best_epoch == 1


def test_a_metric_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match=r"one of \['loss'\], got 'val_loss'"):
        fit(lambda b: {"loss": 1}, [0], verbose=0, callbacks=[EarlyStopping()])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "best"}, "mode must be one of"),
        ({"patience": -1}, "patience and start_from_epoch must be 0 or more"),
        ({"save": dict}, "save and restore must be given together"),
    ],
    ids=str,
)
def test_options_that_make_no_sense_are_refused(
    options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        EarlyStopping("loss", **options)


VALUES = st.floats(0, 4).map(lambda x: round(x * 2) / 2) | st.just(float("nan"))

if find_spec("keras"):

    @cases(400)
    @given(
        losses=st.lists(VALUES, min_size=1, max_size=12),
        patience=st.integers(0, 3),
        min_delta=st.sampled_from([0, 0.5, 0.7]),
        mode=st.sampled_from(["min", "max"]),
        baseline=st.none() | st.sampled_from([1.0, 2.0]),
        start=st.integers(0, 3),
    )
    def test_training_ends_in_the_epoch_in_which_keras_ends_it(
        losses: list[float], patience: int, min_delta: float, mode: str,
        baseline: float | None, start: int,
    ) -> None:  # fmt: skip
        import keras

        if math.isnan(losses[min(start, len(losses) - 1)]):
            return  # there, a first value that is nan is the best for ever
        theirs = keras.callbacks.EarlyStopping(
            "loss", min_delta, patience, 0, mode, baseline, start_from_epoch=start
        )
        model = SimpleNamespace(stop_training=False)
        theirs.set_model(model)
        theirs.on_train_begin()
        for epoch, loss in enumerate(losses):
            theirs.on_epoch_end(epoch, {"loss": loss})
            if model.stop_training:
                break
        epochs, ours = stopped_after(
            losses, min_delta=min_delta, patience=patience, mode=mode,
            baseline=baseline, start_from_epoch=start,
        )  # fmt: skip
        assert epochs == epoch + 1
        if start < epochs:
            assert ours.best == theirs.best

    @cases(60)
    @given(st.integers(1, 7), st.integers(1, 9) | st.none(), st.integers(1, 5))
    def test_epochs_have_the_steps_that_keras_gives_them(
        length: int, steps: int | None, epochs: int
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert taken_by_keras(length, steps, epochs) == taken(
                list(range(length)), epochs=epochs, steps_per_epoch=steps
            )


def taken_by_keras(length: int, steps: int | None, epochs: int) -> list[list[int]]:
    import keras

    noted = Taken()

    class Data(keras.utils.PyDataset):  # type: ignore[misc]
        def __len__(self) -> int:
            return length

        def __getitem__(self, index: int) -> Any:
            return np.full((1, 1), index, "float32"), np.zeros((1, 1), "float32")

    class Model(keras.Model):  # type: ignore[misc]
        def train_step(self, data: Any) -> Any:
            noted.step(int(data[0][0, 0]))
            return {"loss": 0.0}

    class Epochs(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            noted.on_epoch_begin(epoch)

    layer = keras.Input((1,))
    model = Model(layer, layer)
    model.compile(jit_compile=False)
    model.built = True
    model.fit(
        Data(), epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0,
        callbacks=[Epochs()],
    )  # fmt: skip
    return noted.epochs


# ---- going on ------------------------------------------------------------------------


class Learner:
    """A model that remembers, in one number, every batch and their order."""

    def __init__(self, weight: float = 0.0) -> None:
        self.weight = weight

    def train(self, batch: Any) -> Mapping[str, float]:
        index, draws, *_ = batch
        self.weight = math.fmod(self.weight * 3 + index + draws[0] / 2**62, 1e6)
        return {"loss": self.weight, "size": index}

    def test(self, batch: Any) -> Mapping[str, float]:
        return {"loss": self.weight + batch[0]}


def run(learner: Learner, kind: str, **options: Any) -> Any:
    chosen = KINDS[kind] | {"seed": 3, "shuffle": True}
    with (
        Loader(datasets.RngDraws(7), **chosen) as loader,
        Loader(datasets.RngDraws(3), **chosen) as validation,
    ):
        return fit(
            learner.train, loader, epochs=4, verbose=0, validation_data=validation,
            test_step=learner.test, **options,
        )  # fmt: skip


@contextmanager
def warned_or_not() -> Iterator[None]:
    """Seven batches are no whole number of epochs of three."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "data ended after")
        yield


class Keeping(Callback):
    """Keeps model and state at one moment, and fails there."""

    def __init__(self, learner: Learner, epoch: int, batch: int | None) -> None:
        self.learner = learner
        self.at = epoch, batch
        self.kept = ""

    def _keep(self) -> None:
        state = self.training.state_dict()
        self.kept = json.dumps({"weight": self.learner.weight, "state": state})
        raise InterruptedError

    def on_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        if (self.training.epoch, batch) == self.at:
            self._keep()

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if (epoch, None) == self.at:
            self._keep()


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize(("epoch", "batch"), [(0, 0), (1, 2), (3, 2), (2, None)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_ends_like_one_that_was_never_interrupted(
    kind: str, epoch: int, batch: int | None, steps: int | None
) -> None:
    whole = Learner()
    with warned_or_not():
        expected = run(whole, "inline", steps_per_epoch=steps)
    first = Learner()
    keeping = Keeping(first, epoch, batch)
    with pytest.raises(InterruptedError), warned_or_not():
        run(first, kind, steps_per_epoch=steps, callbacks=[keeping])
    kept = json.loads(keeping.kept)
    second = Learner(kept["weight"])
    with warned_or_not():
        history = run(second, kind, steps_per_epoch=steps, state=kept["state"])
    assert second.weight == whole.weight
    assert dict(history) == dict(expected)
    assert history.epochs == [1, 2, 3, 4]


KILLED = """
import json, os, signal, sys
from feedline.utils import Callback
from tests.utils.test_fit_runs import Learner, run

class Saving(Callback):
    def on_batch_end(self, batch, logs):
        if (self.training.epoch, batch) == (2, 4):
            os.kill(os.getpid(), signal.SIGKILL)
        with open({path!r} + ".new", "w") as file:
            json.dump([learner.weight, self.training.state_dict()], file)
        os.replace({path!r} + ".new", {path!r})

learner = Learner()
run(learner, "fork", callbacks=[Saving()])
"""


def test_a_run_that_was_killed_goes_on_from_what_it_kept(tmp_path: Path) -> None:
    whole = Learner()
    expected = run(whole, "inline")
    path = tmp_path / "state.json"
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED).format(path=str(path))],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.curdir},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    weight, state = json.loads(path.read_text())
    learner = Learner(weight)
    history = run(learner, "thread", state=state)
    assert learner.weight == whole.weight
    assert dict(history) == dict(expected)


def test_a_state_of_other_data_is_refused() -> None:
    keeping = Keeping(Learner(), 0, 0)
    with pytest.raises(InterruptedError):
        run(keeping.learner, "inline", callbacks=[keeping])
    state = json.loads(keeping.kept)["state"]
    with pytest.raises(ValueError, match="data must be a Loader if it was one"):
        fit(lambda batch: {}, [0], verbose=0, state=state)
    for wrong in (7, {}, {**state, "format": 0}):
        with pytest.raises(ValueError, match="state must be what"):
            fit(lambda batch: {}, [0], verbose=0, state=wrong)  # type: ignore[arg-type]


class Keep(Callback):
    """Keeps the state after every batch and every epoch."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def on_batch_end(self, batch: int, logs: Any) -> None:
        self.states.append(json.dumps(self.training.state_dict()))

    def on_epoch_end(self, epoch: int, logs: Any) -> None:
        self.states.append(json.dumps(self.training.state_dict()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [None, 1, 2, 3, 4, 5])
@pytest.mark.filterwarnings("ignore:data ended after")
def test_it_goes_on_from_every_moment_to_the_same_batches_and_history(
    kind: str, steps: int | None
) -> None:
    seen: list[tuple[str, int]] = []

    def run(state: Any, keep: Keep) -> dict[str, list[float]]:
        seen.clear()

        def step(batch: int) -> Mapping[str, float]:
            seen.append(("train", batch))
            return {"loss": batch}

        def test(batch: int) -> Mapping[str, float]:
            seen.append(("test", batch))
            return {"loss": batch}

        options = {**KINDS[kind], "shuffle": True}
        with (
            Loader(datasets.Numbers(4), seed=5, **options) as loader,
            Loader(datasets.Numbers(3), seed=6, **options) as validation,
        ):
            return dict(fit(
                step, loader, epochs=5, steps_per_epoch=steps, verbose=0,
                validation_data=validation, validation_steps=2, test_step=test,
                callbacks=[keep], state=state,
            ))  # fmt: skip

    keep = Keep()
    history = run(None, keep)
    whole = list(seen)
    assert len(keep.states) > 5
    for state in keep.states[:: 1 if kind == "inline" else 5]:
        assert run(json.loads(state), Keep()) == history
        assert seen == whole[len(whole) - len(seen) :]


@pytest.mark.parametrize("at", range(5))
def test_early_stopping_goes_on_to_stop_in_the_same_epoch(at: int) -> None:
    losses = [3.0, 1.0, 2.0, 2.5, 2.0, 0.0]

    def run(
        first: int, states: Any, kept: list[Any]
    ) -> tuple[dict[str, list[float]], int]:
        stopping = EarlyStopping("loss", patience=3)
        if states:
            stopping.load_state_dict(states[1])
        left = iter(losses[first:])

        class Keeping(Callback):
            def on_epoch_end(self, epoch: int, logs: Any) -> None:
                states = [self.training.state_dict(), stopping.state_dict()]
                kept.append(json.dumps(states))

        history = fit(
            lambda batch: {"loss": next(left)}, [0], epochs=6, verbose=0,
            callbacks=[stopping, Keeping()], state=states and states[0],
        )  # fmt: skip
        return dict(history), stopping.best_epoch

    kept: list[Any] = []
    whole = run(0, None, kept)
    assert whole == ({"loss": losses[:5]}, 1)
    assert run(at + 1, json.loads(kept[at]), []) == whole
