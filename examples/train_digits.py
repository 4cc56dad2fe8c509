"""Train a small network on images of handwritten digits, or on your own images.

    python examples/train_digits.py
    python examples/train_digits.py --images my_photos --epochs 40

The first run writes the 1,797 scanned digits that scikit-learn carries as PNG files,
one folder per class. From then on they are images like any others: worker processes
read, resize and distort them while the network, written here in NumPy, learns from the
batches before. The same seed gives the same weights, to the last bit, with any number
of workers, threads or processes.

Needs scikit-image and, for the digits, scikit-learn: pip install feedline[examples]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

# One thread for NumPy's matrix products, and before NumPy is imported: they are small,
# the workers need the cores, and no sum may depend on how it was divided among threads.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import numpy as np
from skimage.color import rgb2gray, rgba2rgb
from skimage.io import imread, imsave
from skimage.transform import AffineTransform, resize, warp
from skimage.util import img_as_float, img_as_ubyte

from feedline import Loader, PyDataset
from feedline.utils import fit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Batch = tuple[NDArray[np.float32], NDArray[np.int64]]
    Split = tuple[list[Path], NDArray[np.int64]]

SIDE = 16  # pixels; what every image is resized to, before it is a row of 256 numbers
HIDDEN = 256  # units of the hidden layer
RATE = 3e-3  # how far a first step goes; the steps shrink to nothing by the last
DIGITS = 1797  # images in scikit-learn's set
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff"}


class BadInputError(Exception):
    """What the user gave cannot be used; the message is one line for them."""


class BadImageError(BadInputError):
    """An image file cannot be read.

    Attributes:
        path: The file.
        reason: What the reader said about it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        reason = " ".join(self.reason.split())
        return f"cannot read the image {self.path} ({reason}); replace or remove it"


# ---- the data set: from files to batches ---------------------------------------------


class Images(PyDataset):
    """Batches of images from files.

    Item ``i`` is ``(pixels, labels)``: float32 of shape (batch, SIDE * SIDE), each row
    with mean 0 and deviation 1 or less, and int64 of shape (batch,).

    Args:
        split: The files, and the class of each.
        batch_size: Images in a batch; the last batch may be smaller.
        shuffle_seed: With a seed, every epoch has an order of its own and every image
            is distorted anew, as training needs it. None leaves both alone, for tests.
    """

    def __init__(
        self, split: Split, batch_size: int, shuffle_seed: int | None = None
    ) -> None:
        super().__init__()
        self.paths, self.labels = split
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.order = np.arange(len(self.paths))
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.paths) // self.batch_size)

    def on_epoch_begin(self) -> None:
        """Runs in the main process; every worker sees the new order."""
        if self.shuffle_seed is not None:
            rng = np.random.default_rng((self.shuffle_seed, self.epoch))
            self.order = rng.permutation(len(self.paths))
        self.epoch += 1

    def __getitem__(self, index: int) -> Batch:
        """Runs in a worker."""
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        pixels = np.empty((len(chosen), SIDE * SIDE), dtype=np.float32)
        for row, number in enumerate(chosen):
            image = read_image(self.paths[number])
            if self.shuffle_seed is not None:
                # self.rng belongs to this batch of this epoch, whoever builds it.
                image = distort(image, self.rng)
            # Light or dark, strong or faint: the network need not care.
            pixels[row] = ((image - image.mean()) / (image.std() + 0.05)).ravel()
        return pixels, self.labels[chosen]


def read_image(path: Path) -> NDArray[np.float64]:
    """Read any image as grey values in [0, 1], shape (SIDE, SIDE)."""
    try:
        image = img_as_float(imread(path))
        if image.ndim == 4 or (image.ndim == 3 and image.shape[2] > 4):
            image = image[0]  # an animation or a stack: its first image
        if image.ndim == 3 and image.shape[2] == 2:  # grey with transparency, on white
            image = image[..., 0] * image[..., 1] + 1 - image[..., 1]
        elif image.ndim == 3:
            image = rgb2gray(rgba2rgb(image) if image.shape[2] == 4 else image)
        small = resize(image, (SIDE, SIDE), anti_aliasing=True)
    except Exception as error:
        # The readers raise whatever their file format inspires them to.
        raise BadImageError(str(path), str(error) or type(error).__name__) from error
    return np.asarray(small)


def distort(
    image: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """Turn, move, scale and speckle an image a little, as another hand would."""
    centre = (SIDE - 1) / 2
    to_origin = AffineTransform(translation=(-centre, -centre))
    change = AffineTransform(
        rotation=rng.uniform(-0.12, 0.12),  # radians
        scale=rng.uniform(0.9, 1.1),
        shear=rng.uniform(-0.12, 0.12),  # radians
        translation=rng.uniform(-1, 1, size=2),  # pixels
    )
    moved = warp(image, to_origin + change + to_origin.inverse, mode="edge")
    return np.asarray(moved + rng.normal(0, 0.05, size=image.shape))


# ---- the network ---------------------------------------------------------------------


class Network:
    """One hidden layer, softmax, trained with Adam. All of it is NumPy.

    Args:
        inputs: Numbers per sample.
        classes: How many classes there are.
        steps: How many training steps there will be.
        seed: Behind the first weights.
    """

    def __init__(self, inputs: int, classes: int, steps: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        sizes = ((inputs, HIDDEN), (HIDDEN, classes))
        self.weights: list[NDArray[np.float32]] = []
        for rows, columns in sizes:
            spread = np.sqrt(2 / rows)
            matrix = rng.normal(0, spread, (rows, columns)).astype(np.float32)
            self.weights += [matrix, np.zeros(columns, dtype=np.float32)]
        self.means = [np.zeros_like(w) for w in self.weights]
        self.squares = [np.zeros_like(w) for w in self.weights]
        self.steps = steps
        self.step = 0

    def train_step(self, batch: Batch) -> Mapping[str, float]:
        """Learn from a batch; return the loss and the accuracy before learning."""
        pixels, labels = batch
        _, _, w2, _ = self.weights
        hidden, guesses = self._forward(pixels)
        measured = measure(guesses, labels)
        error = guesses  # softmax and cross-entropy together: guess minus truth
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        behind = (error @ w2.T) * (hidden > 0)
        self._adam(
            [pixels.T @ behind, behind.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
        )
        return measured

    def test_step(self, batch: Batch) -> Mapping[str, float]:
        """Return the loss and the accuracy on a batch."""
        pixels, labels = batch
        return measure(self._forward(pixels)[1], labels)

    def classify(self, pixels: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the likeliest class of each sample."""
        likeliest: NDArray[np.int64] = self._forward(pixels)[1].argmax(axis=1)
        return likeliest

    def fingerprint(self) -> str:
        """Return the first digits of a hash of all weights."""
        together = b"".join(weight.tobytes() for weight in self.weights)
        return hashlib.sha256(together).hexdigest()[:12]

    def _forward(
        self, pixels: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        w1, b1, w2, b2 = self.weights
        hidden = np.maximum(pixels @ w1 + b1, 0)
        scores = hidden @ w2 + b2
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, odds / odds.sum(axis=1, keepdims=True)

    def _adam(self, gradients: list[NDArray[np.float32]]) -> None:
        rate = RATE * (1 - self.step / self.steps)
        self.step += 1
        rate *= (1 - 0.999**self.step) ** 0.5 / (1 - 0.9**self.step)
        for weight, mean, square, gradient in zip(
            self.weights, self.means, self.squares, gradients, strict=True
        ):
            mean += 0.1 * (gradient - mean)
            square += 0.001 * (gradient * gradient - square)
            weight -= rate * mean / (np.sqrt(square) + 1e-7)


def measure(
    guesses: NDArray[np.float32], labels: NDArray[np.int64]
) -> Mapping[str, float]:
    right = guesses[np.arange(len(labels)), labels]
    return {
        "loss": float(-np.log(right + 1e-7).mean()),
        "accuracy": float((guesses.argmax(axis=1) == labels).mean()),
    }


# ---- which images --------------------------------------------------------------------


def ensure_digits(folder: Path) -> None:
    """Make sure that ``folder`` holds all of scikit-learn's digits."""
    try:
        if not folder.exists() or not any(folder.iterdir()):
            print(f"writing {DIGITS} images to {folder}", flush=True)
            write_digits(folder)
        found = sum(1 for _ in folder.glob("[0-9]/*.png"))
    except OSError as error:
        raise BadInputError(f"cannot keep the digits in {folder}: {error}") from error
    if found != DIGITS:
        raise BadInputError(
            f"{folder} holds {found} of the {DIGITS} digits; name another folder with "
            "--data, or remove this one to have them written anew"
        )


def write_digits(folder: Path) -> None:
    """Write scikit-learn's digits as PNG files, one folder per class."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Under another name until complete, so that an interrupted run leaves no half set.
    with tempfile.TemporaryDirectory(prefix=".digits-", dir=folder.parent) as scratch:
        unfinished = Path(scratch, "set")
        for label in range(10):
            (unfinished / str(label)).mkdir(parents=True)
        for number, label in enumerate(digits.target):
            scan = resize(digits.images[number] / 16, (32, 32))
            file = unfinished / str(label) / f"{number:04d}.png"
            imsave(file, img_as_ubyte(scan), check_contrast=False)
        try:
            unfinished.rename(folder)
        except OSError:
            # Another run was faster; what it wrote is the same.
            if not any(folder.glob("*/*.png")):
                raise


def find_images(folder: Path) -> dict[str, list[Path]]:
    """Find the image files of a folder of class folders, by class."""
    try:
        classes = {
            inner.name: sorted(
                file for file in inner.iterdir() if file.suffix.lower() in SUFFIXES
            )
            for inner in sorted(folder.iterdir())
            if inner.is_dir() and not inner.name.startswith(".")
        }
    except OSError as error:
        raise BadInputError(f"cannot look for images in {folder}: {error}") from error
    if len(classes) < 2:
        raise BadInputError(
            f"{folder} must hold a folder of images for each of 2 or more classes, got "
            f"{len(classes)}"
        )
    for name, files in classes.items():
        if len(files) < 3:
            raise BadInputError(
                f"{folder / name} must hold 3 or more images, got {len(files)}; one "
                "each is kept for validation and for the test"
            )
    return classes


def split(classes: dict[str, list[Path]]) -> tuple[Split, Split, Split]:
    """Deal the images of every class out: 70 % training, 10 % validation, 20 % test.

    The same images give the same split, whatever the seed of the training.
    """
    rng = np.random.default_rng(0)
    parts: tuple[list[tuple[Path, int]], ...] = ([], [], [])
    for label, files in enumerate(classes.values()):
        shuffled = [(files[number], label) for number in rng.permutation(len(files))]
        tested = max(1, round(0.2 * len(files)))
        held = tested + max(1, round(0.1 * len(files)))
        for part, dealt in zip(
            parts,
            (shuffled[held:], shuffled[tested:held], shuffled[:tested]),
            strict=True,
        ):
            part += dealt
    training, validation, test = (
        ([path for path, _ in part], np.array([label for _, label in part]))
        for part in parts
    )
    return training, validation, test


# ---- the main job --------------------------------------------------------------------


def train(choice: argparse.Namespace) -> None:
    if choice.images is None:
        ensure_digits(choice.data)
    classes = find_images(choice.images or choice.data)
    training, validation, test = split(classes)
    print(
        f"{len(classes)} classes; {len(training[0])} images to train on, "
        f"{len(validation[0])} to validate, {len(test[0])} to test",
        flush=True,
    )

    def load(part: Split, shuffle_seed: int | None = None) -> Loader:
        return Loader(
            Images(part, choice.batch_size, shuffle_seed),
            workers=choice.workers,
            use_multiprocessing=not choice.threads,
            seed=choice.seed,
        )

    def count_right() -> int:
        with load(test) as loader:
            return sum(
                int((network.classify(pixels) == labels).sum())
                for pixels, labels in loader
            )

    with load(training, choice.seed) as loader, load(validation) as validation_loader:
        steps = choice.epochs * len(loader)
        network = Network(SIDE * SIDE, len(classes), steps, choice.seed)
        # Finds an unreadable test image now, and not when training is over.
        print(f"untrained: {count_right()} of {len(test[0])} right", flush=True)
        history = fit(
            network.train_step,
            loader,
            epochs=choice.epochs,
            validation_data=validation_loader,
            test_step=network.test_step,
        )
        stats = loader.stats()
    right = count_right()
    print(history)
    print(
        f"test accuracy {100 * right / len(test[0]):.1f} %  ({right} of {len(test[0])})"
    )
    print(f"weights {network.fingerprint()}")
    print(f"loader: {stats}")


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong with the command line in one line."""

    def error(self, message: str) -> NoReturn:
        """Leave the usage out."""
        raise BadInputError(message)


def at_least(low: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(
                f"must be an integer of {low} or more, got {text!r}"
            )
        return int(text)

    return integer


def parse(arguments: list[str] | None) -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = OneLineParser(description="Train a small network on images.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--data",
        type=Path,
        default=cache / "feedline" / "digits",
        metavar="DIR",
        help="where the digits are kept (default: %(default)s)",
    )
    which.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="train on your own images: a folder that holds a folder for each class",
    )
    parser.add_argument(
        "--workers",
        type=at_least(0),
        default=2,
        metavar="N",
        help="how many read images; 0 reads between the steps (default: %(default)s)",
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--threads", action="store_true", help="workers are threads")
    kind.add_argument(
        "--processes", action="store_true", help="workers are processes (the default)"
    )
    for name, low, default in (
        ("epochs", 1, 24),
        ("batch-size", 1, 32),
        ("seed", 0, 0),
    ):
        parser.add_argument(
            f"--{name}",
            type=at_least(low),
            default=default,
            metavar="N",
            help="default: %(default)s",
        )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    try:
        train(parse(arguments))
    except BadInputError as error:
        print(f"train_digits: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
