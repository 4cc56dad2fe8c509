"""Train a small convolutional network with Keras 3, on any of its backends.

    KERAS_BACKEND=torch python examples/keras_cnn.py
    KERAS_BACKEND=jax python examples/keras_cnn.py
    KERAS_BACKEND=tensorflow python examples/keras_cnn.py

The images are the 1,797 scanned digits that scikit-learn carries. Worker processes turn
and move them a little, anew in each epoch, while the network learns from the batches
before. Training, validation, the test and the prediction all read through loaders.

Needs a backend and: pip install feedline[keras,examples]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from typing import TYPE_CHECKING, Any

# Small products gain nothing from torch's threads, and the workers need the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from skimage.transform import AffineTransform, warp

from feedline import Loader, PyDataset
from feedline.keras import as_keras

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 8  # pixels
CENTRE = AffineTransform(translation=((SIDE - 1) / 2, (SIDE - 1) / 2))


class Digits(PyDataset):
    """Batches of digits.

    Item ``i`` is ``(images, labels)``: float32 in [0, 1] of shape (batch, 8, 8, 1), and
    int64 of shape (batch,).

    Args:
        images: Shape (samples, 8, 8).
        labels: Shape (samples,).
        batch_size: Images in a batch; the last batch may be smaller.
        shuffle_seed: With a seed, every epoch has an order of its own and every image is
            distorted anew, as training needs it. None leaves both alone, for tests.
    """

    def __init__(
        self,
        images: NDArray[np.float32],
        labels: NDArray[np.int64],
        batch_size: int,
        shuffle_seed: int | None = None,
    ) -> None:
        super().__init__()
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.order = np.arange(len(images))
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def on_epoch_begin(self) -> None:
        """Runs in the main process; every worker sees the new order."""
        if self.shuffle_seed is not None:
            rng = np.random.default_rng((self.shuffle_seed, self.epoch))
            self.order = rng.permutation(len(self.images))
        self.epoch += 1

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Runs in a worker."""
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        images = self.images[chosen]
        if self.shuffle_seed is not None:
            # self.rng belongs to this batch of this epoch, whoever builds it.
            distorted = [distort(image, self.rng) for image in images]
            images = np.stack(distorted, dtype=np.float32)
        return images[..., np.newaxis], self.labels[chosen]


def distort(image: NDArray[np.float32], rng: np.random.Generator) -> Any:
    """Turn, scale and move an image a little, as another hand would."""
    change = AffineTransform(
        rotation=rng.uniform(-0.15, 0.15),  # radians
        scale=rng.uniform(0.95, 1.05),
        translation=rng.uniform(-0.4, 0.4, size=2),  # pixels
    )
    return warp(image, CENTRE.inverse + change + CENTRE)


def build_model() -> Any:
    import keras
    from keras import layers

    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(3e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def train(choice: argparse.Namespace) -> None:
    # Here and not above: workers that do not fork import this file, and need neither.
    import keras
    from sklearn.datasets import load_digits

    keras.utils.set_random_seed(choice.seed)
    model = build_model()

    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32), digits.target
    shuffled = np.random.default_rng(0).permutation(len(images))

    def load(numbers: NDArray[np.int64], shuffle_seed: int | None = None) -> Loader:
        return Loader(
            Digits(images[numbers], labels[numbers], choice.batch_size, shuffle_seed),
            # What is not distorted takes no time to build.
            workers=0 if shuffle_seed is None else choice.workers,
            use_multiprocessing=not choice.threads,
            seed=choice.seed,
        )

    with (
        load(shuffled[538:], choice.seed) as training,
        load(shuffled[359:538]) as validation,
        load(shuffled[:359]) as test,
    ):
        model.fit(
            as_keras(training),
            epochs=choice.epochs,
            validation_data=as_keras(validation),
            shuffle=False,  # the dataset has an order for every epoch
            verbose=2,
        )
        _, accuracy = model.evaluate(as_keras(test), verbose=0)
        guesses = model.predict(as_keras(test), verbose=0).argmax(axis=1)
        stats = training.stats()

    pairs = zip(labels[shuffled[:359]], guesses, strict=True)
    said = ", ".join(
        f"a {label} for a {guess}" for label, guess in pairs if label != guess
    )
    weights = b"".join(weight.tobytes() for weight in model.get_weights())
    print(f"backend {keras.backend.backend()}")
    print(f"test accuracy {100 * accuracy:.1f} %  (took {said or 'none for another'})")
    print(f"weights {hashlib.sha256(weights).hexdigest()[:12]}")
    print(f"loader: {stats}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Train a small network with Keras.",
        usage=argparse.SUPPRESS,  # so that an error is one line
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--threads", action="store_true", help="workers are threads")
    kind.add_argument(
        "--processes", action="store_true", help="workers are processes (the default)"
    )
    for name, default in (
        ("workers", 2),
        ("epochs", 10),
        ("batch-size", 32),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N")
    choice = parser.parse_args()
    if min(choice.epochs, choice.batch_size, choice.workers + 1, choice.seed + 1) < 1:
        parser.error(
            "epochs and batch-size must be 1 or more, workers and seed 0 or more"
        )
    try:
        train(choice)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
