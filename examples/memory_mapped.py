"""Train on a NumPy file that is mapped into memory, and never loaded as a whole.

    python examples/memory_mapped.py
    python examples/memory_mapped.py --folder data --samples 2000000

Writes features.npy, 200 MB by default, and labels.npy, maps them, and trains a linear
classifier in NumPy on batches of random rows. All workers map the same file: what one has
read, all have. At the end it tells how much memory each process took besides.

With --folder the files are kept, and used if they are there: yours, too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

# One thread for matrix products, before NumPy is imported: the workers need the cores,
# and no sum may depend on how many threads shared it.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
import psutil

from feedline import Loader, PyDataset
from feedline.utils import fit

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Integers = NDArray[np.int64]
    Arrays = tuple[NDArray[np.float32], Integers]  # (rows, width) and (rows,)

WIDTH = 256  # numbers of 4 bytes in a row
CLASSES = 10
CHUNK = 10_000  # rows written at once


class Rows(PyDataset):
    """Batches of the chosen rows of two mapped files, in a new order in each epoch."""

    def __init__(
        self, data: Arrays, chosen: Integers, batch_size: int, seed: int
    ) -> None:
        super().__init__()
        self.features, self.labels = data
        self.chosen, self.batch_size = chosen, batch_size
        self.shuffler = np.random.default_rng(seed)

    def __len__(self) -> int:
        return -(-len(self.chosen) // self.batch_size)

    def on_epoch_begin(self) -> None:
        """Runs in the main process; every worker sees the new order."""
        self.chosen = self.shuffler.permutation(self.chosen)

    def __getitem__(self, index: int) -> Arrays:
        """Runs in a worker, and reads these rows and no others."""
        start = index * self.batch_size
        # Sorted, for that is how they lie on the disk.
        rows = np.sort(self.chosen[start : start + self.batch_size])
        return self.features[rows], self.labels[rows]


class Classifier:
    """One score for each class, by least squares."""

    def __init__(self, width: int, classes: int) -> None:
        self.weights = np.zeros((width, classes), np.float32)
        self.targets = np.eye(classes, dtype=np.float32)

    def train_step(self, batch: Arrays) -> dict[str, float]:
        """Learn from a batch; return the accuracy before learning."""
        x, y = batch
        error = x @ self.weights - self.targets[y]
        metrics = self.test_step(batch)
        self.weights -= 0.05 * x.T @ error / len(y)
        return metrics

    def test_step(self, batch: Arrays) -> dict[str, float]:
        """Return the accuracy on a batch."""
        x, y = batch
        return {"accuracy": float(np.mean((x @ self.weights).argmax(axis=1) == y))}


def write_data(folder: Path, samples: int) -> None:
    """Write rows that scatter around a centre for each class, a chunk at a time."""
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=0.25, size=(CLASSES, WIDTH)).astype(np.float32)
    labels = rng.integers(CLASSES, size=samples)
    header = {"descr": "<f4", "fortran_order": False, "shape": (samples, WIDTH)}
    folder.mkdir(parents=True, exist_ok=True)
    # Elsewhere until complete, so that an interrupted run leaves no half file.
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        np.save(Path(unfinished, "labels.npy"), labels)
        with Path(unfinished, "features.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, samples, CHUNK):
                rows = centres[labels[start : start + CHUNK]]
                rows += rng.standard_normal(rows.shape, np.float32)
                rows.tofile(file)
        for path in Path(unfinished).iterdir():
            path.rename(folder / path.name)


def map_data(folder: Path, samples: int) -> Arrays:
    """Map both files, written now if neither is there. Nothing is read yet."""
    paths = folder / "features.npy", folder / "labels.npy"
    if not any(path.exists() for path in paths):
        write_data(folder, samples)
    features, labels = (np.load(path, mmap_mode="r") for path in paths)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            "features.npy must have shape (samples, width) and labels.npy (samples,), "
            f"got {features.shape} and {labels.shape}"
        )
    return features, labels


def own_memory(process: psutil.Process) -> str:
    """What of a process lies over no file: a copy of the file would be in it."""
    memory = process.memory_info()
    return f"{(memory.rss - memory.shared) / 1e6:.0f} MB"


def train(choice: argparse.Namespace, data: Arrays) -> None:
    features, labels = data
    print(f"{len(features)} rows, {features.nbytes / 1e6:.0f} MB", flush=True)
    shuffled = np.random.default_rng(choice.seed).permutation(len(features))
    held_out, training = np.split(shuffled, [len(shuffled) // 10])
    model = Classifier(features.shape[1], int(labels.max()) + 1)
    with (
        Loader(
            Rows(data, training, choice.batch_size, choice.seed),
            workers=choice.workers,
            use_multiprocessing=not choice.threads,
            seed=choice.seed,
        ) as loader,
        Loader(Rows(data, held_out, 1000, seed=0), workers=0) as test,
    ):
        history = fit(
            model.train_step,
            loader,
            epochs=choice.epochs,
            validation_data=test,
            test_step=model.test_step,
        )
        stats = loader.stats()
        this = psutil.Process()
        memory = [f"main process {own_memory(this)}"]
        memory += [f"worker {own_memory(worker)}" for worker in this.children()]
    print(f"test accuracy {100 * history['val_accuracy'][-1]:.1f} %")
    print(f"weights {hashlib.sha256(model.weights.tobytes()).hexdigest()[:12]}")
    print(f"loader: {stats}")
    print(f"memory besides the file: {', '.join(memory)}")


def at_least(low: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"must be {low} or more, got {text!r}")
        return int(text)

    return integer


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Train on a NumPy file that is mapped into memory.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        usage=argparse.SUPPRESS,  # so that an error is one line
    )
    add = parser.add_argument
    add("--folder", type=Path, help="where the files are kept, or are already")
    add("--samples", type=at_least(20), default=200_000, help="rows to write, of 1 KB")
    add("--workers", type=at_least(0), default=2, help="0 reads between the steps")
    add("--epochs", type=at_least(1), default=3, help="how often to see each row")
    add("--batch-size", type=at_least(1), default=256, help="rows in a step")
    add("--seed", type=at_least(0), default=0, help="behind everything random")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--threads", action="store_true", help="workers are threads")
    kind.add_argument(
        "--processes", dest="threads", action="store_false", help="or processes"
    )
    return parser


def main() -> None:
    parser = make_parser()
    choice = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = choice.folder or Path(scratch)
        try:
            data = map_data(folder, choice.samples)
        except (OSError, ValueError) as error:
            parser.error(f"cannot use the files in {folder}: {error}")
        train(choice, data)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
