"""Train a small convolutional network in PyTorch on scikit-learn's digits.

    python examples/pytorch_cnn.py

The data set is a map-style one, as torch has them: a sample is an image and its label.
Workers turn and move the images a little and join them to batches, while a training loop
in plain PyTorch learns from the batches before. The same seed gives the same weights with
any number of workers, threads or processes.

Needs PyTorch and scikit-learn: pip install feedline[torch,examples]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.ndimage import rotate, shift
from sklearn.datasets import load_digits
from torch import nn

from feedline import Loader, from_samples, get_worker_info
from feedline.torch import tensors
from feedline.utils import split_dataset

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Sample = tuple[NDArray[np.float32], np.int64]


class Distorted:
    """Images and labels; each image is turned and moved anew when it is read."""

    def __init__(self, samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """Runs in a worker."""
        image, label = self.samples[index]
        info = get_worker_info()
        assert info is not None, "only a Loader reads it"
        angle = info.rng.uniform(-12, 12)  # degrees
        image = rotate(image, angle, axes=(1, 2), reshape=False)
        image = shift(image, (0, *info.rng.uniform(-0.7, 0.7, size=2)))
        return image, label


def make_model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 4 * 4, 10),
    )


def train(choice: argparse.Namespace) -> None:
    # The workers need the cores, and no sum may depend on how many threads shared it.
    torch.set_num_threads(1)
    torch.manual_seed(choice.seed)

    digits = load_digits()
    images = (digits.images[:, np.newaxis] / 16).astype(np.float32)
    training, test = split_dataset((images, digits.target), 0.8, shuffle=True, seed=0)

    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.85)

    batches = from_samples(Distorted(training), choice.batch_size, shuffle=True)
    with Loader(
        batches,
        workers=choice.workers,
        use_multiprocessing=not choice.threads,
        seed=choice.seed,
    ) as loader:
        for epoch in range(choice.epochs):
            total = 0.0
            for x, y in tensors(loader):
                loss = nn.functional.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(y)
            schedule.step()
            mean = total / len(training)
            print(f"epoch {epoch + 1}/{choice.epochs}  loss {mean:.4f}", flush=True)
        stats = loader.stats()

    model.eval()
    with torch.no_grad(), Loader(from_samples(test, 256), workers=0) as loader:
        right = sum(int((model(x).argmax(1) == y).sum()) for x, y in tensors(loader))
    print(f"test accuracy {100 * right / len(test):.1f} %  ({right} of {len(test)})")
    weights = b"".join(w.numpy().tobytes() for w in model.state_dict().values())
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
        description="Train a small convolutional network in PyTorch.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        usage=argparse.SUPPRESS,  # so that an error is one line
    )
    add = parser.add_argument
    add("--workers", type=at_least(0), default=2, help="0 reads between the steps")
    add("--epochs", type=at_least(1), default=12, help="how often to see each image")
    add("--batch-size", type=at_least(1), default=32, help="images in a step")
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
