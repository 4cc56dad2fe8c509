"""Train a small convolutional network in plain JAX: a jit'd step, gradients, a loop.

    python examples/jax_cnn.py

The images are the 1,797 scanned digits that scikit-learn carries. Worker processes turn
and move them a little, anew in each epoch, right in the memory that JAX then computes on:
on a CPU, no batch is copied on its way from the worker to the network.

Needs JAX and: pip install feedline[examples]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from skimage.transform import AffineTransform, warp

from feedline import Loader, PyDataset, empty

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDE = 8  # pixels
CENTRE = AffineTransform(translation=((SIDE - 1) / 2, (SIDE - 1) / 2))


class Digits(PyDataset):
    """Batches of digits.

    Item ``i`` is ``(images, labels)``: float32 in [0, 1] of shape (batch, 8, 8, 1), and
    int32 of shape (batch,).

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
        labels: NDArray[np.int32],
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

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """Runs in a worker."""
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        images = empty((len(chosen), SIDE, SIDE, 1), np.float32)  # where JAX will read
        images[..., 0] = self.images[chosen]
        if self.shuffle_seed is not None:
            for image in images[..., 0]:
                # self.rng belongs to this batch of this epoch, whoever builds it.
                image[:] = distort(image, self.rng)
        return images, self.labels[chosen]


def distort(image: NDArray[np.float32], rng: np.random.Generator) -> Any:
    """Turn, scale and move an image a little, as another hand would."""
    change = AffineTransform(
        rotation=rng.uniform(-0.15, 0.15),  # radians
        scale=rng.uniform(0.95, 1.05),
        translation=rng.uniform(-0.4, 0.4, size=2),  # pixels
    )
    return warp(image, CENTRE.inverse + change + CENTRE)


# ---- the network: a dict of weights, and functions of it -----------------------------


def first_weights(key: Any) -> dict[str, Any]:
    shapes = {"near": (3, 3, 1, 32), "far": (3, 3, 32, 64), "dense": (256, 10)}
    weights: dict[str, Any] = {}
    for name, shape in shapes.items():
        key, mine = jax.random.split(key)
        spread = (2 / np.prod(shape[:-1])) ** 0.5
        weights[name] = spread * jax.random.normal(mine, shape)
        weights[f"{name} bias"] = jnp.zeros(shape[-1])
    return weights


def scores(weights: dict[str, Any], images: Any) -> Any:
    """Unscaled log probabilities, shape (batch, 10)."""
    for name in ("near", "far"):
        images = jax.lax.conv_general_dilated(
            images,
            weights[name],
            window_strides=(2, 2),
            padding="SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        images = jax.nn.relu(images + weights[f"{name} bias"])
    rows = images.reshape(len(images), -1)
    return rows @ weights["dense"] + weights["dense bias"]


def loss(weights: dict[str, Any], images: Any, labels: Any) -> Any:
    chances = jax.nn.log_softmax(scores(weights, images))
    return -jnp.take_along_axis(chances, labels[:, None], axis=1).mean()


@jax.jit
def step(weights: Any, speeds: Any, images: Any, labels: Any) -> tuple[Any, Any, Any]:
    """Learn from a batch: gradient descent with momentum."""
    value, slopes = jax.value_and_grad(loss)(weights, images, labels)
    speeds = jax.tree.map(lambda v, g: 0.9 * v + g, speeds, slopes)
    weights = jax.tree.map(lambda w, v: w - 0.03 * v, weights, speeds)
    return weights, speeds, value


@jax.jit
def count_right(weights: Any, images: Any, labels: Any) -> Any:
    return (scores(weights, images).argmax(axis=1) == labels).sum()


# ---- the loop ------------------------------------------------------------------------


def train(choice: argparse.Namespace) -> None:
    # Here and not above: the workers import this file, and need no scikit-learn.
    from sklearn.datasets import load_digits

    # JAX is in use from here on, so that worker processes start by forkserver.
    weights = first_weights(jax.random.key(choice.seed))
    speeds = jax.tree.map(jnp.zeros_like, weights)

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    labels = digits.target.astype(np.int32)  # JAX has no int64, unless it is told to
    shuffled = np.random.default_rng(0).permutation(len(images))

    def load(numbers: NDArray[np.int64], shuffle_seed: int | None = None) -> Loader:
        return Loader(
            Digits(images[numbers], labels[numbers], choice.batch_size, shuffle_seed),
            # What is not distorted takes no time to build.
            workers=0 if shuffle_seed is None else choice.workers,
            use_multiprocessing=not choice.threads,
            seed=choice.seed,
        )

    shared = 0
    with load(shuffled[359:], choice.seed) as loader:
        for epoch in range(1, choice.epochs + 1):
            losses = []
            for batch in loader:
                on_device = jax.device_put(batch)
                weights, speeds, value = step(weights, speeds, *on_device)
                losses.append(value)
                shared += on_device[0].unsafe_buffer_pointer() == batch[0].ctypes.data
            print(f"epoch {epoch}: loss {np.mean(losses):.4f}", flush=True)
        stats = loader.stats()
    with load(shuffled[:359]) as loader:
        right = sum(
            int(count_right(weights, *jax.device_put(batch))) for batch in loader
        )

    together = b"".join(np.asarray(w).tobytes() for w in jax.tree.leaves(weights))
    print(f"test accuracy {100 * right / 359:.1f} %  ({right} of 359)")
    print(f"weights {hashlib.sha256(together).hexdigest()[:12]}")
    print(f"images not copied for JAX: {shared} of {stats.batches} batches")
    print(f"loader: {stats}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Train a small network in plain JAX.",
        usage=argparse.SUPPRESS,  # so that an error is one line
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--threads", action="store_true", help="workers are threads")
    kind.add_argument(
        "--processes", action="store_true", help="workers are processes (the default)"
    )
    for name, default in (
        ("workers", 2),
        ("epochs", 12),
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


if __name__ == "__main__":  # worker processes import this file
    sys.exit(main())
