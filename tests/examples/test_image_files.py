"""Tests for examples/image_files.py, run as a user runs it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path  # noqa: TC003
from typing import Any

import pytest

from feedline import Loader
from tests.examples.program import Program, accuracy

if find_spec("skimage") is None:
    pytest.skip("skimage is not installed", allow_module_level=True)

PROGRAM = Program("image_files.py")


def test_weights_are_the_same_with_every_kind_of_worker() -> None:
    PROGRAM.expect_the_same_weights("--images", 24, "--epochs", 2)


def test_four_epochs_reach_95_percent() -> None:
    lines = PROGRAM.print_lines("--epochs", 4)
    assert accuracy(lines) >= 95
    assert lines[-1].startswith("loader: 60 batches, waited ")


def test_images_stay_in_a_folder_that_was_named(tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    lines = PROGRAM.print_lines("--images", 9, "--epochs", 1, "--folder", folder)
    assert f"wrote 9 images to {folder}" in lines
    names = sorted(path.name for path in folder.iterdir())
    assert names[:3] == ["0000-disk.jpg", "0001-square.png", "0002-triangle.jpg"]
    assert len(names) == 9


@pytest.mark.parametrize("workers", [0, 2])
def test_the_class_runs_unchanged_over_keras_own_base(workers: int) -> None:
    """The line that the example changed, changed back."""
    keras = pytest.importorskip("keras")
    source = PROGRAM.path.read_text()
    ours = "from feedline import Loader, PyDataset  # was: "
    assert source.count(ours) == 1
    source = source.replace(ours, "from feedline import Loader; ")
    module: dict[str, Any] = {"__name__": "image_files"}
    exec(compile(source, PROGRAM.path.name, "exec"), module)
    assert issubclass(module["ImageFiles"], keras.utils.PyDataset)
    names, labels = ["a.png"] * 5, [1] * 5
    dataset = module["ImageFiles"](names, labels, 2, workers=workers)
    module["imread"] = lambda name: module["np"].zeros((3, 3, 3))
    with Loader(dataset) as loader:
        assert loader.options.workers == workers
        assert [(x.shape, y.tolist()) for x, y in loader] == [
            ((2, 200, 200, 3), [1, 1]),
            ((2, 200, 200, 3), [1, 1]),
            ((1, 200, 200, 3), [1]),
        ]


def test_ctrl_c_ends_it_with_one_line_and_status_130() -> None:
    ended = PROGRAM.interrupt_after("Epoch 2/", "--images", 60, "--epochs", 9999)
    assert ended == (130, "interrupted\n")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--images", "images must be 8 or more: there are three kinds, and a test"),
        (
            "--epochs",
            "epochs and batch-size must be 1 or more, workers and seed 0 or more",
        ),
    ],
)
def test_wrong_numbers_are_refused_with_status_2(option: str, said: str) -> None:
    assert PROGRAM.refuse(option, 0).endswith(f"error: {said}")
