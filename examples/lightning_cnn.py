"""Train a small convolutional network with Lightning on scikit-learn's digits.

    python examples/lightning_cnn.py

Lightning's Trainer wants a DataLoader and gets one whose batches come from a Loader:
workers turn and move the images a little and join them to batches, while Lightning learns
from the batches before. The same seed gives the same weights with any number of workers,
threads or processes, and the same ones as the plain loop of pytorch_cnn.py.

Needs Lightning and scikit-learn: pip install lightning feedline[torch,examples]
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import torch
from scipy.ndimage import rotate, shift
from sklearn.datasets import load_digits
from torch import Tensor, nn

from feedline import Loader, from_samples, get_worker_info
from feedline.torch import as_dataloader
from feedline.utils import split_dataset

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Sample = tuple[NDArray[np.float32], np.int64]
    Batch = tuple[Tensor, Tensor]


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


class DigitsNet(lightning.LightningModule):  # type: ignore[misc]  # seen without types
    """A network, and what Lightning needs to train and to test it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
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

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Return the loss, from which Lightning makes the gradients."""
        x, y = batch
        loss = nn.functional.cross_entropy(self.model(x), y)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        """Say how the epoch went."""
        loss = self.trainer.callback_metrics["loss"]
        epoch, epochs = self.current_epoch + 1, self.trainer.max_epochs
        print(f"epoch {epoch}/{epochs}  loss {loss:.4f}", flush=True)

    def test_step(self, batch: Batch, index: int) -> None:
        """Count what is classified rightly."""
        x, y = batch
        right = (self.model(x).argmax(1) == y).sum()
        self.log("right", right.float(), reduce_fx="sum", on_epoch=True)

    def configure_optimizers(self) -> Any:
        """Steps that shrink with every epoch."""
        optimizer = torch.optim.Adam(self.model.parameters(), lr=5e-3)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.85)
        return [optimizer], [schedule]


def train(choice: argparse.Namespace) -> None:
    # The workers need the cores, and no sum may depend on how many threads shared it.
    torch.set_num_threads(1)
    torch.manual_seed(choice.seed)
    # It advises workers, because those of the loader are not where it looks for them.
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

    digits = load_digits()
    images = (digits.images[:, np.newaxis] / 16).astype(np.float32)
    training, test = split_dataset((images, digits.target), 0.8, shuffle=True, seed=0)

    module = DigitsNet()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=choice.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with (
        Loader(
            from_samples(Distorted(training), choice.batch_size, shuffle=True),
            workers=choice.workers,
            use_multiprocessing=not choice.threads,
            seed=choice.seed,
        ) as loader,
        Loader(from_samples(test, 256), workers=0) as test_loader,
    ):
        try:
            trainer.fit(module, as_dataloader(loader))
        except SystemExit as stopped:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from stopped
        stats = loader.stats()
        metrics = trainer.test(module, as_dataloader(test_loader), verbose=False)
    right = int(metrics[0]["right"])
    print(f"test accuracy {100 * right / len(test):.1f} %  ({right} of {len(test)})")
    weights = b"".join(w.numpy().tobytes() for w in module.state_dict().values())
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
        description="Train a small convolutional network with Lightning.",
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
