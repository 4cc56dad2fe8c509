"""Tests for examples/train_digits.py, run as a user runs it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.examples.program import WAYS, Program, accuracy, weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest.importorskip("skimage")
pytest.importorskip("sklearn")
Image = pytest.importorskip("PIL.Image")

PROGRAM = Program("train_digits.py")


def write_photo(path: Path, shape: tuple[int, ...], seed: int = 0) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache") / "of" / "digits"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of ten small photos."""
    for kind in ("cat", "dog"):
        for number in range(10):
            write_photo(tmp_path / "photos" / kind / f"{number}.png", (9, 7, 3), number)
    return tmp_path / "photos"


def test_weights_are_the_same_with_every_kind_of_worker(digits: Path) -> None:
    PROGRAM.expect_the_same_weights("--data", digits, "--epochs", 1)


def test_ten_epochs_reach_95_percent_and_tell_what_the_loader_did(digits: Path) -> None:
    lines = PROGRAM.print_lines("--data", digits, "--epochs", 10)
    told = re.fullmatch(r"test accuracy (\d+\.\d) %  \((\d+) of 359\)", lines[-3])
    assert told is not None, lines[-3]
    assert accuracy(lines) >= 95
    assert int(told[2]) / 359 == pytest.approx(accuracy(lines) / 100, abs=1e-3)
    assert lines[-1].startswith("loader: 400 batches, waited ")


def test_other_seed_gives_other_weights(photos: Path) -> None:
    first, second, again = (
        weights(PROGRAM.print_lines("--images", photos, "--epochs", 1, "--seed", seed))
        for seed in (1, 2, 1)
    )
    assert first != second
    assert first == again


def test_images_of_all_kinds_are_trained_on(tmp_path: Path) -> None:
    for number in range(3):
        write_photo(tmp_path / "small" / f"grey{number}.png", (5, 40))
        write_photo(tmp_path / "small" / f"clear{number}.png", (8, 8, 4))
        write_photo(tmp_path / "large" / f"photo{number}.JPG", (300, 200, 3))
    for number in range(3):
        grey = Image.new("LA", (9, 9), (10, 100 * number))
        grey.save(tmp_path / "small" / f"faint{number}.png")
        deep = Image.fromarray(np.full((6, 6), 1000 * number, dtype=np.uint16))
        deep.save(tmp_path / "large" / f"deep{number}.tif")
        one = Image.new("1", (12, 3), number % 2)
        one.save(tmp_path / "large" / f"bits{number}.png")
        frames = [Image.new("RGB", (7, 7), colour) for colour in ("red", "blue")]
        frames[0].save(
            tmp_path / "large" / f"film{number}.gif",
            save_all=True,
            append_images=frames[1:],
        )
    (tmp_path / "small" / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden").mkdir()
    lines = PROGRAM.print_lines("--images", tmp_path, "--epochs", 1, "--batch-size", 4)
    assert lines[0].startswith("2 classes; 15 images to train on, ")


# ---- bad input -----------------------------------------------------------------------


def truncated(folder: Path) -> Path:
    """Every image of a class cut off in the middle."""
    for path in (folder / "dog").iterdir():
        path.write_bytes(path.read_bytes()[:60])
    return folder


def not_images(folder: Path) -> Path:
    for path in (folder / "dog").iterdir():
        path.write_text("not an image")
    return folder


def one_class(folder: Path) -> Path:
    for path in (folder / "dog").iterdir():
        path.unlink()
    (folder / "dog").rmdir()
    return folder


def two_images(folder: Path) -> Path:
    for path in sorted((folder / "dog").iterdir())[2:]:
        path.unlink()
    return folder


def empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: folder / "nowhere", r"cannot look for images in .*nowhere: "),
        (lambda folder: folder / "cat" / "0.png", r"cannot look for .*0\.png: "),
        (empty, r".*empty must hold a folder of images for each of .*, got 0"),
        (one_class, r".*photos must hold a folder of images for each of .*, got 1"),
        (two_images, r".*dog must hold 3 or more images, got 2; "),
        (
            truncated,
            r"cannot read the image .*dog.\d\.png \(.*\); replace or remove it",
        ),
        (
            not_images,
            r"cannot read the image .*dog.\d\.png \(.*\); replace or remove it",
        ),
    ],
)
def test_bad_images_get_one_line_and_status_2(
    photos: Path, spoil: Callable[[Path], Path], said: str
) -> None:
    line = PROGRAM.refuse("--images", spoil(photos), "--epochs", 1)
    assert re.fullmatch(f"train_digits: {said}.*", line), line


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_bad_image_that_a_worker_finds_while_training_is_named(
    photos: Path, options: list[str]
) -> None:
    # One image of 40 is bad and in the training part: the pass over the test images,
    # which comes first, must not be what finds it.
    for number in range(10, 40):
        write_photo(photos / "cat" / f"{number}.png", (9, 7, 3), number)
    PROGRAM.print_lines("--images", photos, "--epochs", 1, *options)
    for path in sorted((photos / "cat").iterdir()):
        whole = path.read_bytes()
        path.write_bytes(b"")
        done = PROGRAM.run("--images", photos, "--epochs", 1, *options)
        path.write_bytes(whole)
        assert done.stderr.startswith(f"train_digits: cannot read the image {path} (")
        assert done.stderr.count("\n") == 1
        assert done.returncode == 2
        if "Epoch 1/1" in done.stdout:
            return
    pytest.fail("no image was in the training part")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--workers", "-1"],
            "argument --workers: must be an integer of 0 or more, got ",
        ),
        (
            ["--epochs", "0"],
            "argument --epochs: must be an integer of 1 or more, got '0'",
        ),
        (["--batch-size", "many"], "argument --batch-size: must be an integer of 1 "),
        (["--seed", "1.5"], "argument --seed: must be an integer of 0 or more, got "),
        (["--threads", "--processes"], "argument --processes: not allowed with "),
        (["--data", "a", "--images", "b"], "argument --images: not allowed with "),
        (["--quick"], "unrecognized arguments: --quick"),
    ],
)
def test_bad_options_get_one_line_and_status_2(arguments: list[str], said: str) -> None:
    assert PROGRAM.refuse(*arguments).startswith(f"train_digits: {said}")


def test_incomplete_digits_are_not_trained_on(tmp_path: Path) -> None:
    write_photo(tmp_path / "0" / "0000.png", (8, 8))
    line = PROGRAM.refuse("--data", tmp_path, "--epochs", 1)
    assert re.fullmatch(
        r"train_digits: .* holds 1 of the 1797 digits; name another .*", line
    )


def test_place_that_cannot_hold_the_digits_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    line = PROGRAM.refuse("--data", tmp_path / "file" / "digits", "--epochs", 1)
    assert re.fullmatch(r"train_digits: cannot keep the digits in .*", line)


# ---- the keyboard --------------------------------------------------------------------


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_ctrl_c_ends_it_with_one_line_and_status_130(
    photos: Path, options: list[str]
) -> None:
    ended = PROGRAM.interrupt_after(
        "Epoch 2/", "--images", photos, "--epochs", 99999, *options
    )
    assert ended == (130, "interrupted\n")


def test_interrupted_first_run_leaves_all_digits_or_none(tmp_path: Path) -> None:
    ended = PROGRAM.interrupt_after(
        "writing 1797 images", "--data", tmp_path / "digits"
    )
    assert ended == (130, "interrupted\n")
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) in (0, 1797)
