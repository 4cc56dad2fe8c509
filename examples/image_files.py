"""Train on image files with a dataset class written for Keras: only its import changed.

    python examples/image_files.py

The class is of the shape that Keras' documentation teaches: file names and labels go in,
``__getitem__`` reads, resizes and stacks the files of one batch. The program draws disks,
squares and triangles as PNG and JPEG files, then trains a small network in NumPy on them.
Reading and resizing take nearly all of the time, so worker processes do both.

Needs scikit-image: pip install feedline[examples]
"""

from __future__ import annotations

import argparse
import hashlib
import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.draw import disk, polygon
from skimage.io import imread, imsave
from skimage.transform import resize

from feedline import Loader, PyDataset  # was: from keras.utils import PyDataset
from feedline.utils import fit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Batch = tuple[NDArray[np.float64], NDArray[np.int64]]

KINDS = ("disk", "square", "triangle")


class ImageFiles(PyDataset):
    """Batches of images from files.

    Item ``i`` is ``(images, labels)``: float64 in [0, 1] of shape (batch, 200, 200, 3), and
    int64 of shape (batch,).
    """

    def __init__(
        self, x_set: Sequence[str], y_set: Sequence[int], batch_size: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.x, self.y = x_set, y_set
        self.batch_size = batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.x) / self.batch_size)

    def __getitem__(self, idx: int) -> Batch:
        here = slice(idx * self.batch_size, (idx + 1) * self.batch_size)
        images = [resize(imread(name), (200, 200)) for name in self.x[here]]
        return np.array(images), np.array(self.y[here])


# ---- the files -----------------------------------------------------------------------


def draw(kind: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A shape of some size, place and colour, on noise; shape (side, side, 3)."""
    side = int(rng.integers(60, 100))  # pixels
    image = rng.integers(0, 90, (side, side, 3))
    radius = side * rng.uniform(0.25, 0.35)
    row, column = side * rng.uniform(0.42, 0.58, size=2)
    if kind == "disk":
        inside = disk((row, column), radius, shape=image.shape)
    else:
        corners = 4 if kind == "square" else 3
        turns = 2 * np.pi * (np.arange(corners) / corners + 1 / 8 * (corners == 4))
        inside = polygon(
            row - radius * np.cos(turns), column + radius * np.sin(turns), image.shape
        )
    image[inside] += rng.integers(60, 160, size=3)
    return image.astype(np.uint8)


def write_images(folder: Path, count: int) -> tuple[list[str], list[int]]:
    """Draw as many files of all kinds in turn; return their names and labels."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    names, labels = [], []
    for number in range(count):
        label = number % len(KINDS)
        suffix = ".png" if number % 2 else ".jpg"
        name = str(folder / f"{number:04d}-{KINDS[label]}{suffix}")
        imsave(name, draw(KINDS[label], rng), check_contrast=False)
        names.append(name)
        labels.append(label)
    return names, labels


# ---- the network ---------------------------------------------------------------------


class Network:
    """One hidden layer over 20 x 20 grey pixels, gradient descent with momentum."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.weights = [
            rng.normal(0, 0.05, (400, 64)),
            np.zeros(64),
            rng.normal(0, 0.1, (64, len(KINDS))),
            np.zeros(len(KINDS)),
        ]
        self.speeds = [np.zeros_like(weight) for weight in self.weights]

    def train_step(self, batch: Batch) -> Mapping[str, float]:
        """Learn from a batch; return the loss and the accuracy before learning."""
        images, labels = batch
        rows, hidden, chances = self._forward(images)
        measured = measure(chances, labels)
        error = (chances - np.eye(len(KINDS))[labels]) / len(labels)
        behind = (error @ self.weights[2].T) * (hidden > 0)
        slopes = [rows.T @ behind, behind.sum(0), hidden.T @ error, error.sum(0)]
        for weight, speed, slope in zip(self.weights, self.speeds, slopes, strict=True):
            speed *= 0.9
            speed -= 0.03 * slope
            weight += speed
        return measured

    def test_step(self, batch: Batch) -> Mapping[str, float]:
        """Return the loss and the accuracy on a batch."""
        images, labels = batch
        return measure(self._forward(images)[2], labels)

    def _forward(self, images: NDArray[np.float64]) -> tuple[Any, Any, Any]:
        w1, b1, w2, b2 = self.weights
        small = images.reshape(-1, 20, 10, 20, 10, 3).mean(axis=(2, 4, 5))
        rows = small.reshape(len(small), -1)
        rows = (rows - rows.mean(1, keepdims=True)) / rows.std(1, keepdims=True)
        hidden = np.maximum(rows @ w1 + b1, 0)
        odds = np.exp(hidden @ w2 + b2)
        return rows, hidden, odds / odds.sum(1, keepdims=True)


def measure(chances: Any, labels: NDArray[np.int64]) -> Mapping[str, float]:
    right = chances[np.arange(len(labels)), labels]
    accuracy = float((chances.argmax(1) == labels).mean())
    return {"loss": float(-np.log(right + 1e-9).mean()), "accuracy": accuracy}


# ---- the main job --------------------------------------------------------------------


def train(choice: argparse.Namespace, folder: Path) -> None:
    names, labels = write_images(folder, choice.images)
    print(f"wrote {len(names)} images to {folder}", flush=True)
    held = len(names) // 4  # for the test

    def load(part: slice, *, shuffle: bool) -> Loader:
        dataset = ImageFiles(
            names[part],
            labels[part],
            choice.batch_size,
            workers=choice.workers,
            use_multiprocessing=not choice.threads,
        )
        return Loader(dataset, shuffle=shuffle, seed=choice.seed)

    network = Network(choice.seed)
    with (
        load(slice(held, None), shuffle=True) as training,
        load(slice(held), shuffle=False) as test,
    ):
        history = fit(
            network.train_step,
            training,
            epochs=choice.epochs,
            validation_data=test,
            test_step=network.test_step,
        )
        stats = training.stats()
    weights = b"".join(weight.tobytes() for weight in network.weights)
    accuracy = history["val_accuracy"][-1]
    print(f"test accuracy {100 * accuracy:.1f} %  (of {held} images)")
    print(f"weights {hashlib.sha256(weights).hexdigest()[:12]}")
    print(f"loader: {stats}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Train on image files.",
        usage=argparse.SUPPRESS,  # so that an error is one line
    )
    parser.add_argument("--folder", type=Path, help="default: a temporary folder")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--threads", action="store_true", help="workers are threads")
    kind.add_argument(
        "--processes", action="store_true", help="workers are processes (the default)"
    )
    for name, default in (
        ("images", 300),
        ("workers", 2),
        ("epochs", 6),
        ("batch-size", 16),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    choice = parser.parse_args()
    if min(choice.epochs, choice.batch_size, choice.workers + 1, choice.seed + 1) < 1:
        parser.error(
            "epochs and batch-size must be 1 or more, workers and seed 0 or more"
        )
    if choice.images < 8:
        parser.error("images must be 8 or more: there are three kinds, and a test")
    try:
        with tempfile.TemporaryDirectory() as scratch:
            train(choice, choice.folder or Path(scratch))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
