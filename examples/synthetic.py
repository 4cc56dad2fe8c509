"""Train on synthetic data, which workers draw when it is needed.

    python examples/synthetic.py
    python examples/synthetic.py --endless

Noisy waves of four shapes, as many as training asks for and no two the same; a small
network, written here in NumPy, learns to tell the shapes. Every batch draws from a
generator of its own, so that the same seed gives the same weights with any number of
workers, threads or processes. Needs nothing but feedline.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from typing import TYPE_CHECKING

# One thread for matrix products, before NumPy is imported: the workers need the cores,
# and no sum may depend on how many threads shared it.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np

from feedline import Loader, PyDataset
from feedline.utils import fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Batch = tuple[Floats, NDArray[np.int64]]

LENGTH = 64  # points of a wave
HIDDEN = 256  # units of the network
SHAPES: list[Callable[[NDArray[np.float64]], NDArray[np.float64]]] = [
    lambda turns: np.sin(2 * np.pi * turns),
    lambda turns: np.sign(turns % 1 - 0.5),  # a square
    lambda turns: 4 * abs(turns % 1 - 0.5) - 1,  # a triangle
    lambda turns: 2 * (turns % 1) - 1,  # a saw
]


class Waves(PyDataset):
    """Batches of waves, of shape (batch, LENGTH), and the numbers of their shapes."""

    def __init__(self, batch_size: int, batches: int | None) -> None:
        super().__init__()
        self.batch_size, self.batches = batch_size, batches

    @property
    def num_batches(self) -> int | None:
        """Batches in an epoch; None for a stream that has no end."""
        return self.batches

    def __getitem__(self, index: int) -> Batch:
        """Runs in a worker."""
        labels = self.rng.integers(len(SHAPES), size=self.batch_size)
        return np.stack([self.draw(label) for label in labels]), labels

    def draw(self, label: int) -> Floats:
        """Draw a noisy wave from self.rng, which belongs to this batch alone."""
        begin, waves = self.rng.uniform(0, 1), self.rng.uniform(1, 2)
        wave = SHAPES[label](np.linspace(begin, begin + waves, LENGTH))
        return (wave + self.rng.normal(0, 0.1, LENGTH)).astype(np.float32)


class Network:
    """One hidden layer and a softmax, trained by gradient descent."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.weights: list[Floats] = [
            rng.normal(0, rows**-0.5, (rows, columns)).astype(np.float32)
            for rows, columns in ((LENGTH, HIDDEN), (HIDDEN, len(SHAPES)))
        ]

    def forward(self, x: Floats) -> tuple[Floats, Floats]:
        """Return the hidden layer, and how likely each shape is."""
        hidden = np.maximum(x @ self.weights[0], 0)
        odds = np.exp(hidden @ self.weights[1])
        return hidden, odds / odds.sum(axis=1, keepdims=True)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """Learn from a batch; return the accuracy before learning."""
        x, y = batch
        hidden, error = self.forward(x)
        accuracy = float(np.mean(error.argmax(axis=1) == y))
        error[np.arange(len(y)), y] -= 1
        behind = (error @ self.weights[1].T) * (hidden > 0)
        self.weights[0] -= 0.1 * x.T @ behind / len(y)
        self.weights[1] -= 0.1 * hidden.T @ error / len(y)
        return {"accuracy": accuracy}

    def test_step(self, batch: Batch) -> dict[str, float]:
        """Return the accuracy on a batch."""
        x, y = batch
        return {"accuracy": float(np.mean(self.forward(x)[1].argmax(axis=1) == y))}


def train(choice: argparse.Namespace) -> None:
    network = Network(choice.seed)
    with Loader(Waves(1000, 2), workers=0, seed=choice.seed + 1) as loader:
        never_trained_on = list(loader)
    with Loader(
        Waves(choice.batch_size, None if choice.endless else choice.steps),
        workers=choice.workers,
        use_multiprocessing=not choice.threads,
        seed=choice.seed,
    ) as loader:
        history = fit(
            network.train_step,
            loader,
            epochs=choice.epochs,
            steps_per_epoch=choice.steps if choice.endless else None,
            validation_data=never_trained_on,
            test_step=network.test_step,
        )
        stats = loader.stats()
    weights = b"".join(weight.tobytes() for weight in network.weights)
    print(f"test accuracy {100 * history['val_accuracy'][-1]:.1f} %")
    print(f"weights {hashlib.sha256(weights).hexdigest()[:12]}")
    print(f"loader: {stats}")


def at_least(low: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be {low} or more, got {text!r}")
        return int(text)

    return integer


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train on data that is drawn when it is needed.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        usage=argparse.SUPPRESS,  # so that an error is one line
    )
    add = parser.add_argument
    add("--endless", action="store_true", help="one stream that has no end")
    add("--steps", type=at_least(1), default=500, help="steps in an epoch")
    add("--workers", type=at_least(0), default=2, help="0 reads between the steps")
    add("--epochs", type=at_least(1), default=10, help="epochs to train")
    add("--batch-size", type=at_least(1), default=64, help="waves in a step")
    add("--seed", type=at_least(0), default=0, help="behind everything random")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--threads", action="store_true", help="workers are threads")
    kind.add_argument(
        "--processes", dest="threads", action="store_false", help="or processes"
    )
    return parser


if __name__ == "__main__":
    try:
        train(make_parser().parse_args())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
